"""Padded episodes against hand numbers, dopamine-rl's buffer, and the definitions word by word."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_episodes import make_episode, tags

from cql_atari.feed.transitions import pad

GAMMA = 0.9


def test_hand_numbers():
    episode = make_episode(0, 4)._replace(rewards=np.array([1, 0, -1, 1], np.float32))
    new = pad(episode, n_step=2, discount=0.5)
    np.testing.assert_array_equal(new.rewards, [1, -0.5, -0.5, 1])
    np.testing.assert_array_equal(new.discounts, [0.25, 0.25, 0, 0])
    np.testing.assert_array_equal(tags(new.frames)[:, 1], [0, 0, 0, 1, 2, 3, 4, 0, 0])
    assert new.valid.all()


@pytest.mark.parametrize(
    "terminal, starts, expected",
    [
        (True, True, [1, 1, 1, 1, 1, 1]),
        (False, True, [1, 1, 1, 1, 0, 0]),
        (True, False, [0, 0, 0, 1, 1, 1]),
        (False, False, [0, 0, 0, 1, 0, 0]),
    ],
)
def test_valid_rows(terminal, starts, expected):
    new = pad(make_episode(0, 6, terminal=terminal, starts=starts), 2, GAMMA)
    np.testing.assert_array_equal(new.valid, np.array(expected, bool))
    assert (new.discounts[new.valid] > 0).all() or terminal


@given(st.integers(0, 9), st.integers(1, 7), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_definition(length, n_step, terminal, starts):
    """Each valid row agrees with the sums written out step by step."""
    episode = make_episode(3, length, terminal=terminal, starts=starts)
    new = pad(episode, n_step, GAMMA)
    assert new.frames.shape == (3 + length + n_step, 84, 84)
    for t in range(length):
        reachable = terminal or t + n_step < length
        assert new.valid[t] == (reachable and (starts or t >= 3))
        if not new.valid[t]:
            continue
        window = new.frames[t : t + 4 + n_step]
        times = np.arange(t - 3, t + n_step + 1)
        inside = (times >= 0) & (times < length)
        np.testing.assert_array_equal(window[inside], episode.frames[times[inside]])
        assert not window[~inside].any()
        expected = sum(GAMMA**k * episode.rewards[t + k] for k in range(n_step) if t + k < length)
        assert new.rewards[t] == pytest.approx(expected, abs=1e-6)
        assert new.discounts[t] == pytest.approx(GAMMA**n_step if t + n_step < length else 0)


@pytest.mark.parametrize("n_step", [1, 3])
def test_agrees_with_dopamine(n_step):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dopamine.replay_memory.circular_replay_buffer import OutOfGraphReplayBuffer

    buffer = OutOfGraphReplayBuffer(
        (84, 84), 4, replay_capacity=60, batch_size=1, update_horizon=n_step, gamma=GAMMA
    )
    episodes = [make_episode(i, length) for i, length in enumerate([5, 1, 2, 9])]
    shield = make_episode(99, 10)  # takes the rows that dopamine drops around its cursor
    for episode in [*episodes, shield]:
        for t in range(len(episode.frames)):
            last = t == len(episode.frames) - 1
            buffer.add(episode.frames[t], episode.actions[t], episode.rewards[t], last)

    theirs = {}
    valid = [i for i in range(buffer.add_count) if buffer.is_valid_transition(i)]
    state, action, reward, successor, _, _, terminal, _ = buffer.sample_transition_batch(
        len(valid), valid
    )
    for i in range(len(valid)):
        key = (int(state[i, 0, 0, 3]) - 1, int(state[i, 0, 1, 3]) - 1)
        theirs[key] = state[i], action[i], reward[i], successor[i], terminal[i]

    for number, episode in enumerate(episodes):
        new = pad(episode, n_step, GAMMA)
        for t in range(len(episode.frames)):
            state, action, reward, successor, terminal = theirs.pop((number, t))
            assert new.valid[t] and new.actions[t] == action
            np.testing.assert_array_equal(np.moveaxis(state, -1, 0), new.frames[t : t + 4])
            assert new.rewards[t] == pytest.approx(reward, abs=1e-6)
            assert (new.discounts[t] == 0) == bool(terminal)
            if not terminal:
                np.testing.assert_array_equal(
                    np.moveaxis(successor, -1, 0), new.frames[t + n_step : t + n_step + 4]
                )
    assert {number for number, _ in theirs} <= {99}
