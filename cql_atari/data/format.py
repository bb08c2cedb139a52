"""The contract of a format of recorded play: what it offers, and what its check finds.

A format is a folder beside this file and one entry in `sources.FORMATS`; nothing else asks which
formats there are. A *recording* is one run of one game; it consists of *suffixes*, numbered parts
that are read, surveyed and left out by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cql_atari.core.types import Episode, Extent
from cql_atari.data.shared import Fingerprints, LeftOut, PathLike, Ranges, Recording, Report


class Problem(NamedTuple):
    """What is wrong with a file, or merely strange.

    Attributes:
      entry: the first bad one; None where the damage tells no place.
      text: what was found and what was expected.
      is_warning: whether it may be sound nevertheless; nothing is left out for it.
    """

    entry: int | None
    text: str
    is_warning: bool = False


class FileCheck(NamedTuple):
    """What came out for one file.

    Attributes:
      path: the file.
      entries: its length; None where it can't be told.
      problems: in no order; none if the file is sound.
    """

    path: Path
    entries: int | None
    problems: tuple[Problem, ...]

    @property
    def is_wrong(self) -> bool:
        return not all(problem.is_warning for problem in self.problems)


class SuffixCheck(NamedTuple):
    """What came out for one suffix.

    Attributes:
      files: one for each file that is or should be there.
      left_out: ranges [start, stop) that the reader must leave out, in the format's own unit.
    """

    files: list[FileCheck]
    left_out: list[tuple[int, int]]


class Read(Protocol):
    def __call__(
        self,
        path: PathLike,
        game: str,
        suffixes: Sequence[int] | None = None,
        /,
        *,
        fraction: float = 1.0,
        left_out: LeftOut | None = None,
    ) -> Iterator[Episode]: ...


class Survey(Protocol):
    def __call__(
        self,
        path: PathLike,
        game: str,
        suffix: int,
        /,
        *,
        fraction: float = 1.0,
        left_out: LeftOut | None = None,
    ) -> list[Extent] | None: ...


class Write(Protocol):
    def __call__(
        self,
        folder: Path,
        partial: Path,
        *,
        game: str,
        run: int,
        suffix: int,
        episodes: Iterable[Episode],
        source: Mapping[str, Any],
        report: Report,
    ) -> list[Extent]: ...


class Writing(NamedTuple):
    """How `tools.convert` writes a format.

    Attributes:
      folder: (out_dir, game, run) -> the recording's folder.
      suffixes_there: which suffixes such a folder holds whole; none where it isn't there.
      write: adds a suffix of episodes; it is there whole or not at all, and noted in
        `conversion.json` with the fingerprints of what it was made of. `partial` is an empty
        folder on the same disk for unfinished files.
    """

    folder: Callable[[Path, str, int], Path]
    suffixes_there: Callable[[Path], list[int]]
    write: Write


@dataclass(frozen=True)
class Format:
    """One way of storing recorded play on disk.

    Attributes:
      name: as tables and manifests show it.
      layout: what is expected below `data.dir`, for messages.
      locate: (data_dir, game, run) -> the recording's path, None where there is none.
      find_recordings: those in a local folder, which may be a data folder, a recording or in
        between.
      list_suffixes: of a recording, in numerical order; there is at least one.
      read_episodes: streams the episodes; `fraction` is the first part of each suffix, `left_out`
        what `check_suffix` says. All else is refused: what doesn't raise a UserError is sound.
      survey: the extents of the episodes that `read_episodes` yields of one suffix, with their
        returns, without reading it; None where that can't be done.
      count: the same by reading, if need be.
      fingerprints: size and checksum of each of a suffix's files, without reading them whole.
      total_bytes: the work of `check_suffix`.
      check_suffix: checks one suffix without stopping at the first problem.
      writing: how it is written; None where it can't be.
    """

    name: str
    layout: str
    locate: Callable[[str, str, int], str | None]
    find_recordings: Callable[[Path], list[Recording]]
    list_suffixes: Callable[[PathLike], list[int]]
    read_episodes: Read
    survey: Survey
    count: Survey
    fingerprints: Callable[[PathLike, int], Fingerprints]
    total_bytes: Callable[[Path, int], int]
    check_suffix: Callable[[Path, str, int, Report], SuffixCheck]
    writing: Writing | None = None


class Source(NamedTuple):
    """One run of one game's recorded play.

    Attributes:
      game: CamelCase name.
      run: number of the run.
      path: folder of the files, or its gs:// address.
      format: the name of one of `FORMATS`.
      suffixes: which suffixes, in order; each is there.
      fraction: the first part of each suffix.
      left_out: of a suffix, what not to read, in the format's own unit.
      files: of each suffix, its files as they were when they were found.
      best: of each suffix, the positions of the episodes that are among the game's best; None
        where all are taken.
    """

    game: str
    run: int
    path: str
    format: str
    suffixes: tuple[int, ...]
    fraction: float
    left_out: dict[int, Ranges]
    files: dict[int, Fingerprints]
    best: dict[int, list[int]] | None = None
