"""Plain arrays, as a format."""

from __future__ import annotations

import functools
from pathlib import Path

from cql_atari.data.arrays import check, files, reader, writer
from cql_atari.data.format import Format, Writing
from cql_atari.data.run_folders import find_runs, locate_run
from cql_atari.data.shared import list_folder

_INSIDE = "arrays"


def folder_of(out_dir: Path, game: str, run: int) -> Path:
    """Where one run's arrays are below a data folder."""
    return out_dir / game / str(run) / _INSIDE


def suffixes_there(folder: Path) -> list[int]:
    """The suffixes that a folder holds whole."""
    there = folder.is_dir() and any(name[:1].isdecimal() for name in list_folder(folder))
    return files.list_suffixes(folder) if there else []


ARRAYS = Format(
    name="arrays",
    layout="<Game>/<run>/arrays/K.npz (or a folder K/ of .npy files): your own episodes, see "
    "docs/data.md",
    locate=functools.partial(locate_run, _INSIDE),
    find_recordings=functools.partial(find_runs, _INSIDE),
    list_suffixes=files.list_suffixes,
    read_suffix=reader.read_suffix,
    survey=reader.survey,
    count=reader.survey,
    fingerprints=files.fingerprints,
    total_bytes=check.total_bytes,
    check_suffix=check.check_suffix,
    writing=Writing(folder_of, suffixes_there, writer.write_suffix),
)
