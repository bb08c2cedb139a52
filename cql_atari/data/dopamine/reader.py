"""Reads DQN-Replay logs (Dopamine's `.gz` replay files) as episodes, streaming.

One suffix K of `<data_dir>/<Game>/<run>/replay_logs/` is a group of six files, each gzip over a
NumPy `.npy` stream, that hold one state of Dopamine's ring buffer of N slots (N = 1,000,000):

    $store$_observation_ckpt.K.gz  uint8 [N, 84, 84]   $store$_action_ckpt.K.gz    int32 [N]
    $store$_reward_ckpt.K.gz       float32 [N]         $store$_terminal_ckpt.K.gz  uint8 [N]
    add_count_ckpt.K.gz            0-d integer         invalid_range_ckpt.K.gz     small [M]

and, from later Dopamine versions, `episode_end_indices_ckpt.K.gz`, a pickled set of the slots where
an episode ended, with a terminal or without. How a group becomes episodes:

* Valid slots are [0, cursor), cursor = add_count mod N; all N where a lap has just been completed.
  DQN-Replay's collector saves at cursor N - 1 and goes on, so the last slot of a full file is stale
  (uninitialised in the first file, then the entry that belongs between the previous file and this
  one): it may hold anything and is dropped. A last, partial file's slots from the cursor on are
  dropped, too: the previous file holds them already.
* After each end Dopamine writes three all-zero entries before the next episode's first step; they
  are checked and stripped. At a file's start up to three such entries are stripped, too; fewer may
  be there, as the others lie at the previous file's end. If there is none, the file's first episode
  counts as a fragment (`starts=False`), which loses its first three states. A fragment that begins
  with black frames, no-ops and no reward looks the same; its stacks are zeros there either way.
* An episode is cut at a file's end (`terminal=False`) and goes on as a fragment in the next file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import FRAME_SHAPE, Episode, Extent, UserError
from cql_atari.data.dopamine.files import Columns, find_inner_padding, open_group, read_columns
from cql_atari.data.shared import (
    LONGEST,
    PADS,
    PathLike,
    Ranges,
    kept_ranges,
    total_reward,
)
from cql_atari.data.untrusted import FIX, GzipArray


def read_suffix(
    replay_logs_dir: PathLike, game: str, suffix: int, fraction: float = 1.0, gaps: Ranges = ()
) -> Iterator[Episode]:
    """Streams the episodes of one suffix in the file's order.

    Memory: one episode (at most 27,000 steps = 191 MB; a longer one is cut there and continues as
    a fragment) beside those that the caller holds, the suffix's actions, rewards and terminals
    (9 MB for a million slots) and 5 MB of buffers; never a whole observation file.

    A checksum comes at the end of a file, so damage to frames shows only when the file has been
    read to its end: episodes yielded before may be wrong. Whoever needs all or nothing must exhaust
    the iterator before using any episode. Files aren't checked beyond the last slot that `fraction`
    and `gaps` select.

    Args:
      replay_logs_dir: the directory that holds the files of one game and run.
      game: CamelCase name; its minimal action set maps stored actions to the full 18.
      suffix: K of the file group.
      fraction: the share of the valid slots, from the first one on (0 < fraction <= 1).
      gaps: slots to pass over unchecked. An episode is cut where a gap begins; what comes after the
        gap goes on as a fragment.

    Raises:
      UserError: naming the file, for a missing directory or file; anything but a regular
        file; a file that is damaged, cut, or goes on after its array; another dtype, shape or
        length; an action outside the game's set, a reward that is NaN or outside [-1, 1],
        a terminal other than 0 and 1; missing padding; a count that `invalid_range` contradicts; no
        end of an episode where there must be one.
    """
    lookup = games.to_full_actions(game)
    position = 0

    def read(span: _Span) -> Episode | None:
        nonlocal position
        frames = _read_frames(observations, span.start - position, span.stop - span.start)
        position = span.stop
        pads = _count_pads(frames, columns, span)
        if span.follows_end and pads < min(span.pads, len(frames)):
            raise UserError(
                f"{observations.path}: entry {span.start + pads} is a step; expected "
                f"{span.pads} all-zero entries from {span.start} on, after an episode's end. "
                f"{FIX}"
            )
        if pads == len(frames):
            return None
        if not len(columns.ends):
            _check_no_padding(frames[pads:], columns, span.start + pads, observations)
        here = slice(span.start + pads, span.stop)
        return Episode(
            game=game,
            frames=frames[pads:],
            actions=lookup[columns.actions[here]],
            rewards=columns.rewards[here].astype(np.float32),
            terminal=bool(columns.terminals[span.stop - 1]),
            starts=pads > 0,
        )

    with open_group(Path(replay_logs_dir), suffix) as group:
        observations, kept = group.observations, kept_ranges(group.valid, fraction, gaps)
        columns = read_columns(group, kept, len(lookup))
        # Not a loop: its variable would keep an episode alive while the next is read.
        yield from filter(None, map(read, _spans(columns.ends, kept)))
        if position == group.valid:
            observations.finish(observations.shape[0] - group.valid)


def survey(
    replay_logs_dir: PathLike, game: str, suffix: int, fraction: float = 1.0, gaps: Ranges = ()
) -> list[Extent]:
    """The extents of the episodes that `read_suffix` yields, without their frames.

    Some 10 ms for a million slots. For arguments and errors see `read_suffix`.
    """
    num_actions = len(games.to_full_actions(game))
    extents, position = [], 0
    with open_group(Path(replay_logs_dir), suffix) as group:
        kept = kept_ranges(group.valid, fraction, gaps)
        columns = read_columns(group, kept, num_actions)
        for span in _spans(columns.ends, kept):
            length = span.stop - span.start
            pads = min(span.pads, length)
            if pads and not span.follows_end:
                frames = _read_frames(group.observations, span.start - position, pads)
                position = span.start + pads
                pads = _count_pads(frames, columns, span)
            if pads < length:
                terminal, starts = bool(columns.terminals[span.stop - 1]), pads > 0
                rewards = columns.rewards[span.start + pads : span.stop]
                total = total_reward(rewards, terminal, starts)
                extents.append(Extent(length - pads, terminal, starts, total))
    return extents


def _check_no_padding(
    frames: np.ndarray, columns: Columns, start: int, observations: GzipArray
) -> None:
    """Refuses what looks like several episodes where no end is marked."""
    zero = ~frames.any(axis=(1, 2))
    for values in columns[:3]:
        zero &= values[start : start + len(frames)] == 0
    if (found := find_inner_padding(zero)).size:
        raise UserError(
            f"{observations.path}: entry {start + found[0]} begins the padding between two "
            f"episodes, but no terminal of the file is set. {FIX}"
        )


def _read_frames(observations: GzipArray, skip: int, count: int) -> np.ndarray:
    """The `count` frames after the next `skip`, uint8 [count, 84, 84]."""
    passed = np.empty(FRAME_SHAPE, np.uint8)
    for _ in range(skip):
        observations.read_into(passed)
    frames = np.empty((count, *FRAME_SHAPE), np.uint8)
    observations.read_into(frames)
    return frames


class _Span(NamedTuple):
    """Slots [start, stop) that lie in one episode, its padding included.

    Attributes:
      start, stop: slots.
      pads: all-zero entries that may open it.
      follows_end: whether an end goes before in the same file, so that all of them must be there.
    """

    start: int
    stop: int
    pads: int
    follows_end: bool


def _spans(ends: np.ndarray, kept: Ranges) -> Iterator[_Span]:
    """Cuts the kept slots after each end, and where an episode grows too long for memory."""
    start, last = 0, kept[-1][1] if kept else 0
    for stop in [*(ends[ends < last] + 1).tolist(), last]:
        for first in range(start, stop, PADS + LONGEST):
            for low, high in kept:
                begin, end = max(first, low), min(first + PADS + LONGEST, stop, high)
                if begin < end:
                    yield _Span(begin, end, max(PADS - (begin - start), 0), start > 0)
        start = stop


def _count_pads(frames: np.ndarray, columns: Columns, span: _Span) -> int:
    """How many all-zero entries open the span."""
    pads, most = 0, min(span.pads, len(frames))
    while (
        pads < most
        and not frames[pads].any()
        and not any(array[span.start + pads] for array in columns[:3])
    ):
        pads += 1
    return pads
