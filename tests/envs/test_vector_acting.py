"""Acting in several copies: every step once, resets never, and who explores how often."""

from __future__ import annotations

import itertools

import numpy as np

from cql_atari.core.types import Observation
from cql_atari.envs import atari, vector_acting


def test_it_plays_what_single_environments_play():
    """The same actions in two single environments give the same frames, rewards and ends."""
    actions = np.random.default_rng(0).choice([0, 1, 3, 4], (300, 2)).astype(np.int32)
    vector = atari.make_vector("Breakout", 2, seed=5, sticky=0.25)
    chosen = iter(actions)
    steps = list(itertools.islice(vector_acting.act(vector, lambda _: next(chosen)), 300))
    for k in range(2):
        env = atari.AtariEnv("Breakout", seed=5 + k)
        frame, ended, games = env.reset(), False, 1
        for step in steps:
            assert step.live[k] == (not ended)
            if ended:
                frame, ended, games = env.reset(), False, games + 1
                continue
            np.testing.assert_array_equal(step.frames[k], frame)
            frame, reward, terminal, truncated = env.step(int(step.actions[k]))
            assert (step.rewards[k], step.terminals[k]) == (reward, terminal)
            ended = terminal or truncated
        assert games > 1


def test_a_policy_is_told_of_the_last_step_unless_an_episode_begins():
    random, told = np.random.default_rng(0), []

    def choose(seen):
        told.append(seen)
        return random.choice([1, 3, 4], 2).astype(np.int32)

    envs = atari.make_vector("Breakout", 2, seed=5, sticky=0.25)
    steps = list(itertools.islice(vector_acting.act(envs, choose), 300))
    for step, seen in zip(steps, told[1:]):
        np.testing.assert_array_equal(seen.begins, ~step.live)
        np.testing.assert_array_equal(seen.actions, np.where(step.live, step.actions, 0))
        np.testing.assert_array_equal(seen.rewards, np.where(step.live, step.rewards, 0))
    begun = [(k, seen.episodes[k]) for seen in told for k in np.flatnonzero(seen.begins)]
    assert len(begun) > 2 and len({episode for _, episode in begun}) == len(begun)


def test_epsilon_greedy_takes_the_best_of_the_allowed_actions():
    values = np.zeros((1000, 18))
    values[:, 5], values[:, 7] = 1, 2  # 7 isn't allowed
    stacks = np.zeros((1000, 4, 1, 1), np.uint8)

    def shares(epsilon):
        choose = vector_acting.epsilon_greedy(
            lambda _: values, lambda: epsilon, (0, 2, 5), np.random.default_rng(0)
        )
        return np.bincount(choose(Observation.first(stacks, [0])), minlength=18) / 1000

    assert shares(0.0)[5] == 1
    for action, share in ((0, 1 / 3), (2, 1 / 3), (5, 1 / 3), (7, 0)):
        assert abs(shares(1.0)[action] - share) < 0.05
    assert abs(shares(0.3)[5] - 0.8) < 0.05
