"""Writes RLDS data sets as TensorFlow Datasets prepares the public one, for the reader's tests.

Raw RL-Unplugged examples go through TFDS's own `RluAtariCheckpointsOrdered` (all but its Beam
pipeline, which only passes them on) and TFDS's own writer; nothing of ours is used.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.rl_unplugged.rlu_atari_checkpoints_ordered import (
    RluAtariCheckpointsOrdered,
)

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.data.rlds.format import RLDS
from cql_atari.envs.atari import AtariEnv

GAME = "Breakout"
NAME = "rlu_atari_checkpoints_ordered"
BUILDER = object.__new__(RluAtariCheckpointsOrdered)  # its methods need no state, it a network


class Play(NamedTuple):
    """An episode as RL Unplugged records it: N observations, the last one after the last action.

    Attributes:
      frames: uint8 [N, 84, 84].
      actions: int64 [N], minimal set; the last is meaningless.
      rewards: float32 [N], clipped; the last is meaningless.
      terminal: whether the last frame is the terminal one.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminal: bool


@functools.cache
def real_play() -> tuple[Play, ...]:
    """Two whole games of Breakout, played at random in ALE, and 60 steps of a third."""
    env, rng = AtariEnv(GAME, seed=1, sticky=0.25), np.random.default_rng(1)
    actions = games.to_full_actions(GAME)
    return tuple(_play(env, rng, actions, longest) for longest in (10_000, 10_000, 60))


def _play(env: AtariEnv, rng: np.random.Generator, actions: np.ndarray, longest: int) -> Play:
    frames, taken, rewards, terminal = [env.reset()], [], [], False
    while not terminal and len(taken) < longest:
        taken.append(rng.integers(len(actions)))
        frame, reward, terminal, _ = env.step(int(actions[taken[-1]]))
        frames.append(frame.copy())
        rewards.append(np.clip(reward, -1, 1))
    return Play(
        np.array(frames), np.array([*taken, 3]), np.array([*rewards, 1], np.float32), terminal
    )


def fake_play(steps: int, terminal: bool = True, value: int = 1) -> Play:
    """Frames of one value each, counting up from `value`."""
    frames = np.zeros((steps + terminal, 84, 84), np.uint8)
    frames += np.arange(value, value + len(frames), dtype=np.uint8)[:, None, None]
    numbers = np.arange(len(frames))
    return Play(frames, numbers % 4, np.float32(numbers % 3 - 1), terminal)


def write_set(
    directory: Path, splits: dict[int, list[Play]], per_shard: int = 2, name: str = NAME
) -> Path:
    """Writes a data set's folder; returns it. Split K holds `splits[K]`."""
    folder = directory / name / f"{GAME}_run_1" / "1.1.0"
    raw = directory / "raw"
    folder.mkdir(parents=True)
    writer = tfds.core.SequentialWriter(info_of(folder, name), per_shard)
    writer.initialize_splits([f"checkpoint_{suffix:02d}" for suffix in splits])
    for suffix, plays in splits.items():
        with tf.io.TFRecordWriter(str(raw), "GZIP") as file:
            for number, play in enumerate(plays):
                file.write(_raw_example(play, suffix, number).SerializeToString())
        episodes = [episode for _, episode in BUILDER.generate_examples_one_file(raw)]
        writer.add_examples({f"checkpoint_{suffix:02d}": episodes})
    writer.close_all()
    return folder


def info_of(folder: Path, name: str = NAME) -> tfds.core.DatasetInfo:
    identity = tfds.core.DatasetIdentity(
        name=name,
        version=RluAtariCheckpointsOrdered.VERSION,
        data_dir=str(folder),
        module_name="elsewhere",
        config_name=f"{GAME}_run_1",
    )
    features = BUILDER.get_features_dict()
    return tfds.core.DatasetInfo(builder=identity, features=features, disable_shuffling=True)


def _raw_example(play: Play, suffix: int, number: int) -> tf.train.Example:
    def floats(values) -> tf.train.Feature:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    def integers(values) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    pngs = [tf.io.encode_png(frame[..., None]).numpy() for frame in play.frames]
    # In dm_env's way, a discount comes with the observation that it leads to.
    discounts = [1.0] * (len(pngs) - 1) + [0.0 if play.terminal else 1.0]
    features = {
        "checkpoint_idx": integers([suffix]),
        "episode_idx": integers([number]),
        "episode_return": floats([play.rewards[:-1].sum()]),
        "clipped_episode_return": floats([play.rewards[:-1].sum()]),
        "observations": tf.train.Feature(bytes_list=tf.train.BytesList(value=pngs)),
        "actions": integers(play.actions),
        "unclipped_rewards": floats(play.rewards),
        "clipped_rewards": floats(play.rewards),
        "discounts": floats(discounts),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


def shard_of(folder: Path, suffix: int = 0, index: int = 0) -> Path:
    return next(folder.glob(f"*-checkpoint_{suffix:02d}.tfrecord-{index:05d}*"))


def change_record(folder: Path, change, suffix: int = 0, index: int = 0) -> None:
    """Rewrites a shard, soundly, after `change(feature map)` of its first record."""
    path = shard_of(folder, suffix, index)
    first, *rest = [data.numpy() for data in tf.data.TFRecordDataset([str(path)])]
    example = tf.train.Example.FromString(first)
    change(example.features.feature)
    with tf.io.TFRecordWriter(str(path)) as file:
        for data in (example.SerializeToString(), *rest):
            file.write(data)


def check_error(folder: Path | str, *words: str) -> None:
    """Reading must raise a UserError that holds all these words."""
    with pytest.raises(UserError) as info:
        list(RLDS.read_episodes(folder, GAME))
    for word in words:
        assert word in str(info.value)
