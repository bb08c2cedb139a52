"""The sliding window: how often each segment is drawn, when, and where it can be gone on with."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from cql_atari.feed.replay import window
from cql_atari.feed.replay.interleave import START, StreamPosition


def draws(stream, count, *, period=0, notes=None, size=40, times=8.0, seed=0):
    note = (lambda *told: None) if notes is None else (lambda *told: notes.append(told))
    drawn = window.draws(
        stream, size=size, times=times, seed=seed, game="Pong", period=period, note=note
    )
    return [int(draw[1:]) for draw in itertools.islice(drawn, count)]


def numbers(start=0):
    return ((b"%d" % nth, StreamPosition(nth)) for nth in itertools.count(start))


@pytest.mark.parametrize("times, each", [(8, {8}), (1, {1}), (40, {40}), (100, {40}), (0.5, {0, 1}),
                                         (2.5, {2, 3})])  # fmt: skip
def test_every_segment_is_drawn_as_often_as_asked(times, each):
    """Those that enter after the first window and have left: none more often than another."""
    counts = Counter(draws(numbers(), 40 * 200, times=times))
    step = max(round(40 / times), 1)
    left = range(40, step * 199)
    assert {counts[nth] for nth in left} <= each
    assert sum(counts[nth] for nth in left) / len(left) == pytest.approx(min(times, 40), rel=0.05)


def test_a_period_draws_its_window_once_in_an_order_of_its_own():
    drawn = draws(numbers(), 200)
    periods = [drawn[at : at + 40] for at in range(0, 200, 40)]
    for nth, period in enumerate(periods):
        assert sorted(period) == list(range(5 * nth, 5 * nth + 40))
        assert period != sorted(period)
    assert [n - 5 for n in periods[1]] != periods[0]
    assert draws(numbers(), 200) == drawn != draws(numbers(), 200, seed=1)


def test_it_goes_on_from_any_period():
    notes: list[tuple] = []
    drawn = draws(numbers(), 400, notes=notes)
    for period, size, start in notes:
        again = draws(numbers(start.opened), 400 - 40 * period, period=period)
        assert size == 40 and again == drawn[40 * period :]


def test_no_more_is_read_than_replaces_the_oldest():
    """At the moment of the nth draw of a period of 40, a window of 40 has read n / 8 more."""
    read = []
    stream = (read.append(nth) or (b"", START) for nth in itertools.count())
    for nth, _ in enumerate(window.draws(stream, size=40, times=8, seed=0, game="Pong", period=0,
                                         note=lambda *_: None)):  # fmt: skip
        assert len(read) == 40 + nth // 8
        if nth == 200:
            break


def test_data_that_fit_are_drawn_over_and_over():
    notes: list[tuple] = []
    few = [(b"%d" % nth, START) for nth in range(7)]
    counts = Counter(draws(iter(few), 70, notes=notes, period=3))
    assert counts == dict.fromkeys(range(7), 10)
    assert notes == [(3 + nth, 7, START) for nth in range(10)]
    assert draws(iter([]), 5) == []


def test_the_row_to_begin_with_is_another_one_at_each_draw():
    few = [(b"", START)]
    drawn = window.draws(iter(few), size=9, times=8, seed=0, game="Pong", period=0,
                         note=lambda *_: None)  # fmt: skip
    turns = [draw[0] for draw in itertools.islice(drawn, 4000)]
    counts = Counter(turns)
    assert sorted(counts) == list(range(16)) and min(counts.values()) > 190
