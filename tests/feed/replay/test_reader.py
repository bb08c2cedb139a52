"""The replay feed against the memory feed, the batch law, and its promise of independent rows."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from synthetic_episodes import extents, keys, known, make_episode

from cql_atari.core.types import Batch
from cql_atari.feed import drawing, positions
from cql_atari.feed.memory import store as memory
from cql_atari.feed.replay import reader, service, writer
from cql_atari.feed.sampling import BatchLaw, draw_games

GAMES = ("Pong", "Breakout")
EPISODES = {
    "Pong": [make_episode(0, 1), make_episode(1, 18), make_episode(2, 9, terminal=False)],
    "Breakout": [
        make_episode(3, 30, game="Breakout", starts=False),
        make_episode(4, 2, game="Breakout"),
    ],
}


@contextmanager
def open_replay(n_step=1, episodes=EPISODES, transitions_per_game=1600):
    """A replay that holds all of the episodes, ready to be read."""
    parts = {game: [known(mine)] for game, mine in episodes.items()}
    with (
        service.serve(
            list(episodes), n_step=n_step, transitions_per_game=transitions_per_game
        ) as replay,
        writer.stream(replay, parts, discount=0.9, seed=0) as writers,
    ):
        for thread in threading.enumerate():
            if thread.name.startswith("write-"):
                thread.join()

        def read(law, count, **options):
            settings = {"seed": 1, "start_step": 0, "steps_per_call": 4} | options
            data = reader.dataset(replay, law, check=writers.check, **settings)
            return data, list(data.take(count).as_numpy_iterator())

        yield read


def load():
    episodes = [episode for mine in EPISODES.values() for episode in mine]
    return memory.load(episodes, positions.episodes(extents(episodes, GAMES)))


@pytest.mark.parametrize("n_step", [1, 3])
def test_both_feeds_hold_the_same_transitions(n_step):
    store, law = load(), BatchLaw(64, 2)
    data = drawing.transitions(store, law, n_step, 0.9, seed=0, start_step=0, steps_per_call=4)
    from_memory = {key for batch in data.take(4).as_numpy_iterator() for key in keys(batch)}
    assert len(from_memory) == positions.transitions(store.episodes, n_step).sizes.sum()
    with open_replay(n_step) as read:
        replayed, batches = read(law, 8)
        assert {key for batch in batches for key in keys(batch)} == from_memory
        assert replayed.element_spec == data.element_spec


def test_games_follow_the_batch_law_from_any_step():
    law = BatchLaw(6, 3)
    with open_replay() as read:
        whole = np.concatenate([batch.games for batch in read(law, 4)[1]])
        for step, games in enumerate(whole):
            np.testing.assert_array_equal(games, np.repeat(draw_games(law, 2, 1, step), 3))
        _, (part,) = read(law, 1, start_step=5, rows=slice(6, 12))
        np.testing.assert_array_equal(part.games, whole[5:9, 6:12])
        assert part.frames.shape == (4, 6, 5, 84, 84)
        # A row's frames are its own game's: their first pixel is the episode's number + 1.
        number = part.frames[..., 3, 0, 0].astype(int) - 1
        np.testing.assert_array_equal(part.games, (number >= 3).astype(int))


def test_rows_are_uniform_and_independent_within_a_batch():
    """Counts over the 2nd batches of super-batches: chi-square would be too large for rows that
    come in company, and wrong for short segments if segments were drawn uniformly.
    """
    with open_replay(episodes={"Pong": EPISODES["Pong"]}) as read:
        _, batches = read(BatchLaw(64, 1), 60)
    counts = Counter(key for batch in batches for key in keys(Batch(*(c[1] for c in batch))))
    assert len(counts) == 1 + 18 + 8
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-6


def test_rows_of_a_batch_share_a_segment_only_by_chance():
    """Four segments of 16: two rows of a batch meet in one with probability 1/4, measured. In
    the same super-batch, rows of different batches meet more often, as the docstring says.
    """
    episodes = {"Pong": [make_episode(i, 16) for i in range(4)]}
    with open_replay(episodes=episodes, transitions_per_game=64) as read:
        _, batches = read(BatchLaw(32, 1), 80, steps_per_call=8)
    segment = np.stack([batch.frames[..., 3, 0, 0] for batch in batches])  # [80, 8, 32]
    pairs = segment[..., ::2] == segment[..., 1::2]
    tolerance = 5 * np.sqrt(0.25 * 0.75 / pairs.size)
    assert abs(pairs.mean() - 0.25) < tolerance
    assert (segment[:, 0] == segment[:, 1]).mean() > 0.9


@given(
    st_numpy.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 12))).filter(np.any),
)
def test_deal(wanted):
    """Every slot once; no segment twice in a batch nor over 8 times; no more than are needed."""
    dealt = list(reader._deal(wanted, iter(range(10**6))))
    slots = np.concatenate([mine for _, mine in dealt])
    np.testing.assert_array_equal(np.sort(slots), np.flatnonzero(wanted))
    for _, mine in dealt:
        batches = mine // wanted.shape[1]
        assert 1 <= len(mine) <= 8 and len(set(batches)) == len(mine)
    assert len(dealt) == max(wanted.sum(axis=1).max(), np.ceil(wanted.sum() / 8))
