"""Random shift and intensity of frames, as a function of a seed: any method may use it."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from cql_atari.core.settings import Config
from cql_atari.methods import shared
from cql_atari.methods.method import ParameterGroup


def augmenter(config: Config, group: ParameterGroup) -> Callable[[tf.Tensor, int], tf.Tensor]:
    """A function (frames uint8 [B, C, H, W], salt) -> frames, changed as `augmentation` says.

    The changes differ between steps, replicas and salts; a resumed run makes the same ones as an
    uninterrupted run. Where the settings are 0 the frames stay as they are.

    Args:
      config: the run's.
      group: its optimizer counts the steps.
    """
    chosen = config.augmentation

    def augment(frames: tf.Tensor, salt: int) -> tf.Tensor:
        if chosen.shift:
            frames = shift(frames, shared.random_seed(config, group, 1_000 + salt), chosen.shift)
        if chosen.intensity:
            seed = shared.random_seed(config, group, 2_000 + salt)
            frames = intensity(frames, seed, chosen.intensity)
        return frames

    return augment


def shift(frames: tf.Tensor, seed: tf.Tensor, pixels: int) -> tf.Tensor:
    """Moves each row's frames by up to `pixels` up or down and left or right (Kostrikov et al.
    2021), all frames of a row alike; the border is repeated.

    Args:
      frames: uint8 [B, C, H, W].
      seed: integers [2].
      pixels: the farthest.

    Returns:
      uint8 [B, C, H, W].
    """
    batch, channels, height, width = frames.shape
    offsets = tf.random.stateless_uniform([2, batch, 1], seed, -pixels, pixels + 1, tf.int32)
    rows = tf.clip_by_value(tf.range(height) + offsets[0], 0, height - 1)
    columns = tf.clip_by_value(tf.range(width) + offsets[1], 0, width - 1)
    moved = tf.gather(frames, rows, axis=2, batch_dims=1)
    # Columns are gathered as rows: a gather of single bytes is three times as slow.
    moved = tf.transpose(tf.reshape(moved, [batch, channels * height, width]), [0, 2, 1])
    moved = tf.transpose(tf.gather(moved, columns, axis=1, batch_dims=1), [0, 2, 1])
    return tf.reshape(moved, [batch, channels, height, width])


def intensity(frames: tf.Tensor, seed: tf.Tensor, scale: float) -> tf.Tensor:
    """Multiplies each row's frames by 1 + scale z, z normal and cut at -2 and 2 (Schwarzer et al.
    2021), rounded to whole grey levels.

    Args:
      frames: uint8 [B, C, H, W].
      seed: integers [2].
      scale: one standard deviation.

    Returns:
      uint8 [B, C, H, W].
    """
    z = tf.clip_by_value(tf.random.stateless_normal([frames.shape[0], 1, 1, 1], seed), -2.0, 2.0)
    scaled = tf.round(tf.cast(frames, tf.float32) * (1 + scale * z))
    return tf.cast(tf.clip_by_value(scaled, 0.0, 255.0), tf.uint8)
