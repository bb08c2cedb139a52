"""Converts recorded play from any format to RLDS of TensorFlow Datasets, or to plain arrays.

    python -m cql_atari.tools.convert --data_dir=DIR --out_dir=OUT [--to=rlds|arrays]
        [--games=Breakout,Pong] [--runs=1] [--suffixes=0,1]

writes the same runs and suffixes below OUT, without loss: reading them gives the same episodes as
reading DIR. An episode that is cut by a file's end stays two parts, as the `.gz` files lack the
step between them. The writer of each format (`data/*/writer.py`) says how parts are marked and what
it can't hold.

A suffix is written whole or not at all. After an interruption the same command goes on at the first
suffix that isn't finished.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.conversion import read_conversion
from cql_atari.data.format import Source, Target, Writing
from cql_atari.system import cli, signals
from cql_atari.system.files import hold_folder
from cql_atari.tools.selection import count_steps, select_sources


class RunToConvert(NamedTuple):
    """One run of one game; worker processes receive it."""

    source: Source
    target: Path
    target_format: str


def convert_run(run: RunToConvert, report: Callable[[int], None]) -> None:
    """Converts a run's suffixes that aren't converted yet, in order.

    Raises:
      UserError: where another process is converting the same run, a source file is damaged, or
        the target can't be written. Suffixes that are finished stay; nothing unfinished does.
    """
    source = run.source
    in_use = f"another process is converting to {run.target}; wait for it."
    with hold_folder(run.target, in_use, "--out_dir"):
        for suffix in unfinished(run):
            _writing(run.target_format).write(
                Target(run.target, source.game, source.run, suffix),
                sources.read_part(source, suffix),
                source.files[suffix],
                report,
            )


def unfinished(run: RunToConvert) -> list[int]:
    """The run's suffixes that the target doesn't hold.

    Raises:
      UserError: where it holds one that wasn't converted here, or one of other files.
    """
    source, there = run.source, _writing(run.target_format).suffixes_there(run.target)
    noted = read_conversion(run.target) if there else {}
    finished = [suffix for suffix in source.suffixes if suffix in there]
    for suffix in finished:
        if suffix not in noted:
            raise UserError(
                f"{run.target} holds a suffix {suffix} that wasn't converted here; give another "
                "--out_dir, or remove it."
            )
        if noted[suffix].source != source.files[suffix]:
            raise UserError(
                f"{run.target} holds a suffix {suffix} converted from other files than those in "
                f"{source.path}; give another --out_dir, or remove it."
            )
    return [suffix for suffix in source.suffixes if suffix not in finished]


def _writing(name: str) -> Writing:
    writing = sources.format_of(name).writing
    assert writing is not None
    return writing


def runs_to_convert(found: Sequence[Source], out_dir: Path, to: str = "rlds") -> list[RunToConvert]:
    """What converts the sources to the format of the name `to`."""
    folder = _writing(to).folder
    return [RunToConvert(source, folder(out_dir, source.game, source.run), to) for source in found]


def convert(runs: list[RunToConvert], processes: int) -> None:
    """Converts what isn't finished, up to `processes` runs at a time.

    Raises:
      UserError: before anything is converted, where a target holds something else; or the first
        that a worker met, after the others have been stopped.
    """
    from cql_atari.system import worker_pool

    todo = [unfinished(run) for run in runs]
    steps = sum(count_steps(run.source, k) for run, left in zip(runs, todo) for k in left)
    for run, left in zip(runs, todo):
        source, there = run.source, len(run.source.suffixes) - len(left)
        print(f"{source.game}, run {source.run}: {len(left)} to convert, {there} there already.")
    if waiting := [run for run, left in zip(runs, todo) if left]:
        worker_pool.run_jobs(convert_run, waiting, processes, steps, "convert")


def _define_flags() -> None:
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
    out_dir = cli.named_folder("out_dir")
    found = select_sources(
        values.data_dir, out_dir, values.games, runs=cli.numbers("runs"),
        suffixes=cli.numbers("suffixes"),
    )  # fmt: skip
    runs = runs_to_convert(found, out_dir, values.to)
    signals.interrupt_on_sigterm()
    try:
        convert(runs, values.processes)
    except KeyboardInterrupt:
        print("stopped; the same command goes on at the unfinished suffixes.", file=sys.stderr)
        return signals.EXIT_INTERRUPTED
    for source, target, _format in runs:
        noted = read_conversion(target)
        extents = [extent for suffix in source.suffixes for extent in noted[suffix].extents]
        steps = sum(extent.steps for extent in extents)
        print(f"{source.game}, run {source.run}: {len(extents)} episodes, {steps} steps, {target}")
    return 0


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
