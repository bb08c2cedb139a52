"""Checks play that is stored as plain arrays without stopping at the first problem.

Left out are the episodes that hold wrong values, and all of a suffix whose files are damaged or of
another form.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from cql_atari.core.types import UserError
from cql_atari.data.arrays import files
from cql_atari.data.arrays.columns import find_wrong
from cql_atari.data.format import FileCheck, Problem, SuffixCheck
from cql_atari.data.shared import (
    EVERYTHING,
    LONGEST,
    blank_and_still,
    looks_wrong,
    merge,
    size_of,
)


def total_bytes(path: Path, suffix: int) -> int:
    """Size of a suffix's frames on disk, 0 if there are none: the work of `check_suffix`."""
    place = files.suffix_path(path, suffix)
    return size_of(place if place.suffix == ".npz" else place / "frames.npy")


def check_suffix(path: Path, game: str, suffix: int, report: Callable[[int], None]) -> SuffixCheck:
    """Checks one suffix; memory for an episode (191 MB at most) and its columns.

    Args:
      path: the folder of the suffixes.
      game: CamelCase name; actions must be among those that it has.
      suffix: K.
      report: called now and then with the bytes read since the last call.
    """
    place, size = files.suffix_path(path, suffix), total_bytes(path, suffix)
    problems: list[Problem] = []
    left_out: list[tuple[int, int]] = []
    length = None
    try:
        with files.open_suffix(path, game, suffix) as (columns, frames):
            length = len(columns.actions)
            wrong = np.zeros(length, bool)
            for found, text in find_wrong(columns):
                problems.append(Problem(int(found[0]), text))
                wrong[found] = True
            for first, extent in files.spans(columns, [(0, length)]):
                stop = first + extent.steps
                blank, still = blank_and_still(frames.read(first, stop))
                report(size * stop // length - size * first // length)
                if looks := looks_wrong(blank, still, extent.terminal and extent.starts):
                    text = f"frames {first} to {stop - 1}, an episode, are all {looks[0]}."
                    problems.append(Problem(first, text, looks[1]))
                    wrong[first] |= not looks[1]
                if extent.steps > LONGEST:
                    text = f"no game ends or starts in {extent.steps:,} steps: check terminals."
                    problems.append(Problem(first, text, True))
                if wrong[first:stop].any():
                    left_out.append((first, stop))
            frames.finish()
    except UserError as error:
        problems.append(Problem(None, str(error)))
        left_out = [EVERYTHING]
    return SuffixCheck([FileCheck(place, length, tuple(problems))], merge(left_out))
