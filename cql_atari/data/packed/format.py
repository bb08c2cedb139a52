"""Packed play, as a format."""

from __future__ import annotations

from pathlib import Path

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.data.format import FileCheck, Format, Problem, SuffixCheck
from cql_atari.data.packed import files, reader
from cql_atari.data.shared import EVERYTHING, Recording, Report, find_runs


def locate(directory: str, game: str, run: int) -> str | None:
    """The `packed` folder of one run below a data folder, if there is one."""
    folder = files.folder(directory, game, run)
    return str(folder) if folder.is_dir() else None


def find_recordings(folder: Path) -> list[Recording]:
    """The `packed` folders in a data folder, a game's or a run's, or the one that is given."""
    found = find_runs(folder, files.FOLDER, games.table())
    return [recording for recording in found if Path(recording.path).is_dir()]


def total_bytes(directory: Path, suffix: int) -> int:
    """Bytes of a suffix's segments."""
    _, segments = files.paths(directory, suffix)
    return segments.stat().st_size if segments.exists() else 0


def check_suffix(directory: Path, game: str, suffix: int, report: Report) -> SuffixCheck:
    """Reads every segment to its checksum; a damaged suffix is to be packed again, or left out."""
    _, segments = files.paths(directory, suffix)
    entries, problems = None, []
    try:
        entries = sum(
            len(episode.frames) for episode in reader.read_episodes(directory, game, [suffix])
        )
    except UserError as error:
        problems.append(Problem(None, str(error)))
    report(total_bytes(directory, suffix))
    check = FileCheck(segments, entries, tuple(problems))
    return SuffixCheck([check], [EVERYTHING] if problems else [])


PACKED = Format(
    name="packed",
    layout="<Game>/<run>/packed/K.index and K.segments, as `python -m cql_atari.tools.pack` makes "
    "them",
    locate=locate,
    find_recordings=find_recordings,
    list_suffixes=files.list_suffixes,
    read_episodes=reader.read_episodes,
    survey=reader.survey,
    count=reader.count,
    fingerprints=files.fingerprints,
    total_bytes=total_bytes,
    check_suffix=check_suffix,
)
