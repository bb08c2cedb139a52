"""What all tests share: devices, a clean gin, children that end with their test, memory."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

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
def no_graph_outlives_its_module():
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

    What several of them share counts once: each one's proportional set size.
    """

    def __init__(self) -> None:
        self.peak, self.started = 0, time.monotonic()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> int:
        ours, total = psutil.Process(), 0
        for process in [ours, *ours.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        return total

    def stop(self) -> None:
        self._ended.set()


def pytest_collection_modifyitems(items):
    """Slow modules first: with two workers none is left over for the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_configure(config):
    is_worker = hasattr(config, "workerinput")
    if not is_worker:  # one watches, not each worker
        config.peak_memory = PeakMemory()
    if is_worker or not config.getoption("numprocesses", None):
        _divide_the_processor()


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
