"""Converts recorded play from any format to RLDS of TensorFlow Datasets, or to plain arrays.

    python -m cql_atari.tools.convert --data_dir=DIR --out_dir=OUT [--to=rlds|arrays]
        [--games=Breakout,Pong] [--runs=1] [--suffixes=0,1]

writes the same runs and suffixes below OUT, without loss: reading them gives the episodes that
reading DIR gives. An episode that a file's end cuts isn't joined with its rest in the next file,
whose first step the `.gz` files don't hold: it stays two parts. The writer of each format
(`data/*/writer.py`) says how parts are marked and what it can't hold.

A suffix is there whole or not at all. Stopped or killed, the same command goes on at the first
suffix that isn't finished; finished ones stay as they are.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from absl import flags

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.conversion import read_conversion
from cql_atari.data.format import Format, Writing
from cql_atari.data.shared import Recording
from cql_atari.system import cli, signals
from cql_atari.system.files import locked


class Job(NamedTuple):
    """One run of one game to convert: from which folder and format, to which.

    It is sent to worker processes, so formats go by their names.
    """

    game: str
    run: int
    source: str
    source_format: str
    target: Path
    target_format: str
    suffixes: tuple[int, ...]


def convert_run(job: Job, report: Callable[[int], None]) -> None:
    """Converts the suffixes of a job that aren't converted yet, in order.

    Raises:
      UserError: where another process is converting the same run, a source file is damaged, or
        the target can't be written. Suffixes that are finished stay; nothing unfinished does.
    """
    source = _format(job.source_format)
    with _locked(job.target) as partial:
        for suffix in unfinished(job):
            _empty(partial)
            _writing(job.target_format).write(
                job.target,
                partial,
                game=job.game,
                run=job.run,
                suffix=suffix,
                episodes=source.read_episodes(job.source, job.game, [suffix]),
                source=source.fingerprints(job.source, suffix),
                report=report,
            )


def unfinished(job: Job) -> list[int]:
    """The job's suffixes that the target doesn't hold.

    Raises:
      UserError: where it holds one that wasn't converted here, or one of other files.
    """
    there = _writing(job.target_format).suffixes_there(job.target)
    noted = read_conversion(job.target) if there else {}
    finished = [suffix for suffix in job.suffixes if suffix in there]
    for suffix in finished:
        if suffix not in noted:
            raise UserError(
                f"{job.target} holds a suffix {suffix} that wasn't converted here; give another "
                "--out_dir, or remove it."
            )
        files = _format(job.source_format).fingerprints(job.source, suffix)
        if noted[suffix].source != files:
            raise UserError(
                f"{job.target} holds a suffix {suffix} converted from other files than those in "
                f"{job.source}; give another --out_dir, or remove it."
            )
    return [suffix for suffix in job.suffixes if suffix not in finished]


def _format(name: str) -> Format:
    return next(kind for kind in sources.FORMATS if kind.name == name)


def _writing(name: str) -> Writing:
    writing = _format(name).writing
    assert writing is not None
    return writing


def _count_steps(job: Job, suffix: int) -> int:
    """Steps of a suffix; 0 where they aren't known before it is read."""
    extents = _format(job.source_format).survey(job.source, job.game, suffix)
    return sum(extent.steps for extent in extents or ())


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[Path]:
    """A hidden folder in the target, this process's alone while it converts; removed at the end."""
    partial = target / ".partial"
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"can't use {target} ({error.strerror}); give another --out_dir."
        ) from error
    with locked(target, f"another process is converting to {target}; wait for it."):
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _empty(folder: Path) -> None:
    """Makes a folder afresh: a process that was killed may have left its files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def find_jobs(
    data_dir: Path,
    out_dir: Path,
    names: list[str],
    runs: list[int],
    suffixes: list[int],
    *,
    to: str = "rlds",
) -> list[Job]:
    """What to convert, in the order of games and runs; an empty list stands for all there are.

    Args:
      data_dir, out_dir: data folders.
      names: of games.
      runs: their numbers.
      suffixes: their numbers.
      to: name of the format to write.

    Raises:
      UserError: where something that is asked for isn't there, nothing is, or the folders are one.
    """
    for name in names:
        games.spec(name)
    if out_dir.resolve() == data_dir.resolve():
        raise UserError(
            f"--out_dir={out_dir} is --data_dir: it would hold the run twice; give another one."
        )
    here: dict[str, dict[int, tuple[Format, Recording]]] = {}
    for kind, recording in sources.recordings(data_dir):
        if Path(recording.root) == data_dir.absolute():
            here.setdefault(recording.game, {}).setdefault(recording.run, (kind, recording))
    if not here:
        layouts = "\n  or ".join(kind.layout for kind in sources.FORMATS)
        raise UserError(f"no recorded play in --data_dir={data_dir}. Expected:\n     {layouts}")
    jobs = []
    for game in names or sorted(here):
        present = here.get(game, {})
        wanted = runs or sorted(present)
        if not wanted or set(wanted) - set(present):
            raise UserError(
                f"no recorded play of {game}, run {wanted or '<any>'}, in {data_dir}; there are "
                f"runs {sorted(present)} of it, and the games {', '.join(sorted(here))}."
            )
        for run in wanted:
            kind, recording = present[run]
            found = kind.list_suffixes(recording.path)
            if absent := [suffix for suffix in suffixes if suffix not in found]:
                raise UserError(f"no suffix {absent} in {recording.path}; there are {found}.")
            target = _writing(to).folder(out_dir, game, run)
            chosen = tuple(suffixes or found)
            jobs.append(Job(game, run, recording.path, kind.name, target, to, chosen))
    return jobs


def convert(jobs: list[Job], processes: int) -> None:
    """Converts what isn't finished, up to `processes` runs at a time.

    Raises:
      UserError: before anything is converted, where a target holds something else; or the first
        that a worker met, after the others have been stopped.
    """
    from cql_atari.system import worker_pool

    todo = {job: unfinished(job) for job in jobs}
    steps = sum(_count_steps(job, suffix) for job in jobs for suffix in todo[job])
    for job in jobs:
        there = len(job.suffixes) - len(todo[job])
        print(f"{job.game}, run {job.run}: {len(todo[job])} to convert, {there} there already.")
    if waiting := [job for job in jobs if todo[job]]:
        worker_pool.run_jobs(convert_run, waiting, processes, steps, "convert")


def _numbers(name: str, values: list[str]) -> list[int]:
    if not all(value.isdecimal() for value in values) or len(set(values)) < len(values):
        raise UserError(f"--{name}={','.join(values)} must be different whole numbers, as in 0,1,2")
    return [int(value) for value in values]


def _define_flags() -> None:
    # Not at import: every command has its own, and a test imports them all.
    formats = [kind.name for kind in sources.FORMATS if kind.writing]
    flags.DEFINE_string("data_dir", None, "The data folder: what data.dir would be.")
    flags.DEFINE_string("out_dir", None, "The new data folder.")
    flags.DEFINE_enum("to", "rlds", formats, "Format to write.")
    flags.DEFINE_list("games", [], "Games, CamelCase, separated by commas; default: all there.")
    flags.DEFINE_list("runs", [], "Numbers of runs; default: all there.")
    flags.DEFINE_list("suffixes", [], "Numbers of suffixes; default: all there.")
    flags.DEFINE_integer("processes", 2, "Runs converted at the same time.", lower_bound=1)


def main(_: list[str]) -> int:
    values = flags.FLAGS
    if not values.data_dir or not values.out_dir:
        raise UserError(f"give --data_dir and --out_dir.\n\n{__doc__}")
    jobs = find_jobs(
        Path(values.data_dir),
        Path(values.out_dir),
        values.games,
        _numbers("runs", values.runs),
        _numbers("suffixes", values.suffixes),
        to=values.to,
    )
    signals.interrupt_on_sigterm()
    try:
        convert(jobs, values.processes)
    except KeyboardInterrupt:
        print("stopped; the same command goes on at the unfinished suffixes.", file=sys.stderr)
        return signals.EXIT_INTERRUPTED
    for job in jobs:
        noted = read_conversion(job.target)
        extents = [extent for suffix in job.suffixes for extent in noted[suffix].extents]
        steps = sum(extent.steps for extent in extents)
        print(f"{job.game}, run {job.run}: {len(extents)} episodes, {steps} steps, {job.target}")
    return 0


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
