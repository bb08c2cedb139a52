"""Several copies of an Atari game that are stepped together; `atari.make_vector` makes them.

A step has two halves, so that copies of other games, and the network, can work in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import ale_py
import numpy as np

from cql_atari.core.types import FRAME_SHAPE, NUM_ACTIONS, STACK, UserError

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
        self._envs.send(_checked(actions))

    def receive(self) -> Stepped:
        stacks, rewards, terminals, truncations, _ = self._envs.recv()
        return stacks, rewards.astype(np.float32), terminals, truncations


class Single(Protocol):
    """The part of `atari.AtariEnv` that `LoopVector` uses."""

    def reset(self, seed: int | None = None) -> np.ndarray: ...

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool]: ...


class LoopVector(VectorEnv):
    """Steps single environments one after the other, all of it in `receive`."""

    def __init__(self, switches: Switches, envs: Sequence[Single], seed: int):
        self.switches = switches
        self._envs = envs
        self._seed = seed
        self._actions = np.zeros(len(envs), np.int32)
        self._ended = np.zeros(len(envs), bool)
        self._stacks = np.zeros((len(envs), STACK, *FRAME_SHAPE), np.uint8)

    def reset(self, seed: int | None = None) -> np.ndarray:
        first = self._seed if seed is None else seed
        self._stacks[:], self._ended[:] = 0, False
        for k, env in enumerate(self._envs):
            self._stacks[k, -1] = env.reset(first + k)
        return self._stacks.copy()

    def send(self, actions: np.ndarray) -> None:
        self._actions = _checked(actions)

    def receive(self) -> Stepped:
        rewards = np.zeros(len(self._envs), np.float32)
        terminals, truncations = np.zeros((2, len(self._envs)), bool)
        for k, env in enumerate(self._envs):
            if self._ended[k]:
                self._stacks[k] = 0
                self._stacks[k, -1] = env.reset()
            else:
                self._stacks[k, :-1] = self._stacks[k, 1:]
                self._stacks[k, -1], rewards[k], terminals[k], truncations[k] = env.step(
                    int(self._actions[k])
                )
        self._ended = terminals | truncations
        return self._stacks.copy(), rewards, terminals, truncations


def _checked(actions: np.ndarray) -> np.ndarray:
    """Actions as int32, each within the full set."""
    actions = np.asarray(actions, np.int32)
    if actions.min() < 0 or actions.max() >= NUM_ACTIONS:
        raise UserError(f"actions {actions.tolist()}: the full set is 0 to {NUM_ACTIONS - 1}")
    return actions
