"""Writes episodes as an RLDS data set of TensorFlow Datasets, split after split.

The features are the same as in TFDS's `rlu_atari_checkpoints_ordered`, the records are written by
TFDS's `SequentialWriter`: `tfds.builder_from_directory(folder)` loads it, and so does
`tfds.builder("rlu_atari_checkpoints_ordered/<Game>_run_<run>", data_dir=...)` for its 46 games.
What an `Episode` doesn't hold is filled in:

* The frame behind the end of a game was never recorded: the last frame stands there once more, in a
  last step (`is_last`, `is_terminal`) of action 0 and reward 0.
* An episode that was cut ends with its own last step, `is_last` without `is_terminal`; a fragment's
  first step lacks `is_first`.
* `episode_id` counts from 0 in each split, `checkpoint_id` is the suffix, `episode_return` the sum
  of the (clipped) rewards that the record holds, `discount` 1, and 0 from the step into the end on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cql_atari.core import games
from cql_atari.core.types import NUM_ACTIONS, Episode, Extent, UserError
from cql_atari.data.conversion import CONVERSION, Converted, read_conversion, to_text
from cql_atari.data.rlds.files import INFO, NAME, VERSION
from cql_atari.data.shared import total_reward
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
    folder: Path,
    partial: Path,
    *,
    game: str,
    run: int,
    suffix: int,
    episodes: Iterable[Episode],
    source: Mapping[str, Any],
    report: Callable[[int], None],
) -> list[Extent]:
    """Adds the split `checkpoint_<suffix>` to a data set; it is there whole or not at all.

    Memory: one episode. The split counts when `dataset_info.json` names it, which is replaced last.

    Args:
      folder: the data set's, of the version: one game's run. May hold other splits.
      partial: an empty folder on the same file system, for unfinished files.
      game: CamelCase name.
      run: number of the run.
      suffix: K.
      episodes: exhausted before anything shows in `folder`, so that what it raises prevents that.
      source: noted in `conversion.json`: fingerprints of what the split was made of.
      report: called with the number of steps written since it was last called.

    Returns:
      The episodes' extents.

    Raises:
      UserError: where there is no room, or a file can't be written.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    split = f"checkpoint_{suffix:02d}"
    extents: list[Extent] = []
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            writer = tfds.core.SequentialWriter(_info(partial, game, run), _EPISODES_PER_SHARD)
            writer.initialize_splits([split])
            examples = _examples(episodes, suffix, extents, pool, report)
            writer.add_examples({split: examples})  # takes them one by one
            writer.close_all()
        written = _info(partial, game, run)
        written.read_from_directory(str(partial))
        whole = _info(folder, game, run)
        if (folder / INFO).exists():
            whole.read_from_directory(str(folder))
        splits = {**whole.splits, split: written.splits[split]}
        for shard in partial.glob(f"{NAME}-{split}.*"):
            files.sync(shard)
            files.move(shard, folder / shard.name)
        whole.set_splits(tfds.core.SplitDict([splits[name] for name in sorted(splits)]))
        whole.write_to_directory(str(partial))
        noted = {**read_conversion(folder), suffix: Converted(source, extents)}
        (partial / CONVERSION).write_text(to_text(noted))
        for name in (CONVERSION, "features.json", INFO):
            files.sync(partial / name)
            files.move(partial / name, folder / name)
        return extents
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"can't write {folder} ({error}); free some space or give another folder."
        ) from error


def _info(folder: Path, game: str, run: int) -> Any:
    """A `tfds.core.DatasetInfo` that lives in a folder; nothing is read or written yet."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.rl_unplugged import atari_utils

    identity = tfds.core.DatasetIdentity(
        name=NAME,
        version=tfds.core.Version(VERSION),
        data_dir=str(folder),
        module_name=f"tensorflow_datasets.rl_unplugged.{NAME}.{NAME}",
        config_name=f"{game}_run_{run}",
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
    report: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    """What TFDS's features take of each episode; notes its extent."""
    for number, episode in enumerate(episodes):
        yield {
            "checkpoint_id": suffix,
            "episode_id": number,
            "episode_return": np.float32(episode.rewards.sum()),
            "steps": _steps(episode, pool),
        }
        steps = len(episode.frames)
        terminal, starts = bool(episode.terminal), bool(episode.starts)
        total = total_reward(episode.rewards, terminal, starts)
        extents.append(Extent(steps, terminal, starts, total))
        report(steps)


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
