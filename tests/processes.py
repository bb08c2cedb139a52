"""Our commands in processes forked from one that has imported TensorFlow already.

A new interpreter spends 5 s of processor time on importing TensorFlow and TF-Agents; a fork has
them at once. Signals, exit code, environment and files are its own, as after `python -m`. Tests of
the start itself (what `--help` imports, how fast a mistake is told) take `subprocess`.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from typing import IO

_PR_SET_PDEATHSIG = 1
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([
    "tensorflow", "reverb", "cql_atari.training.run", "cql_atari.methods.scaled_q",
    "cql_atari.feed.recorded", "cql_atari.feed.replay.service", "cql_atari.evaluation.rollout",
])  # fmt: skip


class Popen:
    """What tests need of `subprocess.Popen`, for `[sys.executable, "-m", module, *flags]` and `-c`.

    Output goes into the files given, or into one of our own that `communicate` returns.
    """

    def __init__(
        self, command: Sequence[object], *, env: Mapping[str, str] | None = None,
        stdout: IO[str] | None = None, stderr: IO[str] | None = None,
    ) -> None:  # fmt: skip
        python, *self.args = map(str, command)
        assert python == sys.executable and self.args[0] in ("-c", "-m"), command
        # Copies of what is given: the caller may close its own before the process has opened it.
        self._files = [os.fdopen(os.dup(file.fileno()) if file else os.memfd_create("said"))
                       for file in (stdout, stderr)]  # fmt: skip
        paths = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in self._files]
        arguments = (self.args, dict(os.environ if env is None else env), paths)
        self._process = CONTEXT.Process(target=_run, args=arguments)
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end; returns what it wrote, stdout and stderr."""
        self.wait(timeout)
        out, errors = self.said()
        return out, errors

    def said(self) -> list[str]:
        """What it has written so far, stdout and stderr."""
        said = []
        for file in self._files:
            with open(f"/proc/self/fd/{file.fileno()}") as written:
                said.append(written.read())
        return said

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def run(command: Sequence[object], *, timeout: float = 300) -> subprocess.CompletedProcess:
    """As `subprocess.run(command, capture_output=True, text=True)`; the command ends in time."""
    process = Popen(command)
    try:
        out, errors = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def _run(arguments: list[str], environment: dict[str, str], paths: list[str]) -> None:
    gc.freeze()  # what was imported for all stays: the collector needn't look through it
    # If pytest dies, so does the server, and with it this process.
    os.close(forkserver._forkserver._forkserver_alive_fd)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, path in enumerate(paths, 1):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    flag, program, *sys.argv[1:] = arguments
    try:
        if flag == "-c":
            exec(program, {"__name__": "__main__"})
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out
