"""Converts DQN-Replay `.gz` files to an RLDS data set of TensorFlow Datasets.

  python -m cql_atari.tools.convert --data_dir=DIR --out_dir=OUT --games=Breakout --suffixes=0,1

writes `OUT/rlu_atari_checkpoints_ordered/<Game>_run_<run>/1.1.0/`, one split `checkpoint_KK` a
suffix, without loss: reading it gives the episodes that reading the `.gz` files gives. Like there,
an episode that a file's end cuts is not joined with its rest in the next file, as the step between
the two is in neither's valid slots: it stays two records, and each split depends on its own files
alone. `data/rlds_writer.py` says how the parts are marked and what the `.gz` files can't tell.

A split is there whole or not at all. Stopped or killed, the same command goes on at the first split
that isn't finished; finished ones stay as they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from absl import flags

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.data.dopamine import files as replay_files
from cql_atari.data.rlds import files as rlds_files
from cql_atari.data.rlds.files import NAME, VERSION
from cql_atari.runs import folder as workdir
from cql_atari.system import cli


class Job(NamedTuple):
    """One run of one game: the folder of its `.gz` files, the data set's, and what to convert."""

    game: str
    run: int
    source: Path
    target: Path
    suffixes: tuple[int, ...]


def convert_run(job: Job, report: Callable[[int], None]) -> None:
    """Converts the suffixes of a job that aren't converted yet, in order.

    Raises:
      UserError: where another process is converting the same run, a source file is damaged, or
        the data set can't be written. Splits that are finished stay; nothing unfinished does.
    """
    from cql_atari.data.dopamine import reader as dopamine
    from cql_atari.data.rlds import writer

    with _locked(job.target) as partial:
        for suffix in unfinished(job):
            _empty(partial)
            extents = writer.write_split(
                job.target,
                partial,
                game=job.game,
                run=job.run,
                suffix=suffix,
                episodes=dopamine.read_episodes(job.source, job.game, [suffix]),
                source=replay_files.fingerprints(job.source, suffix),
                report=report,
            )
            report(_count_slots(job, suffix) - sum(extent.steps for extent in extents))  # padding


def unfinished(job: Job) -> list[int]:
    """The job's suffixes that the data set doesn't hold.

    Raises:
      UserError: where there is a data set that wasn't made here, or one of other files.
    """
    if not (job.target / rlds_files.INFO).exists():
        return list(job.suffixes)
    there = rlds_files.list_suffixes(job.target)
    noted = rlds_files.read_conversion(job.target)
    finished = [suffix for suffix in job.suffixes if suffix in there]
    for suffix in finished:
        if suffix not in noted:
            raise UserError(
                f"{job.target} holds a suffix {suffix} that wasn't converted here; give another "
                "--out_dir, or remove it."
            )
        if noted[suffix]["source"] != replay_files.fingerprints(job.source, suffix):
            raise UserError(
                f"{job.target} holds a suffix {suffix} converted from other files than those in "
                f"{job.source}; give another --out_dir, or remove it."
            )
    return [suffix for suffix in job.suffixes if suffix not in finished]


def _count_slots(job: Job, suffix: int) -> int:
    with replay_files.open_group(job.source, suffix) as group:
        return group.valid


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[Path]:
    """A hidden folder in the target, this process's alone while it converts; it goes at last."""
    partial = target / ".partial"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(target, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"can't use {target} ({error.strerror}); give another --out_dir."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except BlockingIOError as error:
        raise UserError(f"another process is converting to {target}; wait for it.") from error
    finally:
        os.close(lock)


def _empty(folder: Path) -> None:
    """Makes a folder afresh: a process that was killed may have left its files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def find_jobs(
    data_dir: Path, out_dir: Path, names: list[str], runs: list[int], suffixes: list[int]
) -> list[Job]:
    """What to convert, in the order of games and runs; an empty list stands for all there are.

    Raises:
      UserError: where something that is asked for isn't there, or nothing is.
    """
    for name in names:
        games.spec(name)
    jobs = []
    for game in names or sorted(games.table()):
        present = sorted(
            int(folder.parent.name)
            for folder in (data_dir / game).glob("*/replay_logs")
            if folder.parent.name.isdigit()
        )
        wanted = runs or present
        if (names or present) and (not wanted or set(wanted) - set(present)):
            raise UserError(
                f"no {data_dir}/{game}/<run>/replay_logs of run {wanted or '<any>'}; "
                f"there are runs {present}."
            )
        for run in wanted if present else []:
            source = data_dir / game / str(run) / "replay_logs"
            target = out_dir / NAME / f"{game}_run_{run}" / VERSION
            found = replay_files.choose_suffixes(source, suffixes or None)
            jobs.append(Job(game, run, source, target, tuple(found)))
    if not jobs:
        raise UserError(f"no <Game>/<run>/replay_logs in --data_dir={data_dir}.")
    return jobs


def convert(jobs: list[Job], processes: int) -> None:
    """Converts what isn't finished, up to `processes` runs at a time.

    Raises:
      UserError: before anything is converted, where a target holds something else; or the first
        that a worker met, after the others have been stopped.
    """
    from cql_atari.system import worker_pool

    todo = {job: unfinished(job) for job in jobs}
    slots = sum(_count_slots(job, suffix) for job in jobs for suffix in todo[job])
    for job in jobs:
        there = len(job.suffixes) - len(todo[job])
        print(f"{job.game}, run {job.run}: {len(todo[job])} to convert, {there} there already.")
    if waiting := [job for job in jobs if todo[job]]:
        worker_pool.run(convert_run, waiting, processes, slots, "convert")


def _numbers(name: str, values: list[str]) -> list[int]:
    if not all(value.isdecimal() for value in values) or len(set(values)) < len(values):
        raise UserError(f"--{name}={','.join(values)} must be different whole numbers, as in 0,1,2")
    return [int(value) for value in values]


def _define_flags() -> None:
    # Not at import: every command has its own, and a test imports them all.
    flags.DEFINE_string("data_dir", None, "Where <Game>/<run>/replay_logs/ are.", required=True)
    flags.DEFINE_string("out_dir", None, "Where the data sets go.", required=True)
    flags.DEFINE_list("games", [], "Games, CamelCase, separated by commas; default: all there.")
    flags.DEFINE_list("runs", [], "Numbers of runs; default: all there.")
    flags.DEFINE_list("suffixes", [], "K of the files _ckpt.K.gz; default: all there.")
    flags.DEFINE_integer("processes", 2, "Runs converted at the same time.", lower_bound=1)


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags start with --.")
    values = flags.FLAGS
    jobs = find_jobs(
        Path(values.data_dir),
        Path(values.out_dir),
        values.games,
        _numbers("runs", values.runs),
        _numbers("suffixes", values.suffixes),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        convert(jobs, values.processes)
    except KeyboardInterrupt:
        print("stopped; the same command goes on at the unfinished suffixes.", file=sys.stderr)
        return workdir.EXIT_INTERRUPTED
    for job in jobs:
        noted = rlds_files.read_conversion(job.target)
        extents = [extent for suffix in job.suffixes for extent in noted[suffix]["extents"]]
        steps = sum(extent.steps for extent in extents)
        print(f"{job.game}, run {job.run}: {len(extents)} episodes, {steps} steps, {job.target}")
    return 0


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
