"""Reading several parts at once: a sample over all of them, going on, little data."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cql_atari.feed.replay.interleave import START, OpenPart, StreamPosition, interleave, order


def make_parts(sizes, opened):
    """Part p's episodes, each so many segments; a segment is (part, episode, number in it)."""

    def make(part, episodes):
        def read():
            opened.append(part)
            return iter([[(part, e, i) for i in range(n)] for e, n in enumerate(episodes)])

        return read

    return [make(part, episodes) for part, episodes in enumerate(sizes)]


def take(episodes, wanted):
    episode = next(episodes, None)
    return None if episode is None else [(segment, 1) for segment in episode] if wanted else []


def stream(sizes, position=START, *, at_once=3, enough=0, seed=0, opened=None):
    parts = make_parts(sizes, [] if opened is None else opened)
    return interleave(
        parts, position, at_once=at_once, enough=enough, seed=seed, game="Pong", take=take
    )


def test_every_pass_has_all_parts_and_an_order_of_its_own():
    orders = [order(8, seed=1, game="Pong", pass_=p) for p in range(4)]
    assert all(sorted(o) == list(range(8)) for o in orders)
    assert len({tuple(o) for o in orders}) == 4
    assert order(8, seed=1, game="Pong", pass_=2) == orders[2]
    assert order(8, seed=2, game="Pong", pass_=2) != orders[2]
    assert order(8, seed=1, game="Qbert", pass_=2) != orders[2]


def test_an_order_never_changes():
    """A saved position would point into other data."""
    assert order(6, seed=0, game="Pong", pass_=0) == [0, 2, 3, 1, 4, 5]
    assert order(6, seed=0, game="Pong", pass_=1) == [2, 0, 5, 1, 3, 4]


def test_orders_are_uniform():
    firsts = [order(4, seed=0, game="Pong", pass_=p)[0] for p in range(2000)]
    assert all(420 < firsts.count(part) < 580 for part in range(4))


@pytest.mark.parametrize("at_once, parts_in_window", [(1, (1, 2)), (5, (5, 5)), (10, (10, 10))])
def test_a_window_is_a_sample_over_the_parts_that_are_read_at_once(at_once, parts_in_window):
    """10 parts of 100 segments, later ones in longer episodes, as play that gets better: in each
    window of 50, ten parts read at once have a tenth each, up to an episode; one has it all.
    """
    sizes = [[length] * (100 // length) for length in (1, 1, 1, 1, 2, 2, 2, 2, 4, 4)]
    segments = [s for s, _ in itertools.islice(stream(sizes, at_once=at_once, enough=500), 900)]
    for start in range(0, 450, 50):
        shares = Counter(part for part, _, _ in segments[start : start + 50])
        assert parts_in_window[0] <= len(shares) <= parts_in_window[1]
        if at_once == 10:
            assert min(shares.values()) >= 5 - 4 and max(shares.values()) <= 5 + 4


def test_every_segment_is_given_once_a_pass():
    sizes = [[2, 3], [1], [4, 1, 1], [2], [5]]
    for at_once in (1, 2, 5, 9):
        segments = (segment for segment, _ in stream(sizes, at_once=at_once, enough=0))
        counts = Counter(itertools.islice(segments, 19 * 20))
        assert len(counts) == 19 and set(counts.values()) <= {19, 20, 21}


@pytest.mark.parametrize("at", [0, 1, 7, 18, 19, 30, 64, 101])
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_stream_goes_on_at_any_segment_and_opens_no_finished_part(at, at_once):
    sizes = [[2, 3], [1], [4, 1, 1], [2], [5]]
    whole = list(itertools.islice(stream(sizes, at_once=at_once), 150))
    opened: list[int] = []
    rest = stream(sizes, whole[at][1], at_once=at_once, opened=opened)
    assert list(itertools.islice(rest, 150 - at)) == whole[at:]
    first = stream(sizes, whole[at][1], at_once=at_once, opened=(only := []))
    next(first)
    assert len(only) <= at_once + 2  # the open ones, and what replaced those that had ended


@settings(deadline=None)  # a shared machine
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(0, 60),
    st.integers(1, 60),
)
def test_positions_are_exact_for_any_data(sizes, at_once, at, enough):
    total = sum(map(sum, sizes))
    if total < enough:
        assert len(list(stream(sizes, at_once=at_once, enough=enough))) == total
        begun = StreamPosition(
            3, (OpenPart(2, 1),)
        )  # of another setting: all is given nevertheless
        left = list(stream(sizes, begun, at_once=at_once, enough=3 * enough))
        assert len({segment for segment, _ in left}) == total and len(left) <= 3 * total
        return
    whole = list(itertools.islice(stream(sizes, at_once=at_once, enough=enough), 90))
    rest = stream(sizes, whole[at][1], at_once=at_once, enough=enough)
    assert list(itertools.islice(rest, 90 - at)) == whole[at:]


def test_data_that_exceed_the_window_a_little_go_on_exactly():
    """What ends the first pass is read alone until a window is full, also from a later position."""
    sizes = [[1] * 30 for _ in range(10)]
    whole = list(itertools.islice(stream(sizes, at_once=4, enough=290), 600))
    for at in (1, 100, 200, 280, 300):
        rest = stream(sizes, whole[at][1], at_once=4, enough=290)
        assert list(itertools.islice(rest, 600 - at)) == whole[at:]


def test_a_stream_that_no_longer_has_a_segment_ends():
    """As where n_step was raised above all episodes' lengths: it once had given enough."""
    begun = StreamPosition(7, (OpenPart(5, 1),), given=9)
    assert list(stream([[0], [], [0, 0]], begun, enough=9)) == []


def test_a_window_that_became_larger_than_all_data_gets_two_more_passes():
    """However much was given before: otherwise it would be filled with the same data many times."""
    sizes = [[2, 3], [1], [4]]
    *_, (_, late) = itertools.islice(stream(sizes, enough=10), 95)
    left = [segment for segment, _ in stream(sizes, late, enough=1000)]
    assert len(set(left)) == 10 and len(left) <= 4 * 10


def test_a_part_that_is_opened_late_takes_its_turn_like_the_others():
    """Of three parts two are open; when the short one ends, the third begins beside the long one
    and has no lead to catch up with.
    """
    lengths = {0: 4, 1: 12, 2: 12}
    nth = {part: place for place, part in enumerate(order(3, seed=0, game="Pong", pass_=0))}
    sizes = [[1] * lengths[nth[part]] for part in range(3)]
    segments = itertools.islice(stream(sizes, at_once=2, enough=99), 20)
    given = [nth[part] for (part, _, _), _ in segments]
    assert given == [0, 1] * 4 + [1, 2] * 6


def test_data_that_are_not_enough_are_given_once():
    sizes = [[2, 3], [1], [4]]
    assert len(list(stream(sizes, enough=11))) == 10
    assert len(list(itertools.islice(stream(sizes, enough=10), 100))) == 100
    assert next(stream(sizes, enough=11))[1] == START  # so they are given once again from there
    np.testing.assert_array_equal(
        sorted(s for s, _ in stream(sizes, enough=11, at_once=1)),
        sorted(s for s, _ in stream(sizes, enough=11, at_once=9)),
    )
