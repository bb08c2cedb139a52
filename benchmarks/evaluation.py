"""Evaluation: agent steps/s of `rollout.play` against dopamine-rl's own evaluation loop.

Dopamine's loop (`Runner._run_one_phase`) and preprocessing (`AtariPreprocessing`) play one game
after the other, one step at a time, with an agent whose network call is the same compiled function
as ours, for one state; it keeps its stack of frames as Dopamine's DQNAgent does. Without
dopamine-rl only our side is measured. Both sides run in turns in one process. `ratio` is ours to
theirs in one round; `share_of_envs` is our speed over that of a fixed action: what is left to ALE,
preprocessing and bookkeeping. Episodes are capped at 2,000 emulator frames.

Usage: python benchmarks/evaluation.py [--rounds 5] [--envs 8] [network ...]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import tensorflow as tf
from train_step import ATOMS, NETWORKS

from cql_atari.core import games as game_table
from cql_atari.core.types import FRAME_SKIP, Observation, Policy
from cql_atari.envs.atari import AtariEnv
from cql_atari.evaluation import baselines, rollout
from cql_atari.methods import distributions
from cql_atari.methods.policy import greedy
from cql_atari.networks.q_network import build_q_network

GAMES = ("Breakout", "Freeway", "Pong")
MAX_FRAMES = 2_000
EPSILON = 0.001


def make_policy(name: str) -> Policy:
    """Expected returns of a freshly initialised network."""
    network = build_q_network(NETWORKS[name], num_games=len(GAMES), num_atoms=ATOMS, seed=0)
    support = distributions.support(-20, 20, ATOMS)

    def q_values(frames: tf.Tensor, games: tf.Tensor) -> tf.Tensor:
        return distributions.q_values(network(frames, games), support)

    return greedy(q_values, GAMES)()


def ours(policy: Policy, envs: int) -> float:
    """Agent steps/s over all games, from making the environments to the last episode."""
    start = time.perf_counter()
    scores = rollout.play(
        policy, [rollout.GameVariant(game) for game in GAMES], episodes=envs, envs_per_game=envs,
        epsilon=EPSILON, seed=0, max_frames=MAX_FRAMES, progress=False,
    )  # fmt: skip
    return sum(score.length for score in scores) / (time.perf_counter() - start)


class _Gym:
    """What Dopamine's preprocessing needs of the old gym, over ALE."""

    def __init__(self, game: str) -> None:
        self.ale = AtariEnv(game, seed=0, sticky=0.0)._ale
        self.observation_space = type("Space", (), {"shape": (*self.ale.getScreenDims(), 3)})
        self.action_space, self.reward_range, self.metadata = None, (-np.inf, np.inf), {}

    def reset(self) -> np.ndarray:
        self.ale.reset_game()
        return self.ale.getScreenRGB()

    def step(self, action: int) -> tuple[Any, float, bool, dict]:
        reward = self.ale.act(action)
        return None, reward, self.ale.game_over(with_truncation=False), {}


class _Agent:
    """Dopamine's DQNAgent in evaluation: a stack of frames, epsilon-greedy, one state a call."""

    def __init__(self, policy: Policy, position: int) -> None:
        self._policy, self._games = policy, np.array([position], np.int32)
        self._actions = game_table.to_full_actions(GAMES[position])

    def begin_episode(self, frame: np.ndarray) -> int:
        self._state = np.zeros((1, 84, 84, 4), np.uint8)
        return self.step(0.0, frame)

    def step(self, reward: float, frame: np.ndarray) -> int:
        self._state = np.roll(self._state, -1, axis=-1)
        self._state[0, ..., -1] = frame[..., 0]
        if np.random.random() < EPSILON:
            return int(np.random.choice(self._actions))
        frames = np.ascontiguousarray(np.moveaxis(self._state, -1, 1))
        values = self._policy(Observation.first(frames, self._games))[0]
        return int(self._actions[values[self._actions].argmax()])

    def end_episode(self, reward: float) -> None:
        pass


def make_dopamine(policy: Policy, steps: int) -> Callable[[], float] | None:
    """What measures agent steps/s of Dopamine's loop over all games, some steps each."""
    try:
        from dopamine.discrete_domains import atari_lib, iteration_statistics, run_experiment
    except ImportError:
        return None

    def measure() -> float:
        made, start = 0, time.perf_counter()
        for position, game in enumerate(GAMES):
            runner = object.__new__(run_experiment.Runner)
            runner._environment = atari_lib.AtariPreprocessing(_Gym(game))
            runner._agent = _Agent(policy, position)
            runner._max_steps_per_episode = MAX_FRAMES // FRAME_SKIP
            runner._clip_rewards = runner._fine_grained_print_to_console_enabled = False
            statistics = iteration_statistics.IterationStatistics()
            made += runner._run_one_phase(steps, statistics, "eval")[0]
        return made / (time.perf_counter() - start)

    return measure


def main() -> None:
    """Alternates the sides; prints one JSON line a network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", default=["resnet_small"], metavar="network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--envs", type=int, default=8, help="environments a game, and episodes")
    parser.add_argument("--steps", type=int, default=500, help="Dopamine's, a game and round")
    arguments = parser.parse_args()
    fixed = baselines.fixed_actions(dict.fromkeys(GAMES, 0))
    for name in arguments.networks:
        policy = make_policy(name)
        dopamine = make_dopamine(policy, arguments.steps)
        sides = {"ours": lambda policy=policy: ours(policy, arguments.envs),
                 "without_network": lambda: ours(fixed, arguments.envs)}  # fmt: skip
        if dopamine:
            sides["dopamine"] = dopamine
        for measure in sides.values():
            measure()  # compiles
        rounds = [{side: measure() for side, measure in sides.items()}
                  for _ in range(arguments.rounds)]  # fmt: skip
        values = {
            f"agent_steps_per_second_{side}": common.summarise([r[side] for r in rounds])
            for side in sides
        }
        shares = [r["ours"] / r["without_network"] for r in rounds]
        values["share_of_envs"] = common.summarise(shares)
        if dopamine:
            values["ratio"] = common.summarise([r["ours"] / r["dopamine"] for r in rounds])
        common.emit("evaluation", network=name, games=len(GAMES), envs=arguments.envs,
                    max_frames=MAX_FRAMES, **values)  # fmt: skip


if __name__ == "__main__":
    main()
