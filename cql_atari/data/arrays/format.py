"""Plain arrays, as a format."""

from __future__ import annotations

from pathlib import Path

from cql_atari.core import games
from cql_atari.data.arrays import check, files, reader, writer
from cql_atari.data.format import Format, Writing
from cql_atari.data.shared import Recording, find_runs, list_folder

_INSIDE = "arrays"


def locate(directory: str, game: str, run: int) -> str | None:
    """The `arrays` folder of one run below a data folder, if there is one."""
    folder = folder_of(Path(directory), game, run)
    return str(folder) if folder.is_dir() else None


def find_recordings(folder: Path) -> list[Recording]:
    """The `arrays` folders in a data folder, a game's or a run's, or the one that is given."""
    found = find_runs(folder, _INSIDE, games.table())
    return [recording for recording in found if Path(recording.path).is_dir()]


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
    locate=locate,
    find_recordings=find_recordings,
    list_suffixes=files.list_suffixes,
    read_episodes=reader.read_episodes,
    survey=reader.survey,
    count=reader.survey,
    fingerprints=files.fingerprints,
    total_bytes=check.total_bytes,
    check_suffix=check.check_suffix,
    writing=Writing(folder_of, suffixes_there, writer.write_suffix),
)
