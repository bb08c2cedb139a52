"""Plays an episode step by step, as data: who chooses the actions is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import FRAME_SHAPE, STACK
from cql_atari.envs.atari import AtariEnv

# Chooses an action of the full set from the environment (its RAM), the stack of frames (uint8
# [4, 84, 84], newest last, zeros before the start; valid during the call) and a generator.
Player = Callable[[AtariEnv, np.ndarray, np.random.Generator], int]


class Step(NamedTuple):
    """A step: frame, action and outcome.

    Attributes:
      frame: uint8 [84, 84].
      action: index in the full 18-action set.
      reward: raw, received after the action.
      terminal: whether the game is over.
      truncated: whether the frame cap cut the episode here.
    """

    frame: np.ndarray
    action: int
    reward: float
    terminal: bool
    truncated: bool


def episode(env: AtariEnv, player: Player, rng: np.random.Generator) -> Iterator[Step]:
    """Resets the environment and plays until the game is over or cut."""
    frame, ended = env.reset(), False
    stack = np.zeros((STACK, *FRAME_SHAPE), np.uint8)
    while not ended:
        stack[:-1] = stack[1:]
        stack[-1] = frame
        action = player(env, stack, rng)
        next_frame, reward, terminal, truncated = env.step(action)
        yield Step(frame, action, reward, terminal, truncated)
        frame, ended = next_frame, terminal or truncated


def exploring(player: Player, epsilon: float, game: str) -> Player:
    """The player; a share `epsilon` of its actions is drawn uniformly from the minimal set."""
    actions = games.spec(game).actions

    def act(env: AtariEnv, stack: np.ndarray, rng: np.random.Generator) -> int:
        if rng.random() < epsilon:
            return actions[rng.integers(len(actions))]
        return player(env, stack, rng)

    return act


def taking_turns(players: Sequence[Player], shares: Sequence[float], mean_steps: float) -> Player:
    """A player that is now one, now another of some players, within an episode.

    Args:
      players: who take turns.
      shares: of all turns, one a player. A turn's player is drawn anew, so that it may be the last
        one's.
      mean_steps: of a turn; each step begins a new one with the same chance.
    """
    now: Player | None = None
    chances = np.array(shares) / sum(shares)  # typed shares may sum to 0.9999999

    def act(env: AtariEnv, stack: np.ndarray, rng: np.random.Generator) -> int:
        nonlocal now
        if now is None or rng.random() < 1 / mean_steps:
            now = players[rng.choice(len(players), p=chances)]
        return now(env, stack, rng)

    return act
