"""The replay feed against the memory feed, the batch law, and how draws depend on each other."""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import scipy.stats
from synthetic_episodes import extents, keys, make_episode, tags

from cql_atari.feed import drawing, positions
from cql_atari.feed.memory import store as memory
from cql_atari.feed.replay import reader, service, writer
from cql_atari.feed.replay.reader import Dealt
from cql_atari.feed.replay.segments import ROWS, pack_segments
from cql_atari.feed.sampling import BatchLaw, draw_games
from cql_atari.feed.transitions import pad
from cql_atari.methods.method import Transitions

GAMES = ("Pong", "Breakout")
EPISODES = {
    "Pong": [make_episode(0, 1), make_episode(1, 18), make_episode(2, 9, terminal=False)],
    "Breakout": [
        make_episode(3, 30, game="Breakout", starts=False),
        make_episode(4, 2, game="Breakout"),
    ],
}


@contextmanager
def open_replay(n_step=1, episodes=EPISODES, **options):
    """A function that reads from a replay of the episodes, once its windows are full; of each
    batch it keeps what `keep` returns, since batches are large.
    """
    parts = {game: [lambda mine=mine: iter(mine)] for game, mine in episodes.items()}
    settings = {"discount": 0.9, "seed": 0, "transitions_per_game": 1600} | options
    with (
        mock.patch.object(reader, "_OPEN", 2 * ROWS * len(episodes)),
        service.serve_draws(list(episodes), n_step=n_step) as replay,
        writer.stream(replay, parts, **settings) as writers,
    ):
        writer.wait_until_filled(writers, lambda: False)

        def read(law, count, keep=lambda batch: batch, **options):
            settings = {"seed": 1, "start_step": 0, "steps_per_call": 4} | options
            data = reader.dataset(replay, law, check=writers.check, **settings)
            return data, [keep(batch) for batch in data.take(count).as_numpy_iterator()]

        yield read


def drawn(*episodes, n_step=1):
    """A draw of each of their segments, the nth from its row n on."""
    segments = [p for e in episodes for p, _ in pack_segments(pad(e, n_step, 0.9), n_step)]
    return [bytes([nth % ROWS]) + p for nth, p in enumerate(segments)]


def load():
    episodes = [episode for mine in EPISODES.values() for episode in mine]
    return memory.load(episodes, positions.episodes(extents(episodes, GAMES)))


@pytest.mark.parametrize("n_step", [1, 3])
def test_both_feeds_hold_the_same_transitions(n_step):
    store, law = load(), BatchLaw(64, 2)
    data = drawing.dataset(
        store, law, Transitions(n_step, 0.9), seed=0, start_step=0, steps_per_call=4
    )
    from_memory = {key for batch in data.take(4).as_numpy_iterator() for key in keys(batch)}
    assert len(from_memory) == positions.transitions(store.episodes, n_step).sizes.sum()
    with open_replay(n_step) as read:
        replayed, found = read(law, 8, keep=keys)
        assert {key for batch in found for key in batch} == from_memory
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


def test_two_replays_of_a_seed_give_the_same_batches_whatever_k_and_whoever_has_which_rows():
    law = BatchLaw(8, 2)
    found = []
    for options in ({}, {"steps_per_call": 1}, {"steps_per_call": 8}, {"seed": 2}):
        with open_replay() as read:
            _, batches = read(law, 32 // options.get("steps_per_call", 4), keep=keys, **options)
            found.append([key for batch in batches for key in batch])
    assert found[0] == found[1] == found[2] != found[3]
    whole = np.concatenate([b.frames for b in _read_rows(law, slice(None))])
    parts = [np.concatenate([b.frames for b in _read_rows(law, rows)]) for rows in
             (slice(0, 4), slice(4, 16))]  # fmt: skip
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def _read_rows(law, rows):
    with open_replay() as read:
        return read(law, 3, rows=rows)[1]


@pytest.mark.parametrize("k", [1, 10, 50])
def test_a_transition_is_drawn_as_often_as_samples_per_insert_says(k):
    """Whatever K: once it was 0.5, 2.6 and 4 times in place of 8. 80 segments through a window
    of 16; those count that enter it after the first ones and have left it and been dealt. The 8,000
    draws end before the window reaches a second pass, which would draw some of them again.
    """
    episodes = {"Pong": [make_episode(i, 16) for i in range(80)]}
    with open_replay(episodes=episodes, transitions_per_game=256, samples_per_insert=8.0) as read:
        _, marks = read(BatchLaw(32, 1), 250 // k, steps_per_call=k,
                        keep=lambda batch: tags(batch.frames)[:, :, 3].copy())  # fmt: skip
    windows = np.concatenate(marks).reshape(-1, 2)
    counts = np.zeros((81, 17), int)
    np.add.at(counts, (windows[:, 0], windows[:, 1]), 1)
    stayed = counts[17:60, 1:]  # one part: the window slides over it in order
    np.testing.assert_array_equal(stayed, 8)


def test_draws_are_uniform_and_within_a_period_without_replacement():
    """27 transitions, all in the window: in 27 draws from a period's start each comes once."""
    with open_replay(episodes={"Pong": EPISODES["Pong"]}) as read:
        _, batches = read(BatchLaw(27, 1), 100, keep=keys, steps_per_call=10)
        lag = reader.lag(1)
    counts = Counter(key for batch in batches for key in batch)
    assert len(counts) == 1 + 18 + 8
    assert max(counts.values()) - min(counts.values()) <= 2 + lag // 4


def test_games_are_drawn_independently_and_uniformly():
    with open_replay() as read:
        _, games = read(BatchLaw(64, 1), 60, keep=lambda batch: batch.games.ravel())
    counts = np.bincount(np.concatenate(games))
    assert scipy.stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("between", [1, 3, 40])
def test_rows_of_a_segment_are_dealt_far_apart(between):
    """Full segments: 16 * between - 15 others lie between two rows of one. Every row comes once."""
    segments = drawn(*(make_episode(i, 16) for i in range(120)))
    dealt = reader.deal(iter(segments), 1, between, Dealt(), "Pong")
    rows = [(int(segment.frames[3, 0, 0]), row) for segment, row, _ in dealt]
    assert len(set(rows)) == len(rows)
    begun = dict(reversed(rows))
    assert all(begun[number] == (number - 1) % ROWS for number in range(1, 121))  # as drawn
    full = [number for number, _ in rows]
    last = {}
    for nth, number in enumerate(full):
        if number in last and nth > 16 * 15 * between:  # from when on all 16 rows are dealt
            assert nth - last[number] - 1 >= 16 * between - 15
        last[number] = nth
    done = [number for number in range(1, 121 - 15 * between)]
    assert all(Counter(full)[number] == 16 for number in done)


def test_dealing_goes_on_at_any_row():
    segments = drawn(*(make_episode(i, 5 + i % 30) for i in range(40)))

    def dealt(segments, start):
        for segment, row, reached in reader.deal(iter(segments), 1, 2, start, "Pong"):
            yield (int(segment.frames[3, 0, 0]), row), reached

    whole = list(dealt(segments, Dealt()))
    behind = (ROWS - 1) * 2
    for nth in (0, 1, 50, 200, 333, len(whole) - 2):
        lead, rows = whole[nth][1]
        needed = max(lead - behind, 0)
        rest = list(dealt(segments[needed:], Dealt(lead - needed, rows)))
        assert [row for row, _ in rest] == [row for row, _ in whole[nth + 1 :]]


@pytest.mark.parametrize("num_games, rows", [(1, 1265), (3, 401), (40, 17)])
def test_how_far_apart_rows_of_a_segment_are(num_games, rows):
    """As the docstring says, and 0.2 GB of open segments in all."""
    between = reader.spacing(num_games)
    assert ROWS * between - 15 == rows
    assert num_games * (reader.lag(num_games) + 1) <= 1_300


def test_what_is_noted_is_where_the_next_batch_begins(monkeypatch):
    monkeypatch.setattr(reader, "_OPEN", 2 * ROWS)
    segments = drawn(*(make_episode(i, 16) for i in range(60)))
    notes = {}
    options = {"seed": 0, "rows": slice(None), "private": True}
    law = BatchLaw(5, 2)
    batches = reader.batches({"Pong": iter(segments)}, law, 1, start_step=0, steps_per_call=3,
                           **options,
                           note=notes.__setitem__)  # fmt: skip
    whole = [keys(batch) for batch in itertools.islice(batches, 8)]
    assert sorted(notes) == list(range(1, 25))  # each step: a run may end within a call
    rest = reader.batches({"Pong": iter(segments)}, law, 1, start_step=12, steps_per_call=3,
                          **options,
                          dealt=notes[12])  # fmt: skip
    assert [keys(batch) for batch in itertools.islice(rest, 4)] == whole[4:]
