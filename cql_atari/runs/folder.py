"""A run's folder: one process at a time, one configuration, and how a process is asked to stop."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import os
import select
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from cql_atari.core import settings
from cql_atari.core.settings_check import from_json
from cql_atari.core.types import UserError

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: saved; run the same command to go on


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the run's folder for this process; the kernel lets go of it however the process ends.

    Raises:
      UserError: where another process holds it, or the folder can't be made.
    """
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(workdir / "lock", "a+"))
        except OSError as error:
            raise UserError(f"can't use --workdir {workdir}: {error.strerror}.") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise UserError(
                f"--workdir {workdir} is in use by process {file.read() or '?'}; wait for it, "
                "stop it, or choose another --workdir."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def has_begun(workdir: Path) -> bool:
    """Whether a run has saved anything there that another configuration or data would spoil."""
    return any((workdir / "checkpoints").glob("[0-9]*"))


def record(workdir: Path, config: settings.Config, accept_change: bool) -> None:
    """Writes config.gin (to read) and config.json (for evaluation) at the start of a run.

    Raises:
      UserError: where the run there began with another configuration; shows the difference.
    """
    path, text = workdir / "config.gin", settings.to_gin(config)
    changed = has_begun(workdir) and path.exists() and path.read_text() != text
    if changed and not accept_change:
        old = path.read_text().splitlines()
        lines = difflib.unified_diff(
            old, text.splitlines(), "recorded", "asked for", lineterm="", n=0
        )
        changes = [line for line in lines if not line.startswith("@@")]
        raise UserError(
            "\n".join([f"--workdir {workdir} was made with another configuration:", *changes])
            + "\nChoose another --workdir, or go on with the new one by --accept_config_change."
        )
    for name, content in (
        ("config.gin", text),
        ("config.json", json.dumps(settings.to_dict(config), indent=1) + "\n"),
    ):
        partial = workdir / f"{name}.partial"
        partial.write_text(content)
        partial.rename(workdir / name)


def read_config(workdir: Path) -> settings.Config:
    """The configuration of a recorded run, from its JSON.

    Raises:
      UserError: where there is none, or it doesn't fit this version.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} holds no run (no config.json); give a train --workdir.")
    return from_json(path.read_bytes(), str(path))


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yields a predicate that turns true on SIGINT, SIGTERM, SIGHUP; a second signal ends at once.

    SIGHUP comes when a terminal or an ssh connection ends: what is printed later goes nowhere,
    since writing there would fail. Where `nohup` ignores it, so do we.

    It turns true in every thread at once, even while the main one is in a call that doesn't return
    to Python, where no handler can run.
    """
    seen: list[int] = []
    told, wake = socket.socketpair()
    wake.setblocking(False)

    def note(number: int, _frame: object) -> None:
        seen.append(number)
        if number == signal.SIGHUP:
            _leave_terminal()
        if len(seen) > 1:
            raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    old = {number: signal.signal(number, note) for number in numbers}
    old_wake = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    try:
        yield lambda: bool(seen or select.select([told], [], [], 0)[0])
    finally:
        signal.set_wakeup_fd(old_wake)
        for number, handler in old.items():
            signal.signal(number, handler)
        told.close()
        wake.close()


def _leave_terminal() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        if stat.S_ISCHR(os.fstat(output).st_mode):
            os.dup2(nowhere, output)
    os.close(nowhere)
