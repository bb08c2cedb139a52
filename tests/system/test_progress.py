"""The line of progress: what it says, and how often it is written."""

from __future__ import annotations

import threading

import pytest

from cql_atari.system import progress
from cql_atari.system.progress import Progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("terminal, period", [(True, 0.5), (False, 10.0)])
def test_how_often(capsys, monkeypatch, terminal, period):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    clock = Clock()
    line = Progress("training", "steps", 4_000, clock=clock)
    for tick in range(4_000):
        line.show(tick)
        clock.now += 0.01
    line.end()
    text = capsys.readouterr().err
    written = text.count("of 4,000 steps")
    assert abs(written - 40 / period) <= 1
    # A log gets whole lines; a terminal one that is overwritten and then taken away.
    assert text.count("\n") == (0 if terminal else written)
    assert text.count("\r") == (written + 1 if terminal else 0)


def test_rate_and_time_left_by_hand():
    clock = Clock()
    line = Progress("training", "steps", 1_000, done=200, clock=clock)
    assert line.text() == "training: 200 of 1,000 steps (20 %), 0/s, time left unknown"
    clock.now += 60
    line.pause(20)  # of something else
    line.done = 400
    assert line.text("loss 0.5") == (
        "training: 400 of 1,000 steps (40 %), 5/s, 0:02:00 left, loss 0.5"
    )


def test_what_threads_add_is_all_counted_and_written_once_a_period(capsys):
    with Progress("loading", "frames", 40_000, clock=Clock()) as line:
        threads = [
            threading.Thread(target=lambda: [line.add(1) for _ in range(5_000)]) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert line.done == 40_000 and capsys.readouterr().err == ""


def test_a_line_over_items_counts_those_that_are_done(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    assert list(progress.over("ab", "ranking", "groups")) == ["a", "b"]
    written = [line.split(" (")[0] for line in capsys.readouterr().err.splitlines()]
    assert written == ["ranking: 1 of 2 groups", "ranking: 2 of 2 groups"]


def test_durations():
    assert [progress.duration(s) for s in (0, 59.6, 3_723, 360_000)] == [
        "0:00:00", "0:01:00", "1:02:03", "100:00:00"
    ]  # fmt: skip
