"""Signals that ask a process to stop."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import stat
from collections.abc import Callable, Iterator

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: saved; run the same command to go on


class EndNow(BaseException):
    """A second signal. Not a KeyboardInterrupt, which asks for a stop that saves first."""


def interrupt_on_sigterm() -> None:
    """From now on SIGTERM raises KeyboardInterrupt in the main thread, as SIGINT does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yields a predicate that turns true on SIGINT, SIGTERM, SIGHUP; a second one raises `EndNow`.

    SIGHUP comes when a terminal or an ssh connection ends: what is printed later goes nowhere,
    since writing there would fail. Where `nohup` ignores it, so do we.

    It turns true in every thread at once, even while the main thread is in a long call outside
    Python, where no handler can run.
    """
    seen: list[int] = []
    told, wake = socket.socketpair()
    wake.setblocking(False)

    def note(number: int, _frame: object) -> None:
        seen.append(number)
        if number == signal.SIGHUP:
            _leave_terminal()
        if len(seen) > 1:
            raise EndNow

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
