"""Environments: agent steps/s of one, of a vector, and of collecting; each game, random play.

`dopamine` is Dopamine's own preprocessing over ale-py's bare environment, in the same process and
minute. Every measure gives steps per second of wall time and, as the machine may be busy, of this
process's CPU time (the vector's threads included).

Usage: python benchmarks/environments.py [--rounds 5] [--steps 4000] [--envs 8]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import ale_py
from dopamine.discrete_domains.atari_lib import AtariPreprocessing

from cql_atari.core import games
from cql_atari.envs.atari import AtariEnv, make_vector
from cql_atari.recording import scripted
from cql_atari.recording.folder import Job

GAMES = ("Breakout", "Freeway", "Pong")


class OldGym:
    """ale-py's bare environment with the interface that Dopamine's preprocessing wants."""

    def __init__(self, game: str):
        self.env = ale_py.AtariEnv(
            games.spec(game).rom,
            obs_type="grayscale",
            frameskip=1,
            repeat_action_probability=0.25,
            full_action_space=True,
        )
        self.ale, self.observation_space = self.env.ale, self.env.observation_space

    def reset(self) -> None:
        self.env.reset(seed=0)

    def step(self, action: int) -> tuple:
        observation, reward, terminal, _, info = self.env.step(action)
        return observation, reward, terminal, info


# Each makes what it steps, and returns a function that takes as many steps as it gets actions.
Stepper = Callable[[np.ndarray], None]


def one(game: str, envs: int) -> Stepper:
    return _stepper(AtariEnv(game, seed=0))


def dopamine(game: str, envs: int) -> Stepper:
    return _stepper(AtariPreprocessing(OldGym(game)))


def _stepper(env: AtariEnv | AtariPreprocessing) -> Stepper:
    def step(actions: np.ndarray) -> None:
        env.reset()
        for action in actions:
            if env.step(action)[2]:
                env.reset()

    return step


def vector(game: str, envs: int) -> Stepper:
    env = make_vector(game, envs, seed=0, sticky=0.25)
    env.reset()

    def step(actions: np.ndarray) -> None:
        for row in actions.reshape(-1, envs):
            env.step(row)

    return step


def collecting(game: str, envs: int) -> Stepper:
    """Plays at random and writes the files; the actions are only counted."""

    def step(actions: np.ndarray) -> None:
        job = Job(game, 1, len(actions), "random", (1.0,), 1_000_000, 0)
        with tempfile.TemporaryDirectory() as folder:
            scripted.play_job(job, Path(folder), lambda _: None)

    return step


def measure(step: Stepper, actions: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    step(actions)  # imports, page faults
    wall, cpu = [], []
    for _ in range(rounds):
        before = time.perf_counter(), time.process_time()
        step(actions)
        wall.append(len(actions) / (time.perf_counter() - before[0]))
        cpu.append(len(actions) / (time.process_time() - before[1]))
    return {
        "steps_per_second": common.summarise(wall),
        "steps_per_cpu_second": common.summarise(cpu),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--envs", type=int, default=8)
    arguments = parser.parse_args()
    steps = arguments.steps // arguments.envs * arguments.envs
    makers = {"env_dopamine": dopamine, "env": one, "env_vector": vector, "collect": collecting}
    for game in GAMES:
        actions = np.random.default_rng(0).choice(games.to_full_actions(game), steps)
        for name, make in makers.items():
            envs = arguments.envs if make is vector else 1
            speed = measure(make(game, envs), actions, arguments.rounds)
            common.emit(name, game=game, envs=envs, steps=steps, **speed)


if __name__ == "__main__":
    main()
