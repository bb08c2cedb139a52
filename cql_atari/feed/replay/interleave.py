"""A game's recorded play as one endless stream that is read from several parts at once.

A part is one suffix of one run. Each pass over the data opens the parts in another order. Of the
open parts, the one that has given the fewest segments is read next, an episode at a time. So all
advance together, and any stretch of the stream is a sample over training time.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cql_atari.core.types import Episode

_STREAM = 2  # `sampling` has 0 and 1; `window` has 3

Part = Callable[[], Iterable[Episode]]  # starts reading a stretch of a game's data
PackedSegment = tuple[bytes, int]  # as `segments.pack_segments` yields them


class OpenPart(NamedTuple):
    """A part that is being read.

    Attributes:
      nth: its place in the endless order: pass * number of parts + place in that pass.
      episodes: that it has given.
      given: segments that it has given, counted from the least that an open part had given when
        this one was opened.
    """

    nth: int
    episodes: int = 0
    given: int = 0


class StreamPosition(NamedTuple):
    """How far a stream has been read; in JSON nested lists.

    Attributes:
      opened: parts opened so far, over all passes.
      open: those that aren't finished.
      skip: segments of the next episode that have been read already.
      given: segments that were given before that episode, at most as many as were enough (see
        `interleave`).
    """

    opened: int = 0
    open: tuple[OpenPart, ...] = ()
    skip: int = 0
    given: int = 0


START = StreamPosition()


def order(num_parts: int, *, seed: int, game: str, pass_: int) -> list[int]:
    """The order of the parts in a pass: a permutation, a pure function of the arguments."""
    return generator(seed, game, pass_, _STREAM).permutation(num_parts).tolist()


def generator(seed: int, game: str, number: int, stream: int) -> np.random.Generator:
    """Philox as in `sampling`: the key is (seed, number), the counter's high words the rest."""
    key = np.array([seed, number], np.uint64)
    counter = np.array([0, 0, zlib.crc32(game.encode()), stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def interleave(
    parts: Sequence[Part],
    position: StreamPosition,
    *,
    at_once: int,
    enough: int,
    seed: int,
    game: str,
    take: Callable[[Iterator[Episode], bool], list[PackedSegment] | None],
) -> Iterator[tuple[bytes, StreamPosition]]:
    """The stream's segments from a position on, each with its own position.

    Parts that were finished aren't opened; what the open ones gave before is skipped.

    Args:
      parts: what the game's data are made of.
      position: where to begin.
      at_once: how many parts are open at a time.
      enough: if all data have fewer segments, they are given once and the stream ends. (From a
        position other than the start, which has passed some of them under another setting, after
        as many parts more as two passes have.)
      seed, game: decide the order of the parts.
      take: reads the next episode and compresses it, if it is wanted; None after the last.
    """

    def begin(part: OpenPart) -> Iterator[Episode]:
        pass_, place = divmod(part.nth, len(parts))
        nth = order(len(parts), seed=seed, game=game, pass_=pass_)[place]
        episodes = iter(parts[nth]())
        for _ in range(part.episodes):
            take(episodes, False)
        return episodes

    opened, _, skip, given = position
    reading = {part: begin(part) for part in position.open}
    last = len(parts)
    most = last if position == START else opened + 2 * len(parts)
    is_first = True
    while True:
        # Without end only where there was a segment: the data may have none any more.
        goes_on = given >= enough and (opened < most or not is_first)
        while len(reading) < min(at_once, len(parts)) and (opened < last or goes_on):
            part = OpenPart(opened, given=min((part.given for part in reading), default=0))
            reading[part] = begin(part)
            opened += 1
        if not reading:
            if last == most:
                return
            last = most  # not before: the stream wouldn't be the one that came to this position
            continue
        here = StreamPosition(opened, tuple(sorted(reading)), given=given)
        part = min(reading, key=lambda part: (part.given, part.nth))
        episodes = reading.pop(part)
        segments = take(episodes, True)
        if segments is None:
            continue
        for nth, (packed, _) in enumerate(segments):
            if nth >= skip:
                yield packed, position if is_first else here._replace(skip=nth)
                is_first = False
        skip = 0
        given = min(given + len(segments), enough)
        after = OpenPart(part.nth, part.episodes + 1, part.given + len(segments))
        reading[after] = episodes
