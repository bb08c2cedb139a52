"""The small arrays of a suffix of plain arrays, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Columns(NamedTuple):
    """The small arrays of one suffix, whole; checked where they are kept.

    Attributes:
      actions: integers [T], indices into the suffix's action set.
      rewards: float32 or float64 [T].
      terminals: bool or uint8 [T].
      starts: bool or uint8 [T].
      lookup: int32, the full set's index of each of those in the suffix's own; -1 for an action
        that the game doesn't have.
    """

    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    starts: np.ndarray
    lookup: np.ndarray


def find_wrong(
    columns: Columns, start: int = 0, stop: int | None = None
) -> Iterator[tuple[np.ndarray, str]]:
    """Of steps [start, stop), for each column with values that can't be: which, and what to say."""
    known = np.flatnonzero(columns.lookup >= 0)
    names = f"an index of an action that the game has: {known.tolist()}"
    for name, is_wrong, expected in (
        ("actions", lambda x: ~np.isin(x, known), names),
        ("rewards", lambda x: ~(np.abs(x) <= 1), "a reward clipped to [-1, 1]"),
        ("terminals", lambda x: x.astype(np.uint8) > 1, "0 or 1"),
        ("starts", lambda x: x.astype(np.uint8) > 1, "0 or 1"),
    ):
        values = getattr(columns, name)
        found = start + np.flatnonzero(is_wrong(values[start:stop]))
        if found.size:
            value = values[found[0]]
            text = f"{name}[{found[0]}] is {value} ({found.size} such); expected {expected}."
            yield found, text
