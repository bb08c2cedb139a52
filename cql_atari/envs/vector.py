"""Several copies of an Atari game that are stepped together; `atari.make_vector` makes them.

A step has two halves, so that copies of other games, and the network, can work in between.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import ale_py
import numpy as np

from cql_atari.core.types import NUM_ACTIONS, UserError

# Stacks uint8 [E, 4, 84, 84], raw rewards float32 [E], terminals bool [E], truncations bool [E].
Stepped = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Switches(NamedTuple):
    """How a console is set up: ALE's mode and difficulty in force, and the MD5 of its ROM."""

    mode: int
    difficulty: int
    rom_md5: str


class VectorEnv(Protocol):
    """E copies of one game in step.

    A copy that has ended (terminal or truncated) starts a new game on the next step, which ignores
    its action and returns the first stack with reward 0 and no flags.
    Stacks are time-major, newest frame last, zeros before the start of an episode. Every call
    returns new arrays. Where a game ends in the middle of a step, the last stack may differ from
    `AtariEnv`'s (which shows older screens there); no other does.
    """

    switches: Switches

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Switches every copy's console off and on; returns stacks uint8 [E, 4, 84, 84].

        Args:
          seed: copy k is seeded with seed + k; None: with the seed that they were made with.
        """
        ...

    def send(self, actions: np.ndarray) -> None:
        """Begins a step of every copy; the other half is `receive`.

        Args:
          actions: int32 [E], indices in the full 18-action set.
        """
        ...

    def receive(self) -> Stepped:
        """Ends the step that was begun."""
        ...

    def step(self, actions: np.ndarray) -> Stepped:
        """Both halves of a step."""
        self.send(actions)
        return self.receive()


class NativeVector(VectorEnv):
    """ale-py's vector environment, with other values for four of its defaults.

    Bit for bit Dopamine's preprocessing (tests/envs/test_atari.py). Its threads work between `send`
    and `receive`.
    """

    def __init__(
        self,
        switches: Switches,
        rom: str,
        num_envs: int,
        *,
        seed: int,
        sticky: float,
        max_frames: int,
    ):
        self.switches = switches
        self._seed = seed
        self._envs = ale_py.AtariVectorEnv(
            rom,
            num_envs,
            max_num_frames_per_episode=max_frames,
            repeat_action_probability=sticky,
            full_action_space=True,
            noop_max=0,
            reward_clipping=False,
            use_fire_reset=False,
        )

    def reset(self, seed: int | None = None) -> np.ndarray:
        return self._envs.reset(seed=self._seed if seed is None else seed)[0]

    def send(self, actions: np.ndarray) -> None:
        self._envs.send(checked_actions(actions))

    def receive(self) -> Stepped:
        stacks, rewards, terminals, truncations, _ = self._envs.recv()
        return stacks, rewards.astype(np.float32), terminals, truncations


def checked_actions(actions: np.ndarray) -> np.ndarray:
    """Actions as int32, each within the full set."""
    actions = np.asarray(actions, np.int32)
    if actions.min() < 0 or actions.max() >= NUM_ACTIONS:
        raise UserError(f"actions {actions.tolist()}: the full set is 0 to {NUM_ACTIONS - 1}")
    return actions
