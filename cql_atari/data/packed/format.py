"""Packed play, as a format."""

from __future__ import annotations

import functools
from pathlib import Path

from cql_atari.core.types import UserError
from cql_atari.data.format import FileCheck, Format, Problem, SuffixCheck
from cql_atari.data.packed import files, reader
from cql_atari.data.run_folders import find_runs, locate_run
from cql_atari.data.shared import EVERYTHING, Report, size_of


def total_bytes(directory: Path, suffix: int) -> int:
    """Bytes of a suffix's segments."""
    return size_of(files.paths(directory, suffix)[1])


def check_suffix(directory: Path, game: str, suffix: int, report: Report) -> SuffixCheck:
    """Verifies every segment's checksum; a damaged suffix must be packed again or left out."""
    _, segments = files.paths(directory, suffix)
    entries, problems, left = None, [], total_bytes(directory, suffix)
    try:
        index = files.read_index(directory, suffix)
        entries = sum(extent.steps for extent in index.extents)
        for entry, size, problem in reader.check_segments(index):
            if problem:
                problems.append(Problem(entry, problem))
            report(size)
            left -= size
    except UserError as error:
        problems.append(Problem(None, str(error)))
    report(left)
    check = FileCheck(segments, entries, tuple(problems))
    return SuffixCheck([check], [EVERYTHING] if problems else [])


PACKED = Format(
    name="packed",
    layout="<Game>/<run>/packed/K.index and K.segments, as `python -m cql_atari.tools.pack` makes "
    "them",
    locate=functools.partial(locate_run, files.FOLDER),
    find_recordings=functools.partial(find_runs, files.FOLDER),
    list_suffixes=files.list_suffixes,
    read_suffix=reader.read_suffix,
    survey=reader.survey,
    count=reader.count,
    fingerprints=files.fingerprints,
    total_bytes=total_bytes,
    check_suffix=check_suffix,
)
