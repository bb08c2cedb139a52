"""Packs recorded play of any format for `feed.kind = 'packed'`: small, and quick to draw from.

  python -m cql_atari.tools.pack --data_dir=DIR --out_dir=OUT --games=Breakout,Pong

writes `OUT/<Game>/<run>/packed/`, two files a suffix, without loss: reading them gives the episodes
that reading DIR gives. Then train with

  --gin_bindings="data.dir='OUT'" --gin_bindings="feed.kind='packed'"

DIR is no longer needed for that. A suffix is there whole or not at all: stopped or killed, the same
command goes on at the first suffix that isn't packed; finished ones stay as they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from cql_atari.core import games
from cql_atari.core.settings import Data
from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.format import Source
from cql_atari.data.packed import files
from cql_atari.system import cli, signals
from cql_atari.system.files import locked


class Job(NamedTuple):
    """One suffix: where it comes from and the folder that it goes to."""

    source: Source
    suffix: int
    directory: Path

    def facts(self) -> dict[str, Any]:
        """What the index keeps of the source; the same while its files are."""
        source, suffix = self.source, self.suffix
        return {
            "format": source.format,
            "files": source.files[suffix],
            "left_out": [list(each) for each in source.left_out.get(suffix, ())],
        }


def pack_suffix(job: Job, report: Callable[[int], None]) -> None:
    """Packs one suffix, in a worker process."""
    from cql_atari.data.packed import writer

    job.directory.mkdir(parents=True, exist_ok=True)
    played = sources.read_part(job.source, job.suffix)
    writer.write_suffix(job.directory, job.suffix, played, job.facts(), report)


def pack_all(jobs: Sequence[Job], processes: int) -> None:
    """Packs what isn't packed yet, up to `processes` suffixes at a time.

    Raises:
      UserError: before anything is packed, where a suffix was packed from other files; or the first
        that a worker met, after the others have stopped.
    """
    from cql_atari.system import worker_pool

    todo = [job for job in jobs if not is_packed(job)]
    print(f"{len(todo)} suffixes to pack, {len(jobs) - len(todo)} there already.")
    if todo:
        worker_pool.run_jobs(pack_suffix, todo, processes, sum(map(_count_steps, todo)), "pack")


def is_packed(job: Job) -> bool:
    """Whether the suffix is there already.

    Raises:
      UserError: where it was packed from other files, or is damaged.
    """
    index, _ = files.paths(job.directory, job.suffix)
    if not index.exists():
        return False
    if files.read_index(job.directory, job.suffix).source != job.facts():
        raise UserError(
            f"{index} was packed from other files than those that are in {job.source.path} now. "
            "Give another --out_dir, or delete what was packed of this suffix."
        )
    return True


def find_jobs(data: Data, out_dir: Path, names: Sequence[str], runs: Sequence[int]) -> list[Job]:
    """What to pack, in the order of games and runs.

    Args:
      data: the folder, suffixes and exclusions.
      out_dir: the folder to pack into.
      names: the games; (): every game of which the folder holds the first run that is asked for.
      runs: which runs of each.

    Raises:
      UserError: as `sources.find_sources`, or where both folders are the same.
    """
    if os.path.realpath(str(data.dir)) == os.path.realpath(out_dir):
        raise UserError(f"--out_dir={out_dir} is --data_dir, too; give a folder of its own.")
    names = names or [game for game in games.table() if _holds(data, game, runs[0])]
    if not names:
        raise UserError(f"--data_dir={data.dir} holds no recorded play of run {runs[0]}.")
    found = sources.find_sources(dataclasses.replace(data, games=tuple(names), runs=tuple(runs)))
    return [
        Job(source, suffix, files.folder(out_dir, source.game, source.run))
        for source in found
        for suffix in source.suffixes
    ]


def _holds(data: Data, game: str, run: int) -> bool:
    with contextlib.suppress(UserError):
        return bool(
            sources.find_sources(Data(dir=data.dir, games=(game,), runs=(run,), suffixes=None))
        )
    return False


def _count_steps(job: Job) -> int:
    """For the progress bar; 0 where counting would take reading."""
    return sum(extent.steps for extent in sources.survey(job.source, job.suffix) or ())


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Makes a folder and holds it for this process."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"can't use --out_dir={directory} ({error.strerror}); give another one."
        ) from error
    with locked(directory, f"another process is packing into {directory}; wait for it."):
        yield


def _summary(jobs: Sequence[Job]) -> Iterator[str]:
    """A line a run: episodes, steps, bytes."""
    for directory in dict.fromkeys(job.directory for job in jobs):
        steps = episodes = size = 0
        for suffix in files.list_suffixes(directory):
            extents = files.read_index(directory, suffix).extents
            episodes += len(extents)
            steps += sum(extent.steps for extent in extents)
            size += sum(path.stat().st_size for path in files.paths(directory, suffix))
        yield (
            f"{directory}: {episodes:,} episodes, {steps:,} steps, {size / 1e9:.3g} GB, "
            f"{size / max(steps, 1):.0f} bytes a step"
        )


def _numbers(name: str, values: Sequence[str]) -> tuple[int, ...]:
    if not all(value.isdecimal() for value in values) or len(set(values)) < len(values):
        raise UserError(f"--{name}={','.join(values)} must be different whole numbers, as in 0,1,2")
    return tuple(map(int, values))


def _define_flags() -> None:
    # Not at import: every command has its own, and a test imports them all.
    flags.DEFINE_string("data_dir", None, "Recorded play, as for data.dir.", required=True)
    flags.DEFINE_string("out_dir", None, "Where the packed play goes.", required=True)
    flags.DEFINE_list("games", [], "Games, CamelCase, separated by commas; default: all there.")
    flags.DEFINE_list("runs", ["1"], "Numbers of runs.")
    flags.DEFINE_list("suffixes", [], "K of the files (RLDS: splits); default: all there.")
    flags.DEFINE_string("exclude", None, "What to leave out, as `verify --repair` writes it.")
    flags.DEFINE_integer(
        "processes", len(os.sched_getaffinity(0)), "Suffixes packed at the same time.",
        lower_bound=1,
    )  # fmt: skip


def main(_: list[str]) -> int:
    values = flags.FLAGS
    suffixes = _numbers("suffixes", values.suffixes) or None
    data = Data(dir=values.data_dir, suffixes=suffixes, exclude=values.exclude)
    out_dir = Path(values.out_dir)
    jobs = find_jobs(data, out_dir, values.games, _numbers("runs", values.runs))
    signals.interrupt_on_sigterm()
    try:
        with _alone(out_dir):
            pack_all(jobs, values.processes)
    except KeyboardInterrupt:
        print("stopped; the same command goes on at the unfinished suffixes.", file=sys.stderr)
        return signals.EXIT_INTERRUPTED
    print("\n".join(_summary(jobs)))
    return 0


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
