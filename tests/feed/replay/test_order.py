"""The order of a pass: every part once, another one a pass, a game and a seed; always the same."""

from __future__ import annotations

import itertools

from cql_atari.feed.replay.order import order


def test_every_part_once_in_an_order_of_its_own_for_each_seed_game_and_pass():
    cases = list(itertools.product((0, 1, 2**63), ("Pong", "Breakout"), (0, 1, 2**40)))
    orders = {tuple(order(50, seed=s, game=g, pass_=p)) for s, g, p in cases}
    assert len(orders) == len(cases)
    assert all(sorted(found) == list(range(50)) for found in orders)


def test_it_never_changes():
    """A saved place would point into other data."""
    assert order(6, seed=0, game="Pong", pass_=0) == [0, 2, 3, 1, 4, 5]
    assert order(6, seed=0, game="Pong", pass_=1) == [2, 0, 5, 1, 3, 4]


def test_uniform():
    firsts = [order(4, seed=0, game="Pong", pass_=p)[0] for p in range(2000)]
    assert all(420 < firsts.count(part) < 580 for part in range(4))
