"""Acts in several copies of a game in step, as data: who chooses the actions is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cql_atari.envs.atari import VectorEnv

# (stacks uint8 [E, 4, 84, 84]) -> actions int32 [E] of the full set.
Chooser = Callable[[np.ndarray], np.ndarray]


class VectorStep(NamedTuple):
    """What was seen and done in each of E copies, and what came of it.

    Attributes:
      frames: uint8 [E, 84, 84].
      actions: int32 [E], indices in the full 18-action set.
      rewards: float32 [E], raw, received after the actions.
      terminals: bool [E], whether the game is over.
      truncations: bool [E], whether the frame cap cut the episode here.
      live: bool [E]; where false the copy only began a new game, and nothing of it counts.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    truncations: np.ndarray
    live: np.ndarray


def play(envs: VectorEnv, choose: Chooser) -> Iterator[VectorStep]:
    """Resets the copies and plays for ever."""
    stacks = envs.reset()
    live = np.ones(len(stacks), bool)
    while True:
        actions = choose(stacks)
        following, rewards, terminals, truncations = envs.step(actions)
        yield VectorStep(stacks[:, -1], actions, rewards, terminals, truncations, live)
        stacks, live = following, ~(terminals | truncations)


def epsilon_greedy(
    values: Callable[[np.ndarray], np.ndarray],
    epsilon: Callable[[], float],
    actions: Sequence[int],
    rng: np.random.Generator,
) -> Chooser:
    """The best of `actions` by values [E, 18], or any of them with the probability of the day."""
    allowed = np.array(actions, np.int32)

    def choose(stacks: np.ndarray) -> np.ndarray:
        greedy = values(stacks)[:, allowed].argmax(1)
        explore = rng.random(len(stacks)) < epsilon()
        return allowed[np.where(explore, rng.integers(len(allowed), size=len(stacks)), greedy)]

    return choose
