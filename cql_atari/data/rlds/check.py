"""Checks RLDS data sets without stopping at the first problem, and says what to leave out.

Each record's checksum is verified, each episode checked as the reader does, each frame decoded.
Left out are the episodes that are wrong; the rest of a shard after a record that can't be skipped,
or after two damaged records in a row; and the whole of a shard with too many records.
`conversion.json` is compared with the records; where it is wrong, removing it suffices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cql_atari.core import games
from cql_atari.core.types import Episode, Extent, UserError
from cql_atari.data import conversion
from cql_atari.data.format import FileCheck, Problem, SuffixCheck
from cql_atari.data.rlds import files as rlds_files
from cql_atari.data.rlds.records import episodes_of
from cql_atari.data.shared import blank_and_still, looks_wrong, merge, size_of


def total_bytes(path: Path, suffix: int) -> int:
    """Size of a split's shards, as far as they are there: the work of `check_suffix`."""
    try:
        return sum(size_of(shard.path) for shard in rlds_files.list_shards(path, None, suffix))
    except UserError:
        return 0


def check_suffix(path: Path, game: str, suffix: int, report: Callable[[int], None]) -> SuffixCheck:
    """Checks one split; memory for a record and an episode (191 MB at most).

    Args:
      path: the data set's folder, version included.
      game: CamelCase name; actions must be in its minimal set.
      suffix: K of `checkpoint_K`.
      report: called now and then with the bytes read since the last call.

    Raises:
      UserError: where `dataset_info.json` is of another game.
    """
    lookup = games.to_full_actions(game)
    files: list[FileCheck] = []
    left_out: list[tuple[int, int]] = []
    start = 0
    shards = rlds_files.list_shards(path, game, suffix)
    noted, note_problems = None, []
    try:
        total = sum(shard.records for shard in shards)
        noted = conversion.noted_extents(path, suffix, total)
    except UserError as error:
        note_problems.append(Problem(None, str(error)))

    def compare(nth: int, where: str, found: Sequence[Extent]) -> None:
        if noted is not None:
            try:
                conversion.check_extents(path, where, noted[nth], found)
            except UserError as error:
                note_problems.append(Problem(nth, str(error)))

    with ThreadPoolExecutor(1) as pool:

        def read(data: bytes, where: str, position: int) -> Iterator[Episode]:
            report(len(data))
            check = functools.partial(compare, start + position, where)
            return episodes_of(data, where, game, lookup, pool, check=check)

        for shard in shards:
            problems, wrong = _check_shard(shard, read)
            files.append(FileCheck(Path(shard.path), shard.records, tuple(problems)))
            left_out += [(start + low, start + high) for low, high in wrong]
            start += shard.records
    if note_problems or noted is not None:
        name = Path(path) / conversion.CONVERSION
        entries = None if noted is None else len(noted)
        files.append(FileCheck(name, entries, tuple(note_problems)))
    return SuffixCheck(files, merge(left_out))


def _check_shard(
    shard: rlds_files.Shard, read: Callable[[bytes, str, int], Iterator[Episode]]
) -> tuple[list[Problem], list[tuple[int, int]]]:
    """The problems of a shard, and the ranges of its records that must be left out."""
    problems, wrong, first = [], [], 0
    while first < shard.records:
        position = first  # of the record that is read next
        try:
            kept = [k >= first for k in range(shard.records)]
            for position, data in rlds_files.records(shard.path, kept):
                if problem := _check_record(data, position, shard, read):
                    problems.append(problem)
                    if not problem.is_warning:
                        wrong.append((position, position + 1))
                position += 1  # noqa: PLW2901
            break
        except UserError as error:
            if position == shard.records:
                return [*problems, Problem(None, str(error))], [(0, shard.records)]
            problems.append(Problem(position, str(error)))
            hopeless = position == first and (position - 1, position) in wrong[-1:]
            wrong.append((position, shard.records if hopeless else position + 1))
            first = wrong[-1][1]
    return problems, wrong


def _check_record(
    data: bytes,
    position: int,
    shard: rlds_files.Shard,
    read: Callable[[bytes, str, int], Iterator[Episode]],
) -> Problem | None:
    """What is wrong with one record, if anything."""
    where = f"{shard.path}: record {position}"
    try:
        for episode in read(data, where, position):
            whole = episode.terminal and episode.starts
            if found := looks_wrong(*blank_and_still(episode.frames), whole):
                what, is_warning = found
                return Problem(position, f"{where}: its frames are all {what}.", is_warning)
    except UserError as error:
        return Problem(position, str(error))
    return None
