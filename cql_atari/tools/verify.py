"""Checks recorded play: every file to its end, every value; says what is wrong and where.

  python -m cql_atari.tools.verify DIR [--repair=FILE]

DIR is a data folder, a game's, a run's or `replay_logs` itself (DQN-Replay files), or an RLDS data
set. Prints a line a file and exits with 1 if anything is wrong. `--repair` writes what must be left
out to FILE, for `data.exclude`; nothing is ever written into DIR.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from absl import flags
from tqdm import tqdm

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.dopamine import check as verify
from cql_atari.data.dopamine import files as replay_files
from cql_atari.data.dopamine.check import FileCheck, SuffixCheck
from cql_atari.data.rlds import files as rlds_files
from cql_atari.system import cli

EXIT_WRONG = 1
EXIT_STOPPED = 130  # as the shell's for Ctrl-C: nothing is kept, the next check starts afresh
_LOGS = "replay_logs"
_RLDS_RUN = re.compile(r"([A-Za-z]+)_run_([0-9]+)")
_SHOWN = 5  # problems of a file

# {"Game/run": {suffix: ranges}}
Exclusions = dict[str, dict[str, list[tuple[int, int]]]]


class Recording(NamedTuple):
    """One run of one game, which may be incomplete or broken.

    Attributes:
      game: CamelCase name.
      run: number of the run.
      path: its `replay_logs`, or the folder of its RLDS data set.
      is_rlds: which of the two.
    """

    game: str
    run: str
    path: Path
    is_rlds: bool = False


class _Stopped(Exception):
    """Raised where a thread reports progress after the user has interrupted."""


def find(directory: Path) -> list[Recording]:
    """The recordings in a folder of data, of a game or of a run, or in `replay_logs` itself.

    Raises:
      UserError: where there is none, a folder can't be listed, or a game is unknown.
    """
    base = Path(os.path.abspath(directory))
    if base.name == _LOGS:
        paths = [base]
    elif _LOGS in (names := _list(base)):
        paths = [base / _LOGS]
    elif base.name in games.table():
        paths = [base / run / _LOGS for run in names if run.isdigit()]
    else:
        paths = list(_find_in_tree(base, names))
    recordings = [Recording(path.parents[1].name, path.parent.name, path) for path in paths]
    recordings += _find_rlds(base)
    if not recordings:
        raise UserError(
            f"{directory} holds no recorded play. Expected inside: <Game>/<run>/replay_logs, for "
            "example Breakout/1/replay_logs, or "
            f"{sources.RLDS_NAMES[0]}/<Game>_run_<run>/<version>."
        )
    for recording in recordings:
        games.spec(recording.game)
    return recordings


def _find_rlds(folder: Path) -> Iterator[Recording]:
    """The RLDS data sets in a folder; of several versions the newest, as training takes it."""
    if match := _RLDS_RUN.fullmatch(folder.name):
        versions = sources.list_versions(str(folder))
        yield Recording(match[1], match[2], folder / versions[-1] if versions else folder, True)
    elif (match := _RLDS_RUN.fullmatch(folder.parent.name)) and (folder / rlds_files.INFO).exists():
        yield Recording(match[1], match[2], folder, True)
    elif folder.is_dir():
        inside = (f for f in map(folder.joinpath, _list(folder)) if f.is_dir())
        for child in inside:
            if child.name in sources.RLDS_NAMES or _RLDS_RUN.fullmatch(child.name):
                yield from _find_rlds(child)


def _find_in_tree(base: Path, names: Sequence[str]) -> Iterator[Path]:
    for name in names:
        folder = base / name
        if os.path.islink(folder) and not folder.exists():
            raise UserError(f"{folder} is a symbolic link that leads nowhere; mend or remove it.")
        if not folder.is_dir() or name.startswith("."):
            continue
        for run in filter(str.isdigit, _list(folder)):
            # A known game's run must hold play; in another folder, `1` may be anything.
            if name in games.table() or os.path.lexists(folder / run / _LOGS):
                yield folder / run / _LOGS


def _list(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory), key=lambda name: (len(name), name))
    except OSError as error:
        raise UserError(f"cannot list {directory}: {error.strerror}.") from error


def check(
    recordings: Sequence[Recording], show: Callable[[Sequence[FileCheck]], None]
) -> Exclusions:
    """Checks recordings, several suffixes at a time.

    Args:
      recordings: what to check.
      show: called with what came out for the files of each suffix, in order.

    Returns:
      What to leave out, as in the file for `data.exclude`.

    Raises:
      KeyboardInterrupt: after all threads have stopped.
    """
    jobs: list[tuple[Recording, int]] = []
    for recording in recordings:
        try:
            suffixes = _list_suffixes(recording)
        except UserError as error:
            show([FileCheck(recording.path, None, (verify.Problem(None, str(error)),))])
            continue
        jobs += [(recording, suffix) for suffix in suffixes]
    total = sum(
        _checker(recording).total_bytes(recording.path, suffix) for recording, suffix in jobs
    )
    stop = threading.Event()
    exclude: Exclusions = {}
    with (
        tqdm(total=total, unit="B", unit_scale=True, desc="verify", mininterval=1) as bar,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        try:
            report = functools.partial(_report, bar, stop)
            futures = [pool.submit(_check, report, *job) for job in jobs]
            for (recording, suffix), future in zip(jobs, futures):
                files, left_out = future.result()
                show(files)
                if left_out:
                    run = f"{recording.game}/{recording.run}"
                    exclude.setdefault(run, {})[str(suffix)] = left_out
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return exclude


def _list_suffixes(recording: Recording) -> list[int]:
    lister = rlds_files if recording.is_rlds else replay_files
    return lister.list_suffixes(recording.path)


def _checker(recording: Recording) -> ModuleType:
    if not recording.is_rlds:
        return verify
    from cql_atari.data.rlds import check as verify_rlds  # TensorFlow, only where it is needed

    return verify_rlds


def _check(report: Callable[[int], None], recording: Recording, suffix: int) -> SuffixCheck:
    report(0)
    return _checker(recording).check_suffix(recording.path, recording.game, suffix, report)


def _report(bar: tqdm, stop: threading.Event, done: int) -> None:
    if stop.is_set():
        raise _Stopped
    bar.update(done)


class _Table:
    """Prints a line a file, and what is wrong with it below; counts."""

    def __init__(self) -> None:
        self.files = self.wrong = 0
        print(f"{'status':<8}{'entries':>12}{'first bad':>12}  file")

    def show(self, files: Sequence[FileCheck]) -> None:
        lines = []
        for file in files:
            places = [problem.entry for problem in file.problems if problem.entry is not None]
            status = "WRONG" if file.problems else "ok"
            first = min(places, default="-")
            entries = "-" if file.entries is None else file.entries
            lines.append(f"{status:<8}{entries:>12}{first:>12}  {file.path}")
            lines += [f"        {problem.text}" for problem in file.problems[:_SHOWN]]
            if (more := len(file.problems) - _SHOWN) > 0:
                lines.append(f"        and {more} more")
            self.wrong += bool(file.problems)
        self.files += len(files)
        tqdm.write("\n".join(lines), sys.stdout)


def _check_repair_path(repair: Path, directory: Path, recordings: Sequence[Recording]) -> None:
    """Refuses what would be written into the data, can't be written, or would mean two things."""
    if len({recording[:2] for recording in recordings}) < len(recordings):
        raise UserError("the folder holds a run in two formats; give --repair one of them as DIR.")
    target = repair.resolve()
    for data in (directory, *(recording.path for recording in recordings)):
        if target.is_relative_to(data.resolve()):
            raise UserError(f"--repair={repair} lies in the data ({data}); give a file elsewhere.")
    if repair.is_dir() or not os.access(target.parent, os.W_OK):
        raise UserError(f"--repair={repair} can't be written; give a file in a folder that is.")


def _write(repair: Path, exclude: Exclusions) -> None:
    partial = repair.with_name(f".{repair.name}.partial")
    content = {"format": sources.EXCLUSIONS, "exclude": exclude}
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.rename(repair)


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        raise UserError(
            "give one folder to check: python -m cql_atari.tools.verify DIR [--repair=FILE]."
        )
    directory, repair = Path(argv[1]), flags.FLAGS.repair and Path(flags.FLAGS.repair)
    recordings = find(directory)
    if repair:
        _check_repair_path(repair, directory, recordings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    table = _Table()
    try:
        exclude = check(recordings, table.show)
    except KeyboardInterrupt:
        print(f"stopped after {table.files} files; nothing was written.", file=sys.stderr)
        return EXIT_STOPPED
    print(f"{table.files} files checked, {table.wrong} wrong.")
    if repair:
        _write(repair, exclude)
        print(f"wrote {repair}: train with --gin_bindings=\"data.exclude='{repair}'\"")
    return EXIT_WRONG if table.wrong else 0


def _define_flags() -> None:
    # Not at import: every command has its own, and a test imports them all.
    flags.DEFINE_string("repair", None, "Write here what must be left out, for data.exclude.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
