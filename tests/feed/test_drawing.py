"""Batches and windows of every store: contents, exact restart, row slices, uniformity.

What a row must hold is worked out from the episode itself, step by step.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter

import numpy as np
import processes
import pytest
import scipy.stats
import tensorflow as tf
from synthetic_episodes import extents, make_episode

from cql_atari.core.types import Batch, SequenceBatch, UserError
from cql_atari.data.format import Source
from cql_atari.data.packed import files, writer
from cql_atari.data.shared import EVERYTHING
from cql_atari.feed import drawing, packed, positions
from cql_atari.feed.memory import cache
from cql_atari.feed.memory import store as memory
from cql_atari.feed.sampling import BatchLaw, draw_transitions
from cql_atari.feed.transitions import pad
from cql_atari.methods.method import Sequences, Transitions

GAMES = ("Pong", "Breakout")
LAW = BatchLaw(draws=4, transitions_per_draw=2)
N_STEPS = (1, 3, 5)
EPISODES = {
    "Breakout": [
        make_episode(0, 6, game="Breakout"),
        make_episode(3, 40, game="Breakout", starts=False),
        make_episode(5, 32, game="Breakout"),
    ],
    "Pong": [
        make_episode(1, 19, terminal=False),
        make_episode(2, 0),
        make_episode(4, 1),
        make_episode(6, 17),
    ],
}


def each():
    """Of the games in turns."""
    for pair in zip(EPISODES["Breakout"], EPISODES["Pong"]):
        yield from pair
    yield EPISODES["Pong"][3]


def source(folder, game, suffixes=(0, 1)):
    path = str(files.folder(folder, game, 1))
    return Source(game, 1, path, "packed", suffixes, 1.0, left_out={}, files={})


def in_ram(_):
    return memory.load(each(), positions.episodes(extents(each(), GAMES)))


def in_mapped_files(folder):
    def make_table():
        return positions.episodes(extents(each(), GAMES))

    def fill(write, table):
        memory.fill(write, each(), table)

    return cache.load(folder, "key", GAMES, make_table=make_table, fill=fill)


def in_packed_files(folder):
    for game, mine in EPISODES.items():
        directory = files.folder(folder, game, 1)
        directory.mkdir(parents=True)
        for suffix, part in enumerate((mine[:2], mine[2:])):
            writer.write_suffix(directory, suffix, part, {"left_out": []})
    return packed.open_packed(GAMES, [source(folder, game) for game in EPISODES])


@pytest.fixture(scope="module", params=[in_ram, in_mapped_files, in_packed_files])
def store(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("store"))


def take(store, count, n_step=3, **kwargs):
    settings = {"seed": 1, "start_step": 0, "steps_per_call": 3} | kwargs
    data = drawing.dataset(store, LAW, Transitions(n_step, 0.9), **settings)
    return list(data.take(count).as_numpy_iterator())


def windows(store, count, length=4, law=LAW, **kwargs):
    settings = {"seed": 1, "start_step": 0, "steps_per_call": 3} | kwargs
    data = drawing.dataset(store, law, Sequences(length), **settings)
    return data.take(count).as_numpy_iterator()


def take_windows(*args, **kwargs):
    return list(windows(*args, **kwargs))


def join(batches):
    return type(batches[0])(*(np.concatenate(columns) for columns in zip(*batches)))


def same(ours, theirs):
    for a, b in zip(ours, theirs):
        np.testing.assert_array_equal(a, b)


def test_a_damaged_packed_suffix_that_verify_leaves_out_is_not_opened(tmp_path):
    """As for other feeds, which ask `sources`: without it the rest can be drawn from."""
    store = in_packed_files(tmp_path)
    (files.folder(tmp_path, "Pong", 1) / "0.segments").write_bytes(b"")
    sources = [source(tmp_path, game) for game in EPISODES]
    sources[1] = sources[1]._replace(left_out={0: [EVERYTHING]})
    rest = packed.open_packed(GAMES, sources)
    assert store.episodes.counts.tolist() == [3, 3] and rest.episodes.counts.tolist() == [2, 3]
    assert not {*take(rest, 1)[0].games.flat} - {0, 1}
    sources[1] = sources[1]._replace(left_out={k: [EVERYTHING] for k in (0, 1)})
    with pytest.raises(UserError, match="no transition of Pong"):
        take(packed.open_packed(GAMES, sources), 1)


@pytest.mark.parametrize(
    ("chosen", "parts"),  # episodes of 6 and 40 steps in suffix 0, of 32 steps in suffix 1
    [
        ({"fraction": 0.5}, [(0, 6), (1, 17), (2, 16)]),
        ({"best": {0: [1], 1: [0]}}, [(1, 40), (2, 32)]),
        ({"best": {0: [], 1: [0]}}, [(2, 32)]),
    ],
)
def test_of_packed_play_only_what_is_selected_can_be_read(tmp_path, chosen, parts):
    in_packed_files(tmp_path)
    store = packed.open_packed(("Breakout",), [source(tmp_path, "Breakout")._replace(**chosen)])
    assert store.episodes.steps.tolist() == [steps for _, steps in parts]
    rows = np.arange(len(parts))
    read = drawing.read_steps(store, rows, np.zeros_like(rows), 41)
    for row, (nth, steps) in enumerate(parts):
        episode = EPISODES["Breakout"][nth]
        np.testing.assert_array_equal(read.frames[row, :steps], episode.frames[:steps])
        np.testing.assert_array_equal(read.actions[row, :steps], episode.actions[:steps])
        assert not read.frames[row, steps:].any()


@pytest.mark.parametrize("n", N_STEPS)
def test_batches_hold_the_drawn_transitions(store, n):
    """Every row equals the window and columns computed from the episode itself."""
    expected = {game: [] for game in GAMES}
    for game in GAMES:
        for episode in EPISODES[game]:
            new = pad(episode, n, 0.9)
            expected[game] += [
                (new.frames[t : t + 4 + n], new.actions[t], new.rewards[t], new.discounts[t])
                for t in np.flatnonzero(new.valid)
            ]
    sizes = np.array([len(expected[game]) for game in GAMES])
    seen = set()
    for call, batch in enumerate(take(store, 8, n)):
        assert batch.frames.shape == (3, 8, 4 + n, 84, 84)
        for k in range(3):
            games, rows = draw_transitions(LAW, sizes, 1, 3 * call + k)
            np.testing.assert_array_equal(batch.games[k], games)
            for b in range(LAW.batch_size):
                same([column[k, b] for column in batch[:4]], expected[GAMES[games[b]]][rows[b]])
                seen.add((games[b], rows[b]))
    assert len(seen) > 80  # of the 90 or so that there are


def window_of(episode, end, length):
    """A window from the definitions, one step at a time."""
    frames = np.zeros((length, 84, 84), np.uint8)
    actions, rewards, returns, mask = (np.zeros(length) for _ in range(4))
    for i in range(length):
        t = end - length + 1 + i
        if t >= 0:
            frames[i], actions[i], rewards[i] = (
                episode.frames[t], episode.actions[t], episode.rewards[t])  # fmt: skip
            returns[i], mask[i] = sum(episode.rewards[t:].tolist()), 1
    return frames, actions, rewards, returns, mask


@pytest.mark.parametrize("length", [1, 4, 17])
def test_windows_hold_consecutive_steps_of_one_episode(store, length):
    """Of episodes that end: each end alike, but for a fragment's first windows."""
    expected = {}
    for game in GAMES:
        for episode in (e for e in EPISODES[game] if e.terminal):
            for end in range(0 if episode.starts else length - 1, len(episode.frames)):
                window = window_of(episode, end, length)
                expected[(GAMES.index(game), window[0].tobytes(), end)] = window
    by_frames = {key[:2]: window for key, window in expected.items()}
    assert len(by_frames) == len(expected)
    seen = set()
    for batch in windows(store, 40, length):
        assert batch.frames.shape == (3, 8, length, 84, 84) and batch.mask[..., -1].all()
        for k, b in np.ndindex(3, 8):
            key = (batch.games[k, b], batch.frames[k, b].tobytes())
            same([column[k, b] for column in
                  (batch.frames, batch.actions, batch.rewards, batch.returns, batch.mask)],
                 by_frames[key])  # fmt: skip
            seen.add(key)
    assert len(seen) == len(expected)


def test_windows_are_uniform_over_their_ends(store):
    """Chi-square over a game's 18 ends; the other's are its own."""
    law = BatchLaw(64, 1)
    counts = Counter()
    for batch in windows(store, 80, law=law, steps_per_call=1):
        for frames, game in zip(batch.frames.reshape(-1, 4, 84, 84), batch.games.reshape(-1)):
            counts[(game, frames.tobytes())] += 1
    pong = [n for (game, _), n in counts.items() if game == 0]
    breakout = [n for (game, _), n in counts.items() if game == 1]
    assert len(pong) == 1 + 17 and len(breakout) == 6 + 37 + 32
    assert scipy.stats.chisquare(pong).pvalue > 1e-6
    assert scipy.stats.chisquare(breakout).pvalue > 1e-6


@pytest.mark.parametrize("take", [take, take_windows])
def test_restart_at_any_step_gives_the_same_batches(store, take):
    whole = join(take(store, 4))
    for step in (3, 4, 6):
        same(join(take(store, 2, start_step=step)), [c[step : step + 6] for c in whole])
    same(join(take(store, 12, steps_per_call=1)), whole)
    assert not np.array_equal(join(take(store, 4, seed=2)).frames, whole.frames)


@pytest.mark.parametrize("take", [take, take_windows])
def test_row_slices_partition_the_batch(store, take):
    whole = join(take(store, 2))
    parts = [join(take(store, 2, rows=slice(a, b))) for a, b in [(0, 2), (2, 6), (6, None)]]
    same(whole, [np.concatenate(pieces, axis=1) for pieces in zip(*parts)])


def test_element_specs(store):
    options = {"seed": 0, "start_step": 0, "steps_per_call": 3}
    assert drawing.dataset(store, LAW, Transitions(5, 0.9), **options).element_spec == Batch(
        frames=tf.TensorSpec((3, 8, 9, 84, 84), tf.uint8),
        actions=tf.TensorSpec((3, 8), tf.int32),
        rewards=tf.TensorSpec((3, 8), tf.float32),
        discounts=tf.TensorSpec((3, 8), tf.float32),
        games=tf.TensorSpec((3, 8), tf.int32),
    )
    assert drawing.dataset(store, LAW, Sequences(6), **options).element_spec == SequenceBatch(
        frames=tf.TensorSpec((3, 8, 6, 84, 84), tf.uint8),
        actions=tf.TensorSpec((3, 8, 6), tf.int32),
        rewards=tf.TensorSpec((3, 8, 6), tf.float32),
        returns=tf.TensorSpec((3, 8, 6), tf.float32),
        games=tf.TensorSpec((3, 8), tf.int32),
        mask=tf.TensorSpec((3, 8, 6), tf.bool),
    )


def test_a_game_without_any_is_a_user_error():
    short = [make_episode(0, 5), make_episode(1, 3, game="Breakout", terminal=False)]
    table = positions.episodes(extents(short, GAMES))
    with pytest.raises(UserError, match=r"no transition of Breakout .*n_step=3"):
        positions.transitions(table, 3)
    with pytest.raises(UserError, match=r"no window of 2 steps of Breakout"):
        positions.windows(table, 2)
    with pytest.raises(UserError, match=r"no window of 6 steps of Pong, Breakout.*shorter window"):
        positions.windows(table, 6)


DETERMINISTIC = """
import tensorflow as tf
tf.config.experimental.enable_op_determinism()
import test_drawing
print(test_drawing.digest())
"""


def digest():
    columns = (column.tobytes() for batch in take(in_ram(None), 3) for column in batch)
    return hashlib.sha256(b"".join(columns)).hexdigest()


@pytest.mark.slow
def test_same_batches_under_op_determinism():
    """In a process of its own, as the setting is global."""
    done = processes.run([sys.executable, "-c", DETERMINISTIC])
    assert done.stdout.split() == [digest()], done.stderr
