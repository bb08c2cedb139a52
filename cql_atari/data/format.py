"""The contract of a format of recorded play: what it offers, and what its check finds.

A format is a folder beside this file and one entry in `sources.FORMATS`; nothing else asks which
formats there are. A *recording* is one run of one game. It consists of *suffixes*, numbered parts
of the run, each of which can be read, surveyed or left out on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cql_atari.core.types import Episode, Extent
from cql_atari.data.shared import EVERYTHING, Fingerprints, PathLike, Ranges, Recording, Report


class Problem(NamedTuple):
    """Something wrong in a file, or a warning.

    Attributes:
      entry: the first bad entry; None where the place isn't known.
      text: what was found and what was expected.
      is_warning: whether the file may be sound nevertheless; nothing is left out for a warning.
    """

    entry: int | None
    text: str
    is_warning: bool = False


class FileCheck(NamedTuple):
    """The result of checking one file.

    Attributes:
      path: the file.
      entries: its length; None where it isn't known.
      problems: in any order; none if the file is sound.
    """

    path: Path
    entries: int | None
    problems: tuple[Problem, ...]

    @property
    def is_wrong(self) -> bool:
        return not all(problem.is_warning for problem in self.problems)


class SuffixCheck(NamedTuple):
    """The result of checking one suffix.

    Attributes:
      files: one for each file that is or should be there.
      left_out: ranges [start, stop) that the reader must leave out, in the format's own unit.
    """

    files: list[FileCheck]
    left_out: list[tuple[int, int]]


# Of one suffix (path, game, suffix, fraction, gaps): its first part, without the ranges `gaps`.
Read = Callable[[PathLike, str, int, float, Ranges], Iterator[Episode]]
Survey = Callable[[PathLike, str, int, float, Ranges], list[Extent] | None]


class Target(NamedTuple):
    """The suffix that is to be written: its recording's folder, game, run, number."""

    folder: Path
    game: str
    run: int
    suffix: int


# (target, episodes, source, report) -> the extents of the episodes.
Write = Callable[[Target, Iterable[Episode], Mapping[str, Any], Report], list[Extent]]


class Writing(NamedTuple):
    """How `tools.convert` writes a format.

    Attributes:
      folder: (out_dir, game, run) -> the recording's folder.
      suffixes_there: which suffixes such a folder holds whole; none where it isn't there.
      write: adds a suffix of episodes; it is there whole or not at all, and noted in
        `conversion.json` with `source`, the fingerprints of what it was made of. Holds one episode.
        Raises a UserError where it can't be written, and whatever the episodes raise.
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
      read_suffix: streams the episodes of one suffix. `fraction` is the part to read, from the
        beginning on; `gaps` is what to pass over, as `check_suffix` says. Anything wrong in the
        rest raises a UserError when it is reached.
      survey: the extents of the episodes that `read_suffix` yields, with their returns, without
        reading it; None where that can't be done.
      count: the same, by reading if need be.
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
    read_suffix: Read
    survey: Survey
    count: Survey
    fingerprints: Callable[[PathLike, int], Fingerprints]
    total_bytes: Callable[[Path, int], int]
    check_suffix: Callable[[Path, str, int, Report], SuffixCheck]
    writing: Writing | None = None

    def read_episodes(
        self,
        path: PathLike,
        game: str,
        suffixes: Sequence[int] | None = None,
        *,
        fraction: float = 1.0,
        left_out: Mapping[int, Ranges] | None = None,
    ) -> Iterator[Episode]:
        """Streams the episodes of a recording, suffix after suffix.

        Args:
          path: its path.
          game: CamelCase name.
          suffixes: which to read, in this order; None: all, in numerical order.
          fraction: the share of each suffix, from its beginning on (0 < fraction <= 1).
          left_out: of a suffix, the ranges to pass over.
        """
        for suffix in self.list_suffixes(path) if suffixes is None else suffixes:
            gaps = (left_out or {}).get(suffix, ())
            if EVERYTHING not in gaps:
                yield from self.read_suffix(path, game, suffix, fraction, gaps)


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
