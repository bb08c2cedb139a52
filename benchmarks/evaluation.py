"""Evaluation: agent steps/s of `rollout.play` on three games, with a network and without.

Episodes are capped at 2,000 emulator frames so that no environment idles long; idle ones would
lower the figure in a real evaluation. `share_of_envs` is the speed with the network over that of a
fixed action: what is left to ALE, preprocessing and bookkeeping.

Usage: python benchmarks/evaluation.py [--rounds 5] [--envs 8] [network ...]
"""

from __future__ import annotations

import argparse
import time

import common
import numpy as np
import tensorflow as tf
from train_step import ACTIONS, ATOMS, NETWORKS

from cql_atari.core.types import Observation, Policy
from cql_atari.evaluation import rollout
from cql_atari.methods import distributions
from cql_atari.methods.policy import greedy
from cql_atari.networks.q_network import build_q_network

GAMES = [rollout.GameVariant(game) for game in ("Breakout", "Freeway", "Pong")]
MAX_FRAMES = 2_000


def make_policy(name: str) -> Policy:
    """Expected returns of a freshly initialised network."""
    network = build_q_network(NETWORKS[name], num_games=len(GAMES), num_atoms=ATOMS, seed=0)
    support = distributions.support(-20, 20, ATOMS)

    def q_values(frames: tf.Tensor, games: tf.Tensor) -> tf.Tensor:
        return distributions.q_values(network(frames, games), support)

    return greedy(q_values)()


def steps_per_second(policy: Policy, envs: int) -> float:
    """Agent steps/s over all games and environments, from making them to the last episode."""
    start = time.perf_counter()
    scores = rollout.play(
        policy, GAMES, episodes=envs, envs_per_game=envs, seed=0, max_frames=MAX_FRAMES,
        progress=False,
    )  # fmt: skip
    return sum(score.length for score in scores) / (time.perf_counter() - start)


def main() -> None:
    """Alternates the fixed action and the networks; prints one JSON line a network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", default=["resnet_small"], metavar="network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--envs", type=int, default=8, help="environments a game")
    arguments = parser.parse_args()
    fixed = rollout.fixed_actions([0] * len(GAMES))
    for name in arguments.networks:
        policy = make_policy(name)
        frames = np.zeros((len(GAMES) * arguments.envs, 4, 84, 84), np.uint8)
        for games in (3, 2, 1):  # compile each batch shape beforehand
            rows = frames[: games * arguments.envs]
            policy(Observation.first(rows, np.arange(games, dtype=np.int32)))
        rates = np.array([
            (steps_per_second(policy, arguments.envs), steps_per_second(fixed, arguments.envs))
            for _ in range(arguments.rounds)
        ])  # fmt: skip
        columns = {
            "agent_steps_per_second": rates[:, 0],
            "agent_steps_per_second_without_network": rates[:, 1],
            "share_of_envs": rates[:, 0] / rates[:, 1],
        }
        values = {
            key: {"median": float(np.median(v)), "min": v.min(), "max": v.max(), "repeats": len(v)}
            for key, v in columns.items()
        }
        common.emit("evaluation", network=name, games=len(GAMES), envs=arguments.envs,
                    actions=ACTIONS, max_frames=MAX_FRAMES, **values)  # fmt: skip


if __name__ == "__main__":
    main()
