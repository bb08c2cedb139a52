"""The memory feed: contents, exact restart, row slices, element spec, size, refusal."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from synthetic_episodes import keys, make_episode

from cql_atari.feed import memory
from cql_atari.feed.sampling import BatchLaw, draw_transitions
from cql_atari.feed.transitions import block
from cql_atari.types import Batch, UserError

GAMES = ("Pong", "Breakout")
LAW = BatchLaw(draws=4, transitions_per_draw=2)


def episodes():
    yield make_episode(0, 6, game="Breakout")
    yield make_episode(1, 9, terminal=False)
    yield make_episode(2, 0)
    yield make_episode(3, 8, game="Breakout", starts=False)
    yield make_episode(4, 1)


@pytest.fixture(params=[1, 3, 5])
def store(request):
    return memory.load(episodes(), GAMES, n_step=request.param, discount=0.9, capacity=24)


def take(store, count, **kwargs):
    settings = {"seed": 1, "start_step": 0, "steps_per_call": 3} | kwargs
    data = memory.dataset(store, LAW, **settings)
    return list(data.take(count).as_numpy_iterator())


def join(batches):
    return Batch(*(np.concatenate(columns) for columns in zip(*batches)))


def test_batches_hold_the_drawn_transitions(store):
    """Every row equals the window and columns computed from the episode itself."""
    n = store.n_step
    expected = {game: [] for game in GAMES}
    for episode in episodes():
        new = block(episode, n, 0.9)
        expected[episode.game] += [
            (new.frames[t : t + 4 + n], new.actions[t], new.rewards[t], new.discounts[t])
            for t in np.flatnonzero(new.valid)
        ]
    assert store.sizes.tolist() == [len(expected[game]) for game in GAMES]

    for call, batch in enumerate(take(store, 2)):
        assert batch.frames.shape == (3, 8, 4 + n, 84, 84)
        for k in range(3):
            games, rows = draw_transitions(LAW, store.sizes, 1, 3 * call + k)
            np.testing.assert_array_equal(batch.games[k], games)
            for b in range(LAW.batch_size):
                for ours, theirs in zip(batch, expected[GAMES[games[b]]][rows[b]]):
                    np.testing.assert_array_equal(ours[k, b], theirs)


def test_restart_at_any_step_gives_the_same_batches(store):
    whole = join(take(store, 4))
    for step in (3, 4, 6):
        for ours, theirs in zip(join(take(store, 2, start_step=step)), whole):
            np.testing.assert_array_equal(ours, theirs[step : step + 6])
    single = join(take(store, 12, steps_per_call=1))
    for ours, theirs in zip(single, whole):
        np.testing.assert_array_equal(ours, theirs)
    assert keys(join(take(store, 4, seed=2))) != keys(whole)


def test_row_slices_partition_the_batch(store):
    whole = join(take(store, 2))
    parts = [join(take(store, 2, rows=slice(a, b))) for a, b in [(0, 2), (2, 6), (6, None)]]
    for column, *pieces in zip(whole, *parts):
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), column)


def test_element_spec(store):
    spec = memory.dataset(store, LAW, seed=0, start_step=0, steps_per_call=3).element_spec
    assert spec == Batch(
        frames=tf.TensorSpec((3, 8, 4 + store.n_step, 84, 84), tf.uint8),
        actions=tf.TensorSpec((3, 8), tf.int32),
        rewards=tf.TensorSpec((3, 8), tf.float32),
        discounts=tf.TensorSpec((3, 8), tf.float32),
        games=tf.TensorSpec((3, 8), tf.int32),
    )


def test_frames_are_shared_with_tensorflow():
    """A second copy of the frames would double the largest thing in memory."""
    store = memory.load(episodes(), GAMES, n_step=1, discount=0.9, capacity=24)
    data = memory.dataset(store, LAW, seed=0, start_step=0, steps_per_call=1)
    store.frames[:] = 77
    assert (next(iter(data)).frames.numpy() == 77).all()


def test_bytes_a_transition():
    store = memory.load(
        (make_episode(i, 200) for i in range(10)), ["Pong"], n_step=3, discount=0.9, capacity=2000
    )
    stored = sum(column.nbytes for column in store[:6])
    assert stored <= 7200 * store.sizes.sum()


def test_pads_beyond_the_capacity_are_refused():
    short = (make_episode(0, 1) for _ in range(2000))
    with pytest.raises(ValueError, match="capacity=100"):
        memory.load(short, ["Pong"], n_step=1, discount=0.9, capacity=100)


def test_game_without_transitions_is_a_user_error():
    with pytest.raises(UserError, match=r"Breakout.*n_step=3"):
        data = [make_episode(0, 5), make_episode(1, 3, game="Breakout", terminal=False)]
        memory.load(data, GAMES, n_step=3, discount=0.9, capacity=8)


DETERMINISTIC = """
import sys
import tensorflow as tf
tf.config.experimental.enable_op_determinism()
sys.path.insert(0, {folder!r})
import test_memory
print(test_memory.digest())
"""


def digest():
    store = memory.load(episodes(), GAMES, n_step=3, discount=0.9, capacity=24)
    columns = (column.tobytes() for batch in take(store, 3) for column in batch)
    return hashlib.sha256(b"".join(columns)).hexdigest()


def test_same_batches_under_op_determinism():
    """In a process of its own, as the setting is global."""
    program = DETERMINISTIC.format(folder=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [digest()], done.stderr
