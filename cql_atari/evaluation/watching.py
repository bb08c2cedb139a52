"""Plays an episode and gives, for each step, what was seen, what the network said and was done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import FRAME_SHAPE, STACK, Observation
from cql_atari.envs.atari import AtariEnv


class Scene(NamedTuple):
    """One step of an episode.

    Attributes:
      screen: uint8 [210, 160, 3], the console's screen.
      frame: uint8 [84, 84], the newest frame of the network's input.
      said: what the network said, by name, each [18, ...] or a number; the actions' scores first.
      action: what was done, an index of the full set.
      random: whether epsilon chose it.
      score: sum of raw rewards so far.
      step: agent steps so far.
      end: "" while the episode goes on, else why it doesn't.
    """

    screen: np.ndarray
    frame: np.ndarray
    said: dict[str, np.ndarray]
    action: int
    random: bool
    score: float
    step: int
    end: str = ""


def episode(
    env: AtariEnv,
    watch: Callable[[Observation], dict[str, np.ndarray]],
    game: str,
    position: int,
    *,
    epsilon: float,
    seed: int,
) -> Iterator[Scene]:
    """Plays as `rollout.play` plays a game's first episode, so that both give the same one.

    Args:
      env: the game, made with `colour`.
      watch: as `Method.watch` makes it.
      game: its name.
      position: its position among the network's games.
      epsilon: probability of a random action.
      seed: of the random actions.

    Yields:
      A scene a step, and once more the last one after it, with its end.
    """
    actions = np.sort(games.to_full_actions(game))
    generator = np.random.default_rng([seed, *game.encode(), 0])  # as `Game.begin`
    stack = np.zeros((1, STACK, *FRAME_SHAPE), np.uint8)
    stack[0, -1] = env.reset()
    seen = Observation.first(stack, np.array([position], np.int32))
    score, step, terminal, truncated = 0.0, 0, False, False
    while not (terminal or truncated):
        said = {name: output[0] for name, output in watch(seen).items()}
        scores = next(iter(said.values()))[actions]
        random = bool(generator.random() < epsilon)
        chosen = generator.integers(len(actions)) if random else scores.argmax()
        action = int(actions[chosen])
        scene = Scene(env.screen, seen.frames[0, -1], said, action, random, score, step)
        yield scene
        frame, reward, terminal, truncated = env.step(action)
        score, step = score + reward, step + 1
        seen = seen._replace(
            frames=np.concatenate([seen.frames[:, 1:], frame[None, None]], 1),
            begins=np.array([False]),
            actions=np.array([action], np.int32),
            rewards=np.array([reward], np.float32),
        )
    end = "game over" if terminal else "cut here"
    yield scene._replace(screen=env.screen, frame=frame, score=score, step=step, end=end)
