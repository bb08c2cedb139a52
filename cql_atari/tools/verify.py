"""Checks recorded play, every file to its end and every value; says what is wrong and where.

  python -m cql_atari.tools.verify DIR [--repair=FILE]

DIR is a data folder or any folder in it that holds recorded play of one or more runs. Prints a line
per file, those with problems last, and exits with 1 if any file is wrong; warnings alone don't
count. `--repair` writes to FILE what must be left out, for `data.exclude`; nothing is ever written
into DIR.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import flags

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.format import FileCheck, Format, Problem, SuffixCheck
from cql_atari.data.shared import Recording
from cql_atari.system import cli, signals
from cql_atari.system.files import write_whole
from cql_atari.system.progress import Progress

EXIT_WRONG = 1
EXIT_STOPPED = 130  # as after Ctrl-C in a shell: nothing is kept
_SHOWN = 5  # problems of a file

# {"Game/run": {suffix: ranges}}
Exclusions = dict[str, dict[str, list[tuple[int, int]]]]
Found = Sequence[tuple[Format, Recording]]


class _Stopped(Exception):
    """Raised where a thread reports progress after the user has interrupted."""


def recordings_in(directory: Path) -> list[tuple[Format, Recording]]:
    """The recordings in a folder of data, of a game, of a run, or in the recording itself.

    Raises:
      UserError: where there is none, a folder can't be listed, or a game is unknown.
    """
    found = sources.recordings(directory)
    if not found:
        raise UserError(
            f"{directory} holds no recorded play. Expected inside:\n     {sources.layouts()}"
        )
    for _, recording in found:
        games.spec(recording.game)
    return found


def check(found: Found, show: Callable[[Sequence[FileCheck]], None]) -> Exclusions:
    """Checks recordings, several suffixes at a time.

    Args:
      found: what to check.
      show: called with the results for the files of each suffix, in order.

    Returns:
      What to leave out, as in the file for `data.exclude`.

    Raises:
      KeyboardInterrupt: after all threads have stopped.
    """
    jobs: list[tuple[Format, Recording, int]] = []
    for kind, recording in found:
        try:
            suffixes = kind.list_suffixes(recording.path)
        except UserError as error:
            show([FileCheck(Path(recording.path), None, (Problem(None, str(error)),))])
            continue
        jobs += [(kind, recording, suffix) for suffix in suffixes]
    total = sum(kind.total_bytes(Path(recording.path), k) for kind, recording, k in jobs)
    stop = threading.Event()
    exclude: Exclusions = {}
    with (
        Progress("verifying", "MB", total / 1e6) as line,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        try:
            report = functools.partial(_report, line, stop)
            futures = [pool.submit(_check, report, *job) for job in jobs]
            for (_, recording, suffix), future in zip(jobs, futures):
                files, left_out = future.result()
                line.end()
                show(files)
                if left_out:
                    run = f"{recording.game}/{recording.run}"
                    exclude.setdefault(run, {})[str(suffix)] = left_out
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return exclude


def _check(
    report: Callable[[int], None], kind: Format, recording: Recording, suffix: int
) -> SuffixCheck:
    report(0)
    return kind.check_suffix(Path(recording.path), recording.game, suffix, report)


def _report(line: Progress, stop: threading.Event, done: int) -> None:
    if stop.is_set():
        raise _Stopped
    line.add(done / 1e6)


class _Table:
    """Prints the line of a sound file at once, and the lines of all others at the end.

    Attributes:
      files, wrong, strange: how many there were; how many with errors, and with warnings only.
    """

    def __init__(self) -> None:
        self.files = self.wrong = self.strange = 0
        self._kept: list[str] = []
        print(f"{'status':<8}{'entries':>12}{'first bad':>12}  file")

    def show(self, files: Sequence[FileCheck]) -> None:
        for file in files:
            places = [problem.entry for problem in file.problems if problem.entry is not None]
            status = "WRONG" if file.is_wrong else "warning" if file.problems else "ok"
            entries = "-" if file.entries is None else file.entries
            line = f"{status:<8}{entries:>12}{min(places, default='-'):>12}  {file.path}"
            if not file.problems:
                print(line, flush=True)
                continue
            self._kept.append(line)
            self._kept += [f"        {problem.text}" for problem in file.problems[:_SHOWN]]
            if (more := len(file.problems) - _SHOWN) > 0:
                self._kept.append(f"        and {more} more")
            self.wrong += file.is_wrong
            self.strange += not file.is_wrong
        self.files += len(files)

    def end(self) -> None:
        """Prints what was kept."""
        if self._kept:
            print("\n".join(["", *self._kept, ""]))


def _check_repair_path(repair: Path, directory: Path, found: Found) -> None:
    """Refuses a file in the data or that can't be written, and data with a run in two formats."""
    recordings = [recording for _, recording in found]
    if len({recording[:2] for recording in recordings}) < len(recordings):
        raise UserError("the folder holds a run in two formats; give --repair one of them as DIR.")
    target = repair.resolve()
    for data in (directory, *(Path(recording.path) for recording in recordings)):
        if target.is_relative_to(data.resolve()):
            raise UserError(
                f"--repair={repair} is inside the data ({data}); give a file elsewhere."
            )
    if repair.is_dir() or not os.access(target.parent, os.W_OK):
        raise UserError(f"--repair={repair} can't be written; give a file in a folder that is.")


def _write(repair: Path, exclude: Exclusions) -> None:
    content = {"format": sources.EXCLUSIONS, "exclude": exclude}
    write_whole(repair, json.dumps(content, indent=1) + "\n")


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        raise UserError(
            "give one folder to check: python -m cql_atari.tools.verify DIR [--repair=FILE]."
        )
    directory, given = Path(argv[1]), flags.FLAGS.repair
    repair = None if given is None else Path(given)  # an empty one is refused as the folder "."
    found = recordings_in(directory)
    if repair:
        _check_repair_path(repair, directory, found)
    signals.interrupt_on_sigterm()
    table = _Table()
    try:
        exclude = check(found, table.show)
    except KeyboardInterrupt:
        table.end()
        print(f"stopped after {table.files} files; nothing was written.", file=sys.stderr)
        return EXIT_STOPPED
    table.end()
    warnings = f", {table.strange} with warnings" if table.strange else ""
    print(f"{table.files} files checked, {table.wrong} wrong{warnings}.")
    if repair:
        _write(repair, exclude)
        print(f"wrote {repair}: train with --gin_bindings=\"data.exclude='{repair}'\"")
    return EXIT_WRONG if table.wrong else 0


def _define_flags() -> None:
    flags.DEFINE_string("repair", None, "Write here what must be left out, for data.exclude.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main, takes_arguments=True)
