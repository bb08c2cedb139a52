"""Reads DQN-Replay as RLDS, prepared by TensorFlow Datasets (4.9.10), as episodes, streaming.

A data set is the folder `<dir>/rlu_atari_checkpoints_ordered/<Game>_run_<run>/<version>` (or
`rlu_atari_checkpoints/...`), local or at a `gs://` address: `dataset_info.json` names the splits
`checkpoint_KK` (suffix K) and the lengths of their TFRecord shards; a record is an episode. Records
come in the files' order, which is that of time in `rlu_atari_checkpoints_ordered` only. How a
record becomes an `Episode`:

* RLDS defines only the last step's observation (`is_last`), not its action and reward. If that step
  is terminal, its frame is the one after the game's end, which `Episode` doesn't hold: the step is
  dropped. If not (the recording was cut), the frame stays as the successor of the step before; its
  action and reward are set to 0, and no transition uses them.
* An episode starts at the game's start unless `is_first` says otherwise (`tools.convert` marks
  so the fragments at the edges of `.gz` files; TensorFlow Datasets marks every first step). Each
  record stands for itself: were a game cut between two splits, its parts would not be joined.
* A record of a single, terminal step has no transition and is passed over.

A folder that `tools.convert` made holds `conversion.json` too, with its episodes' extents.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np

from cql_atari.core import games
from cql_atari.core.types import FRAME_SHAPE, Episode, Extent, UserError
from cql_atari.data import conversion
from cql_atari.data.format import LONGEST, PADS, LeftOut, PathLike, pieces, total_reward
from cql_atari.data.remote_file import MEND
from cql_atari.data.rlds.files import (
    choose_shards,
    fingerprints,
    keep,
    kept_records,
    list_suffixes,
)

__all__ = ["count", "fingerprints", "list_suffixes", "read_episodes", "survey"]

_LONGEST = LONGEST + PADS  # steps; the .gz reader's fragments are no longer, so they pass uncut
# A PNG's start up to its depth (8 bits) and colour type (grey).
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"".join(n.to_bytes(4, "big") for n in FRAME_SHAPE)
_PNG += b"\x08\x00"
_THREADS = 2  # that decode frames


class _Record(NamedTuple):
    """One stored episode, checked but for its frames.

    Attributes:
      frames: PNG files, one a step.
      actions: int64 [steps], indices into the game's minimal set.
      rewards: float32 [steps].
      terminal: whether the last step is behind the end of the game.
      starts: whether the first step is its start.
    """

    frames: list[bytes]
    actions: np.ndarray
    rewards: np.ndarray
    terminal: bool
    starts: bool


def read_episodes(
    path: PathLike,
    game: str,
    suffixes: Sequence[int] | None = None,
    *,
    fraction: float = 1.0,
    left_out: LeftOut | None = None,
) -> Iterator[Episode]:
    """Streams the episodes of one game's run in the files' order, split after split.

    Memory: one record and one episode (at most 27,003 steps = 191 MB; a longer one is cut there and
    goes on as a fragment) beside those that the caller holds; never a whole shard.

    Args:
      path: the data set's folder or address, version included.
      game: CamelCase name; its minimal action set maps stored actions to the full 18.
      suffixes: K of the splits to read, in this order; all, in numerical order, if None.
      fraction: the share of each split's episodes, from its first on (0 < fraction <= 1).
      left_out: of each split, the positions of episodes to pass over unread, each [start, stop).

    Returns:
      An iterator over episodes. `dataset_info.json`, the game and the suffixes are checked at
      once, the rest when reached.

    Raises:
      UserError: naming file and record: a missing or damaged file; one that holds another number
        of records; a record that is no episode of the game; a reward that is NaN or outside
        [-1, 1]; an action outside the game's set; a frame that isn't an 8-bit grey PNG of 84 x 84;
        an episode of which `conversion.json` says something else.
    """
    lookup = games.to_full_actions(game)
    splits = choose_shards(path, game, suffixes)

    def stream() -> Iterator[Episode]:
        with ThreadPoolExecutor(_THREADS) as pool:
            for suffix, shards in splits.items():
                kept = keep(shards, fraction, (left_out or {}).get(suffix, ()))
                noted = conversion.noted_extents(path, suffix, len(kept))
                for position, where, data in kept_records(shards, kept):
                    check = functools.partial(
                        conversion.check_extents, path, where, noted[position]
                    ) if noted else None  # fmt: skip
                    yield from episodes_of(data, where, game, lookup, pool, check=check)

    return stream()


def survey(
    path: PathLike,
    game: str,
    suffix: int,
    *,
    fraction: float = 1.0,
    left_out: LeftOut | None = None,
) -> list[Extent] | None:
    """The extents of the episodes that `read_episodes` yields of one split, without reading it.

    Milliseconds where `conversion.json` has them; None where it doesn't (`count` reads the split).
    Arguments as `read_episodes`'.

    Raises:
      UserError: as `read_episodes`, as far as the JSON files tell.
    """
    shards = choose_shards(path, game, [suffix])[suffix]
    kept = keep(shards, fraction, (left_out or {}).get(suffix, ()))
    noted = conversion.noted_extents(path, suffix, len(kept))
    return None if noted is None else [*itertools.compress(noted, kept)]


def count(
    path: PathLike,
    game: str,
    suffix: int,
    *,
    fraction: float = 1.0,
    left_out: LeftOut | None = None,
) -> list[Extent]:
    """The extents of the episodes that `read_episodes` yields of one split, by reading it.

    Checks everything but the frames, which aren't decoded. Arguments and errors as
    `read_episodes`'.
    """
    num_actions = len(games.to_full_actions(game))
    shards = choose_shards(path, game, [suffix])[suffix]
    kept = keep(shards, fraction, (left_out or {}).get(suffix, ()))
    return [
        extent
        for _, where, data in kept_records(shards, kept)
        for extent in _extents(_parse(data, where, num_actions))
    ]


def episodes_of(
    data: bytes,
    where: str,
    game: str,
    lookup: np.ndarray,
    pool: Executor,
    *,
    check: Callable[[list[Extent]], None] | None = None,
) -> Iterator[Episode]:
    """What a record is read as: its episode, or fragments of a very long one.

    Args:
      data: the record.
      where: names it in errors.
      game: CamelCase name.
      lookup: minimal -> full actions.
      pool: decodes the frames.
      check: raises where the extents aren't those that are noted elsewhere.

    Raises:
      UserError: as `read_episodes`, of one record.
    """
    record = _parse(data, where, len(lookup))
    extents, first = _extents(record), 0
    if check is not None:
        check(extents)
    for extent in extents:
        here = slice(first, first + extent.steps)
        yield Episode(
            game=game,
            frames=_decode(record.frames[here], where, pool),
            actions=lookup[record.actions[here]],
            rewards=record.rewards[here],
            terminal=extent.terminal,
            starts=extent.starts,
        )
        first += extent.steps


def _extents(record: _Record) -> list[Extent]:
    """What a record is read as: one episode, or the fragments of a very long one."""
    steps = len(record.frames) - record.terminal
    extents = []
    for start, stop in pieces([0, steps], _LONGEST):
        terminal, starts = record.terminal and stop == steps, record.starts and start == 0
        total = total_reward(record.rewards[start:stop], terminal, starts)
        extents.append(Extent(stop - start, terminal, starts, total))
    return extents


def _parse(data: bytes, where: str, num_actions: int) -> _Record:
    """Takes a serialised `tf.train.Example` apart and checks it, save for the frames."""
    import tensorflow as tf

    try:
        features = tf.train.Example.FromString(data).features.feature
    except Exception as error:  # whatever bytes of something else make the parser raise
        raise UserError(f"{where} is no tf.train.Example. {MEND}") from error

    def column(name: str, kind: str) -> Any:
        feature = features.get(name)
        if feature is None or feature.WhichOneof("kind") != kind:
            raise UserError(f"{where} has no {kind} {name!r}: no episode of rlu_atari. {MEND}")
        return getattr(feature, kind).value

    frames = list(column("steps/observation", "bytes_list"))
    actions = np.array(column("steps/action", "int64_list"), np.int64)
    rewards = np.array(column("steps/reward", "float_list"), np.float32)
    first, last, terminal = (
        np.array(column(f"steps/{name}", "int64_list"), bool)
        for name in ("is_first", "is_last", "is_terminal")
    )
    columns: list[np.ndarray] = [actions, rewards, first, last, terminal]
    if not frames or any(len(values) != len(frames) for values in columns):
        lengths = [len(frames), *(len(values) for values in columns)]
        raise UserError(f"{where} has columns of {lengths} steps; expected equal ones. {MEND}")

    def check(wrong: np.ndarray, name: str, values: np.ndarray, expected: str) -> None:
        if wrong.any():
            step = int(wrong.argmax())
            raise UserError(
                f"{where}: {name} of step {step} is {values[step]} ({wrong.sum()} such); "
                f"expected {expected}. {MEND}"
            )

    steps = np.arange(len(frames))
    inner = steps < steps[-1]
    check(last == inner, "is_last", last, "True for the last step only")
    check(first & (steps > 0), "is_first", first, "True for the first step only")
    check(terminal & inner, "is_terminal", terminal, "True for the last step only")
    actions[-1], rewards[-1] = 0, 0.0  # not defined there
    expected = f"an index into the game's minimal set, 0 to {num_actions - 1}"
    check((actions < 0) | (actions >= num_actions), "action", actions, expected)
    check(~(np.abs(rewards) <= 1), "reward", rewards, "a clipped reward in [-1, 1]")
    return _Record(frames, actions, rewards, bool(terminal[-1]), bool(first[0]))


def _decode(files: Sequence[bytes], where: str, pool: Executor) -> np.ndarray:
    """The frames of PNG files, uint8 [T, 84, 84]."""
    for step, png in enumerate(files):
        if not png.startswith(_PNG):  # before anything is allocated
            raise UserError(f"{where}: frame {step} is no 8-bit grey PNG of 84 x 84. {MEND}")
    frames = np.empty((len(files), *FRAME_SHAPE), np.uint8)

    def decode(steps: range) -> None:
        for step in steps:
            image = cv2.imdecode(np.frombuffer(files[step], np.uint8), cv2.IMREAD_GRAYSCALE)
            if image is None:
                raise UserError(f"{where}: frame {step} is a damaged PNG. {MEND}")
            frames[step] = image

    middle = len(files) // 2
    list(pool.map(decode, (range(middle), range(middle, len(files)))))
    return frames
