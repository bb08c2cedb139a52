"""Jobs in real processes: done, failed, killed, interrupted."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from cql_atari.core.types import UserError
from cql_atari.system import progress, worker_pool


def write_pid(folder: Path, job: str, report) -> None:
    (folder / job).write_text(str(os.getpid()))
    report(2)
    report(1)


class Odd(Exception):
    """One that can't be pickled and read again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def fail_or_wait(folder: Path, job: str, report) -> None:
    """The others act once "wait" plays; "wait" says so when it was stopped."""
    if job == "wait":
        try:
            (folder / "waiting").touch()
            while True:
                report(1)
                time.sleep(0.01)
        except worker_pool.Stopped:
            (folder / "stopped").touch()
            raise
    while not (folder / "waiting").exists():
        time.sleep(0.01)
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "exit":
        os._exit(3)
    if job == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if job == "bug":
        raise Odd("no", "sense")
    raise UserError("this job can't be done")


def test_every_job_is_done_once_by_no_more_workers_than_asked(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    jobs = ["a", "b", "c"]
    worker_pool.run_jobs(partial(write_pid, tmp_path), jobs, 2, 9, "working")
    pids = {(tmp_path / job).read_text() for job in jobs}
    assert len(pids) <= 2 and str(os.getpid()) not in pids
    assert "working: 9 of 9 steps (100 %)" in capfd.readouterr().err


@pytest.mark.parametrize(
    "job, kind, message",
    [
        ("fail", UserError, "this job can't be done"),
        ("die", UserError, "code -9, .*lack of memory"),
        ("exit", UserError, "code 3; (?!.*memory)"),
        ("full", OSError, "No space left"),
        ("bug", RuntimeError, "Odd: no sense"),
    ],
)
def test_a_failure_is_raised_and_stops_the_others(tmp_path, job, kind, message):
    with pytest.raises(kind, match=message) as raised:
        worker_pool.run_jobs(partial(fail_or_wait, tmp_path), ["wait", job], 2, 100, "working")
    assert (tmp_path / "stopped").exists()
    if job in ("fail", "full", "bug"):  # what Python prints of it names the job and the line
        cause = str(raised.value.__cause__)
        assert cause.startswith(f"a worker failed at {job!r}:\nTraceback") and __file__ in cause


def test_ctrl_c_stops_all_and_is_raised(tmp_path):
    def interrupt():
        while not (tmp_path / "waiting").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell without job control starts its background jobs with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            worker_pool.run_jobs(partial(fail_or_wait, tmp_path), ["wait"], 2, 100, "working")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "stopped").exists()
