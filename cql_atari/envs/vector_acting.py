"""Acts in several copies of a game in step, as data: who chooses the actions is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cql_atari.core.types import Observation, Policy
from cql_atari.envs.vector import VectorEnv

# Actions int32 [E] of the full set for what is seen in E copies.
Chooser = Callable[[Observation], np.ndarray]


class VectorStep(NamedTuple):
    """A step of each of E copies: frame, action and outcome.

    Attributes:
      frames: uint8 [E, 84, 84].
      actions: int32 [E], indices in the full 18-action set.
      rewards: float32 [E], raw, received after the actions.
      terminals: bool [E], whether the game is over.
      truncations: bool [E], whether the frame cap cut the episode here.
      live: bool [E]; False where the copy only began a new game, which is no step.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    truncations: np.ndarray
    live: np.ndarray


def act(envs: VectorEnv, choose: Chooser) -> Iterator[VectorStep]:
    """Resets the copies and plays for ever."""
    seen = Observation.first(envs.reset(), np.zeros(1, np.int32))
    live = np.ones(len(seen.frames), bool)
    while True:
        actions = choose(seen)
        following, rewards, terminals, truncations = envs.step(actions)
        yield VectorStep(seen.frames[:, -1], actions, rewards, terminals, truncations, live)
        seen = seen._replace(
            frames=following,
            episodes=(seen.episodes + len(live) * ~live).astype(np.int32),
            begins=~live,
            actions=np.where(live, actions, 0),
            rewards=np.where(live, rewards, 0).astype(np.float32),
        )
        live = ~(terminals | truncations)


def epsilon_greedy(
    policy: Policy,
    epsilon: Callable[[], float],
    actions: Sequence[int],
    rng: np.random.Generator,
) -> Chooser:
    """The policy's best of `actions`; with the present probability `epsilon()` any of them."""
    allowed = np.array(actions, np.int32)

    def choose(seen: Observation) -> np.ndarray:
        greedy = policy(seen)[:, allowed].argmax(1)
        explore = rng.random(len(greedy)) < epsilon()
        return allowed[np.where(explore, rng.integers(len(allowed), size=len(greedy)), greedy)]

    return choose
