"""Masked autoencoding (He et al. 2022) of states, on a feature map; see `networks.decoder`.

It pre-trains an encoder and does not act.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from cql_atari.core.settings import Config
from cql_atari.core.types import STACK, Array, Batch
from cql_atari.methods import augmentation, shared
from cql_atari.methods.method import Learner, Method, Transitions
from cql_atari.networks.decoder import MaskedAutoencoder, Reconstruction

_SHOWN = 8  # states in the picture
_GREY = 0.5  # of hidden cells in it


def make(config: Config) -> Method:
    """The masked autoencoder of a configuration; errors as the network's."""
    network = MaskedAutoencoder(config.network, config.masked_autoencoder, config.train.seed)
    reads = Transitions(config.feed.n_step, config.feed.discount)

    def learner() -> Learner:
        groups = shared.make_parameter_groups(config, network)
        augment = augmentation.augmenter(config, groups[0])

        def loss(batch: Batch) -> dict[str, tf.Tensor]:
            frames = augment(batch.frames[:, :STACK], 0)
            seed = shared.random_seed(config, groups[0], salt=100)
            noise = tf.random.stateless_uniform([frames.shape[0], network.cells], seed)
            return losses(network(frames, noise), frames)

        return shared.make_learner(config, network, groups, loss)

    @tf.function(autograph=False, reduce_retracing=False)
    def reconstruct(frames: tf.Tensor) -> Reconstruction:
        noise = tf.random.stateless_uniform([frames.shape[0], network.cells], [0, 0])
        return network(frames, noise)

    def pictures(batch: Batch) -> dict[str, Array]:
        spread = np.linspace(0, len(batch.frames) - 1, _SHOWN).astype(int)
        frames = tf.gather(batch.frames, spread)[:, :STACK]
        return {"reconstructions": picture(frames.numpy(), reconstruct(frames))}

    return Method(reads, network, None, learner, pictures=pictures)


def losses(reconstruction: Reconstruction, frames: tf.Tensor) -> dict[str, tf.Tensor]:
    """Mean squared errors of pixels in [0, 1], each float32 [B].

    Args:
      reconstruction: of the frames.
      frames: uint8 [B, 4, 84, 84].

    Returns:
      "loss/total" over all pixels, "error/hidden" over the pixels of hidden cells and
      "error/visible" over the others.
    """
    squares = tf.square(reconstruction.pixels - tf.cast(frames, tf.float32) / 255)
    by_pixel = tf.reduce_mean(squares, axis=1)

    def over(weights: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(by_pixel * weights, [1, 2]) / tf.reduce_sum(weights, [1, 2])

    return {
        "loss/total": tf.reduce_mean(by_pixel, [1, 2]),
        "error/hidden": over(reconstruction.hidden),
        "error/visible": over(1 - reconstruction.hidden),
    }


def picture(frames: np.ndarray, reconstruction: Reconstruction) -> np.ndarray:
    """A picture in three rows: the newest frames, their visible parts, and the reconstructions.

    Args:
      frames: uint8 [B, 4, 84, 84].
      reconstruction: of the same frames.

    Returns:
      uint8 [3 * 84, B * 84, 1].
    """
    originals = frames[:, -1].astype(np.float32) / 255
    hidden = reconstruction.hidden.numpy()
    rows = (
        originals,
        originals * (1 - hidden) + _GREY * hidden,
        np.clip(reconstruction.pixels.numpy()[:, -1], 0, 1),
    )
    whole = np.vstack([np.hstack(list(row)) for row in rows])
    return np.round(whole * 255).astype(np.uint8)[..., None]
