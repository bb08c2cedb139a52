"""Runs jobs in worker processes with a line of progress; a failure or Ctrl-C stops all of them."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from cql_atari.core.types import UserError
from cql_atari.system.progress import Progress

# Does one job; calls its second argument with the steps done since the last call, often.
Work = Callable[[Any, Callable[[int], None]], None]


class Stopped(Exception):
    """Raised by the report function where another worker failed or the user interrupted."""


def run_jobs(work: Work, jobs: Sequence[Any], processes: int, total_steps: int, title: str) -> None:
    """Does each job in one of up to `processes` workers; returns when all are done.

    Args:
      work: a function that a new process can import; clean up after `Stopped` as after any error.
      jobs: picklable.
      processes: the most workers at a time.
      total_steps: the sum of what all jobs will report.
      title: of the line of progress.

    Raises:
      UserError, OSError: the first that a worker raised, after the others stopped.
      RuntimeError: what else a worker raised first. As its cause each of these has the job and the
        worker's traceback.
      UserError: where a worker died.
      KeyboardInterrupt: after the workers stopped.
    """
    context = multiprocessing.get_context("spawn")  # workers may import TensorFlow; never fork it
    waiting, messages, stop = context.Queue(), context.Queue(), context.Event()
    workers = [
        context.Process(target=_work, args=(work, waiting, messages, stop), daemon=True)
        for _ in range(min(processes, len(jobs)))
    ]
    for item in [*jobs, *[None] * len(workers)]:
        waiting.put(item)
    # Workers inherit this: Ctrl-C reaches them too, but this process stops them.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for worker in workers:
        worker.start()
    signal.signal(signal.SIGINT, handler)
    try:
        with Progress(title, "steps", total_steps) as line:
            _follow(workers, messages, line)
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def _follow(workers: Sequence[Any], messages: Any, line: Progress) -> None:
    """Shows progress until all workers have ended without error and all messages are read."""
    while any(worker.is_alive() for worker in workers) or not messages.empty():
        try:
            message = messages.get(timeout=0.2)
        except queue.Empty:
            message = 0
        if isinstance(message, tuple):
            error, where = message
            raise error from RuntimeError(where)
        line.add(message)
        if failed := [worker.exitcode for worker in workers if worker.exitcode]:
            killed = ", killed, often for lack of memory: start fewer processes"
            advice = killed if failed[0] == -signal.SIGKILL else "; see its own messages above"
            raise UserError(f"a worker ended with exit code {failed[0]}{advice}")


def _work(work: Work, waiting: Any, messages: Any, stop: Any) -> None:
    """A worker: does jobs from a queue until it finds None. It sends steps, or the error that ends
    it with the job and the traceback.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(steps: int) -> None:
        if stop.is_set():
            raise Stopped
        messages.put(steps)

    try:
        while (job := waiting.get()) is not None:
            work(job, report)
    except Stopped:
        pass
    except Exception as error:
        # Commands tell users' errors and a full disk without a traceback. Others are sent as words:
        # not every exception can be pickled.
        told = isinstance(error, (UserError, OSError))
        where = f"a worker failed at {job!r}:\n{traceback.format_exc()}"
        messages.put((error if told else RuntimeError(f"{type(error).__name__}: {error}"), where))


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed: a killed parent can't stop its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
