"""The memory feed's store: what it takes, what it refuses, and no second copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_episodes import extents, make_episode

from cql_atari.core.types import Extent, UserError
from cql_atari.feed import drawing, positions
from cql_atari.feed.memory import store as memory
from cql_atari.feed.sampling import BatchLaw
from cql_atari.methods.method import Transitions

GAMES = ("Pong", "Breakout")


def episodes():
    yield make_episode(0, 6, game="Breakout")
    yield make_episode(1, 9, terminal=False)
    yield make_episode(2, 0)
    yield make_episode(3, 8, game="Breakout", starts=False)
    yield make_episode(4, 1)


def table():
    return positions.episodes(extents(episodes(), GAMES))


def anonymous_mb():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1e3


def test_batches_take_no_copy_of_the_frames():
    """A second copy would double the largest thing in memory: 282 MB here."""
    played = [make_episode(i, 200) for i in range(200)]
    store = memory.load(played, positions.episodes(extents(played, ["Pong"])))
    del played
    before = anonymous_mb()
    data = drawing.dataset(
        store, BatchLaw(4, 2), Transitions(1, 0.9), seed=0, start_step=0, steps_per_call=1
    )
    batches = iter(data)
    next(batches)
    assert anonymous_mb() - before < 100


def test_the_bytes_are_exactly_what_is_taken():
    store = memory.load(episodes(), table())
    columns = [getattr(store, name)[:24] for name in memory.COLUMNS]
    assert memory.num_bytes(store.episodes) == sum(column.nbytes for column in columns)
    assert store.frames.shape == (25, 84, 84) and not store.frames[24].any()
    assert memory.num_bytes(store.episodes) == (6 + 9 + 8 + 1) * (7056 + 9)


def test_every_step_is_written():
    """Into columns full of garbage, which is what memory holds at first."""
    untouched = {name: np.ones(24, bool) for name in memory.COLUMNS}

    def write(name, start, values):
        untouched[name][start : start + len(values)] = False

    memory.fill(write, episodes(), table())
    assert not any(left.any() for left in untouched.values())


@pytest.mark.parametrize(
    "others",
    [
        [make_episode(1, 9), make_episode(2, 12)],
        [make_episode(1, 9), make_episode(2, 10)],
        [make_episode(1, 9)],
        [make_episode(1, 9), make_episode(2, 11, terminal=False)],
        [make_episode(2, 11), make_episode(1, 9)],
        [make_episode(1, 9), make_episode(2, 11), make_episode(3, 3)],
    ],
    ids=["longer", "shorter", "fewer", "cut", "order", "more"],
)
def test_other_episodes_than_were_counted_are_refused(others):
    planned = positions.episodes({"Pong": [Extent(9, True, True), Extent(11, True, True)]})
    memory.load([make_episode(1, 9), make_episode(2, 11)], planned)
    with pytest.raises(UserError, match="changed while they were read"):
        memory.load(others, planned)


def test_more_than_the_budget_is_refused_with_the_number_and_what_to_do():
    """A million frames of 7,056 bytes and 9 bytes of columns."""
    planned = positions.episodes({"Pong": [Extent(1_000_000, True, True)]})
    assert memory.num_bytes(planned) == 7_065_000_000
    memory.check_budget(planned, 7_065_000_000, "all of it")
    with pytest.raises(UserError) as caught:
        memory.check_budget(planned, 1.5e9, "feed.memory_gb")
    for words in ("7.07 GB", "1.5 GB", "'packed'", "'replay'", "data.fraction to 0.21",
                  "feed.cache_dir", "feed.memory_gb"):  # fmt: skip
        assert words in str(caught.value)
