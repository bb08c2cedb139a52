"""Writes episodes as an RLDS data set of TensorFlow Datasets, split after split.

The features are the same as in TFDS's `rlu_atari_checkpoints_ordered`, the records are written by
TFDS's `SequentialWriter`: `tfds.builder_from_directory(folder)` loads it, and so does
`tfds.builder("rlu_atari_checkpoints_ordered/<Game>_run_<run>", data_dir=...)` for its 46 games.
What an `Episode` doesn't hold is filled in:

* The frame after the end of a game was never recorded: the last frame is repeated, in a last step
  (`is_last`, `is_terminal`) of action 0 and reward 0.
* An episode that was cut ends with its own last step, `is_last` without `is_terminal`; a fragment's
  first step lacks `is_first`.
* `episode_id` counts from 0 in each split, `checkpoint_id` is the suffix, `episode_return` the sum
  of the (clipped) rewards that the record holds, `discount` 1, and 0 from the step into the end on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cql_atari.core import games
from cql_atari.core.types import NUM_ACTIONS, Episode, Extent
from cql_atari.data.conversion import (
    CONVERSION,
    Converted,
    partial_folder,
    read_conversion,
    to_text,
)
from cql_atari.data.format import Target
from cql_atari.data.rlds.files import INFO, NAME, VERSION
from cql_atari.data.shared import Report, extent_of
from cql_atari.system import files

_EPISODES_PER_SHARD = 250  # of a million steps that is 50 to 250 MB a file
_PNG_LEVEL = 6  # 11 % smaller files than at level 3, and as TensorFlow's; 30 % slower
_THREADS = 2  # that encode frames
_DESCRIPTION = (
    "Recorded play, in the form of DQN-Replay (Agarwal et al., 2020), converted by cql_atari. An "
    "episode that the "
    "source's files cut is cut here: the part behind has no is_first. The terminal observation "
    "isn't in the files: the last one is repeated. Rewards are clipped."
)


def write_split(
    target: Target, episodes: Iterable[Episode], source: Mapping[str, Any], report: Report
) -> list[Extent]:
    """Adds the split `checkpoint_<suffix>` to a run's data set, see `format.Writing`.

    The split counts when `dataset_info.json` names it, which is replaced last.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    folder, split = target.folder, f"checkpoint_{target.suffix:02d}"
    extents: list[Extent] = []
    with partial_folder(folder) as partial:
        try:
            with ThreadPoolExecutor(_THREADS) as pool:
                writer = tfds.core.SequentialWriter(_info(partial, target), _EPISODES_PER_SHARD)
                writer.initialize_splits([split])
                examples = _examples(episodes, target.suffix, extents, pool, report)
                writer.add_examples({split: examples})  # takes them one by one
                writer.close_all()
            written = _info(partial, target)
            written.read_from_directory(str(partial))
            whole = _info(folder, target)
            if (folder / INFO).exists():
                whole.read_from_directory(str(folder))
            splits = {**whole.splits, split: written.splits[split]}
            for shard in partial.glob(f"{NAME}-{split}.*"):
                files.sync(shard)
                files.move(shard, folder / shard.name)
            whole.set_splits(tfds.core.SplitDict([splits[name] for name in sorted(splits)]))
            whole.write_to_directory(str(partial))
        except tf.errors.OpError as error:
            raise OSError(str(error)) from error
        noted = {**read_conversion(folder), target.suffix: Converted(source, extents)}
        (partial / CONVERSION).write_text(to_text(noted))
        for name in (CONVERSION, "features.json", INFO):
            files.sync(partial / name)
            files.move(partial / name, folder / name)
    return extents


def _info(folder: Path, target: Target) -> Any:
    """A `tfds.core.DatasetInfo` that lives in a folder; nothing is read or written yet."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.rl_unplugged import atari_utils

    identity = tfds.core.DatasetIdentity(
        name=NAME,
        version=tfds.core.Version(VERSION),
        data_dir=str(folder),
        module_name=f"tensorflow_datasets.rl_unplugged.{NAME}.{NAME}",
        config_name=f"{target.game}_run_{target.run}",
    )
    return tfds.core.DatasetInfo(
        builder=identity,
        description=_DESCRIPTION,
        features=atari_utils.features_dict(),
        citation=atari_utils.citation(),
        homepage="https://research.google/tools/datasets/dqn-replay/",
        disable_shuffling=True,
    )


def _examples(
    episodes: Iterable[Episode],
    suffix: int,
    extents: list[Extent],
    pool: Executor,
    report: Report,
) -> Iterator[dict[str, Any]]:
    """What TFDS's features take of each episode; notes its extent."""
    for number, episode in enumerate(episodes):
        yield {
            "checkpoint_id": suffix,
            "episode_id": number,
            "episode_return": np.float32(episode.rewards.sum()),
            "steps": _steps(episode, pool),
        }
        extents.append(extent_of(episode))
        report(extents[-1].steps)


def _steps(episode: Episode, pool: Executor) -> dict[str, Any]:
    """The columns of an episode, with a step more where the game ended."""
    index = np.zeros(NUM_ACTIONS, np.int64)
    index[games.to_full_actions(episode.game)] = np.arange(len(games.spec(episode.game).actions))
    extra = (0, int(episode.terminal))
    frames = list(pool.map(_encode, episode.frames))
    steps = np.arange(len(frames) + episode.terminal)
    return {
        "observation": frames + frames[-1:] * extra[1],
        "action": np.pad(index[episode.actions], extra),
        "reward": np.pad(episode.rewards, extra),
        "discount": np.float32(1 - (episode.terminal & (steps >= steps[-1] - 1))),
        "is_first": (steps == 0) & episode.starts,
        "is_last": steps == steps[-1],
        "is_terminal": (steps == steps[-1]) & episode.terminal,
    }


def _encode(frame: np.ndarray) -> bytes:
    """A PNG file; TFDS's image feature takes it as it is."""
    return cv2.imencode(".png", frame, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL])[1].tobytes()
