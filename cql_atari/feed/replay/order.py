"""In which order a game's writer goes through its data, and where it stands in them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from cql_atari.core.types import Episode, Extent

_STREAM = 2  # `sampling` has 0 and 1


class Part(NamedTuple):
    """A stretch of a game's data that is read in one go: one suffix of one run.

    Attributes:
      read: starts reading it.
      survey: the extents of exactly the episodes that `read` gives; None if nobody knows them.
    """

    read: Callable[[], Iterable[Episode]]
    survey: Callable[[], list[Extent] | None]


class Place(NamedTuple):
    """The episode that a game's writer takes next. JSON keeps it as a list.

    Attributes:
      pass_: passes over all parts that are done.
      part: position in the order of this pass, not in the list of parts.
      episode: position in the part.
    """

    pass_: int = 0
    part: int = 0
    episode: int = 0


def order(num_parts: int, *, seed: int, game: str, pass_: int) -> list[int]:
    """The order of the parts in a pass: a permutation, a pure function of the arguments.

    Philox as in `sampling`: the key names (seed, pass), the counter's high words the game.
    """
    key = np.array([seed, pass_], np.uint64)
    counter = np.array([0, 0, zlib.crc32(game.encode()), _STREAM], np.uint64)
    return (
        np.random.Generator(np.random.Philox(key=key, counter=counter))
        .permutation(num_parts)
        .tolist()
    )
