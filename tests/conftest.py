"""What all tests share: devices, a clean gin, children that end with their test, memory."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import signal
import tempfile
import threading
import time
from multiprocessing import forkserver
from multiprocessing.util import Finalize

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gin
import graphs
import psutil
import pytest

# Under `nohup`, or in the background of a script, signals are ignored, and children inherit that.
# A handler in place of "ignore" is reset in children, so that they can be stopped as anywhere else.
for number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

# Children of a child that died become ours, so that they are found and ended, too.
_PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)

_HELPERS = ("resource_tracker", "forkserver")  # of multiprocessing: they serve the whole session


@pytest.fixture(autouse=True)
def clean_gin():
    """gin keeps one global configuration; no test sees another's."""
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture(autouse=True, scope="module")
def no_graph_outlives_its_module(request):
    if not _starts_processes(request.module):
        forkserver._forkserver._stop()  # 290 MB; it is started again where it is needed
    yield
    graphs.let_go()


@pytest.fixture(autouse=True)
def no_child_outlives_its_test(request):
    """Ends what a test has started, also where it failed or timed out.

    What fixtures of a wider scope started before the test isn't touched.
    """
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    for child in psutil.Process().children(recursive=True):
        try:
            words = " ".join(child.cmdline())
            helps = child.ppid() == os.getpid() and any(helper in words for helper in _HELPERS)
            if child.pid not in before and not helps:
                child.kill()
                child.wait(10)
        except psutil.Error:
            continue  # it has ended meanwhile


class PeakMemory:
    """The most memory that pytest and all its processes held together, in bytes.

    What several of them share counts once: each one's proportional set size. The kernel spends some
    25 ms on that for each process, an eighth of two cores if asked twice a second; so it is asked
    where the sum of what isn't shared with files, which costs nothing, is higher than ever.
    """

    def __init__(self) -> None:
        self.peak, self.started = 0, time.monotonic()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        highest = 0
        while not self._ended.wait(0.5):
            ours = psutil.Process()
            processes = [ours, *ours.children(recursive=True)]
            memory = [_asked(process.memory_info) for process in processes]
            now = sum(known.rss - known.shared for known in memory if known)
            if now > 1.02 * highest:
                highest = now
                whole = [_asked(process.memory_full_info) for process in processes]
                self.peak = max(self.peak, sum(known.pss for known in whole if known))

    def stop(self) -> None:
        self._ended.set()


def _asked(question):
    """The answer; None of a process that has ended."""
    try:
        return question()
    except psutil.Error:
        return None


def pytest_collection_modifyitems(items):
    """First the modules that start processes, while the workers, which grow with what they compile,
    are still small. Then the slow ones: with two workers none is left over for the end.
    """
    items.sort(key=lambda item: (
        not _starts_processes(item.module), item.get_closest_marker("slow") is None
    ))  # fmt: skip


def _starts_processes(module):
    return hasattr(module, "processes")


def pytest_collection_finish():
    """What is imported by now stays: the collector needn't look through it after each module."""
    gc.collect()
    gc.freeze()


def pytest_configure(config):
    is_worker = hasattr(config, "workerinput")
    if not is_worker:  # one watches, not each worker
        config.peak_memory = PeakMemory()
        _own_temporary_folder()
    if is_worker or not config.getoption("numprocesses", None):
        _divide_the_processor()


def _own_temporary_folder():
    """What processes leave that were killed, AutoGraph's files among it, goes with the session.

    `tmp_path` stays where pytest has it, so that a failed test's files can be looked at.
    """
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix="cql_atari_tests_")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    # After multiprocessing has deleted its own folder in it, which has priority -100.
    Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)


def _divide_the_processor():
    """Two logical devices, so that strategies with several replicas run on any machine."""
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )


def pytest_terminal_summary(terminalreporter, config):
    memory = config.peak_memory
    memory.stop()
    minutes = (time.monotonic() - memory.started) / 60
    terminalreporter.write_line(
        f"{minutes:.1f} minutes, {memory.peak / 1e9:.2f} GB of memory at most over all processes"
    )
