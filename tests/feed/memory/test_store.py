"""The memory feed: contents, exact restart, row slices, element spec, size, refusal."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from synthetic_episodes import extents, keys, make_episode

from cql_atari.core.types import Batch, Extent, UserError
from cql_atari.feed.memory import store as memory
from cql_atari.feed.sampling import BatchLaw, draw_transitions
from cql_atari.feed.transitions import block

GAMES = ("Pong", "Breakout")
LAW = BatchLaw(draws=4, transitions_per_draw=2)


def episodes():
    yield make_episode(0, 6, game="Breakout")
    yield make_episode(1, 9, terminal=False)
    yield make_episode(2, 0)
    yield make_episode(3, 8, game="Breakout", starts=False)
    yield make_episode(4, 1)


def load(make_episodes, games, n_step):
    planned = memory.plan(extents(make_episodes(), games), n_step)
    return memory.load(make_episodes(), planned, discount=0.9)


@pytest.fixture(params=[1, 3, 5])
def store(request):
    return load(episodes, GAMES, request.param)


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


def anonymous_mb():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1e3


def test_tensorflow_takes_no_copy_of_the_frames():
    """A second copy would double the largest thing in memory: 286 MB here."""
    store = load(lambda: (make_episode(i, 200) for i in range(200)), ["Pong"], 1)
    before = anonymous_mb()
    data = memory.dataset(store, LAW, seed=0, start_step=0, steps_per_call=1)
    batches = iter(data)
    next(batches)
    assert anonymous_mb() - before < 100


def test_a_plan_is_exactly_what_is_taken(store):
    planned = memory.plan(extents(episodes(), GAMES), store.n_step)
    arrays = [getattr(store, name) for name in planned.arrays()]
    assert planned.num_bytes == sum(array.nbytes for array in arrays)
    assert [*planned.sizes.values()] == store.sizes.tolist()


def test_bytes_a_transition():
    planned = memory.plan({"Pong": [Extent(200, True, True)] * 10}, 3)
    assert planned.num_bytes <= 7200 * 2000


def test_every_frame_and_row_is_written():
    """Into arrays full of garbage, which is what memory holds at first."""
    planned = memory.plan(extents(episodes(), GAMES), 5)
    untouched = {name: np.ones(shape[0], bool) for name, (shape, _) in planned.arrays().items()}

    def write(name, start, values):
        untouched[name][start : start + len(values)] = False

    memory.fill(write, episodes(), planned, discount=0.9)
    assert not untouched["frames"].any() and not untouched["rows"].any()


@pytest.mark.parametrize(
    "others",
    [
        [make_episode(1, 9), make_episode(2, 12)],
        [make_episode(1, 9), make_episode(2, 10)],
        [make_episode(1, 9)],
        [make_episode(1, 9), make_episode(2, 11, terminal=False)],
        [make_episode(1, 9), make_episode(2, 5), make_episode(3, 3)],
    ],
    ids=["longer", "shorter", "fewer", "cut", "divided"],
)
def test_other_episodes_than_were_planned_are_refused(others):
    planned = memory.plan({"Pong": [Extent(9, True, True), Extent(11, True, True)]}, 1)
    memory.load([make_episode(2, 11), make_episode(1, 9)], planned, discount=0.9)
    with pytest.raises(UserError, match="changed while they were read"):
        memory.load(others, planned, discount=0.9)


def test_game_without_transitions_is_a_user_error():
    with pytest.raises(UserError, match=r"Breakout.*n_step=3"):
        memory.plan({"Pong": [Extent(5, True, True)], "Breakout": [Extent(3, False, True)]}, 3)


def test_more_than_the_budget_is_refused_with_the_number_and_the_mend():
    """A million steps in one episode: 1,000,005 frames of 7,068 bytes, 8 bytes a transition."""
    planned = memory.plan({"Pong": [Extent(1_000_000, True, True)]}, 1)
    assert planned.num_bytes == 1_000_004 * 7068 + 8_000_000
    memory.check_budget(planned, planned.num_bytes, "all of it")
    with pytest.raises(UserError) as caught:
        memory.check_budget(planned, 1.5e9, "feed.memory_gb")
    for words in ("7.08 GB", "1.5 GB", "feed.kind = 'replay'", "data.fraction to 0.21",
                  "feed.cache_dir", "feed.memory_gb"):  # fmt: skip
        assert words in str(caught.value)


DETERMINISTIC = """
import sys
import tensorflow as tf
tf.config.experimental.enable_op_determinism()
sys.path[:0] = [{folder!r}, {folder!r} + "/.."]
import test_store
print(test_store.digest())
"""


def digest():
    store = load(episodes, GAMES, 3)
    columns = (column.tobytes() for batch in take(store, 3) for column in batch)
    return hashlib.sha256(b"".join(columns)).hexdigest()


def test_same_batches_under_op_determinism():
    """In a process of its own, as the setting is global."""
    program = DETERMINISTIC.format(folder=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [digest()], done.stderr
