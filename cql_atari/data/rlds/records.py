"""Parses a record of an RLDS data set; `reader.py` says how it becomes episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import cv2
import numpy as np

from cql_atari.core.types import FRAME_SHAPE, Episode, Extent, UserError
from cql_atari.data.shared import LONGEST, PADS, pieces, total_reward
from cql_atari.data.untrusted import FIX

_LONGEST = LONGEST + PADS  # steps; the .gz reader's fragments are no longer, so they pass uncut
# A PNG's start up to its depth (8 bits) and colour type (grey).
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"".join(n.to_bytes(4, "big") for n in FRAME_SHAPE)
_PNG += b"\x08\x00"


class Record(NamedTuple):
    """One stored episode; its frames are not yet checked.

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


def episodes_of(
    data: bytes,
    where: str,
    game: str,
    lookup: np.ndarray,
    pool: Executor,
    *,
    check: Callable[[list[Extent]], None] | None = None,
) -> Iterator[Episode]:
    """The episode of a record, or the fragments of a very long one.

    Args:
      data: the record.
      where: names it in errors.
      game: CamelCase name.
      lookup: minimal -> full actions.
      pool: decodes the frames.
      check: called with the extents; raises if they differ from those in `conversion.json`.

    Raises:
      UserError: where it is no episode of the game.
    """
    record = parse(data, where, len(lookup))
    extents, first = extents_of(record), 0
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


def extents_of(record: Record) -> list[Extent]:
    """The extents of the episodes that a record is read as; of a very long one its fragments."""
    steps = len(record.frames) - record.terminal
    extents = []
    for start, stop in pieces([0, steps], _LONGEST):
        terminal, starts = record.terminal and stop == steps, record.starts and start == 0
        total = total_reward(record.rewards[start:stop], terminal, starts)
        extents.append(Extent(stop - start, terminal, starts, total))
    return extents


def parse(data: bytes, where: str, num_actions: int) -> Record:
    """Takes a serialised `tf.train.Example` apart and checks all of it except the frames."""
    import tensorflow as tf

    try:
        features = tf.train.Example.FromString(data).features.feature
    except Exception as error:  # whatever bytes of something else make the parser raise
        raise UserError(f"{where} is no tf.train.Example. {FIX}") from error

    def column(name: str, kind: str) -> Any:
        feature = features.get(name)
        if feature is None or feature.WhichOneof("kind") != kind:
            raise UserError(f"{where} has no {kind} {name!r}: no episode of rlu_atari. {FIX}")
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
        raise UserError(f"{where} has columns of {lengths} steps; expected equal ones. {FIX}")

    def check(wrong: np.ndarray, name: str, values: np.ndarray, expected: str) -> None:
        if wrong.any():
            step = int(wrong.argmax())
            raise UserError(
                f"{where}: {name} of step {step} is {values[step]} ({wrong.sum()} such); "
                f"expected {expected}. {FIX}"
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
    return Record(frames, actions, rewards, bool(terminal[-1]), bool(first[0]))


def _decode(files: Sequence[bytes], where: str, pool: Executor) -> np.ndarray:
    """The frames of PNG files, uint8 [T, 84, 84]."""
    for step, png in enumerate(files):
        if not png.startswith(_PNG):  # before anything is allocated
            raise UserError(f"{where}: frame {step} is no 8-bit grey PNG of 84 x 84. {FIX}")
    frames = np.empty((len(files), *FRAME_SHAPE), np.uint8)

    def decode(steps: range) -> None:
        for step in steps:
            image = cv2.imdecode(np.frombuffer(files[step], np.uint8), cv2.IMREAD_GRAYSCALE)
            if image is None:
                raise UserError(f"{where}: frame {step} is a damaged PNG. {FIX}")
            frames[step] = image

    middle = len(files) // 2
    list(pool.map(decode, (range(middle), range(middle, len(files)))))
    return frames
