"""Policies that need no training: a fixed action, and the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cql_atari.core import games as game_table
from cql_atari.core.types import NUM_ACTIONS, EpisodeScore, Observation, Policy
from cql_atari.evaluation import rollout


def fixed_actions(actions: Mapping[str, int]) -> Policy:
    """The policy that always takes the same action of a game.

    Args:
      actions: of each game, a full 18-action index in the game's minimal set.
    """
    table = np.eye(NUM_ACTIONS, dtype=np.float32)[list(actions.values())]
    return Policy(
        tuple(actions),
        lambda seen: np.repeat(table[seen.games], len(seen.frames) // len(seen.games), axis=0),
    )


def best_fixed_action(
    variant: rollout.GameVariant,
    *,
    seed: int,
    trial_episodes: int = 2,
    trial_max_frames: int = 6_000,
    **options: Any,
) -> tuple[int, list[EpisodeScore]]:
    """The strongest policy that never looks at the screen and never changes its action.

    Every action of the minimal set plays `trial_episodes`, cut after `trial_max_frames` emulator
    frames. The one with the highest mean then plays fresh ones with other seeds. Only these are
    returned: the trials chose the winner, so their mean would be biased upwards. On a tie the
    shorter trial wins: in Breakout FIRE loses its balls, NOOP waits for the frame cap.

    Args:
      variant: the game.
      seed: as for `play`; the winner's seeds start at `seed`, the trials' 1,000,000 above.
      trial_episodes: episodes of each action in the trial.
      trial_max_frames: cap of the trial's episodes.
      **options: further arguments of `play`, for how many fresh episodes and how they are played.

    Returns:
      (the action's full index, its fresh episodes).
    """
    candidates = game_table.spec(variant.game).actions
    rows = np.eye(NUM_ACTIONS, dtype=np.float32)[list(candidates)]

    def each_in_turn(seen: Observation) -> np.ndarray:
        return rows[seen.episodes // trial_episodes]

    trials = rollout.play(
        Policy((variant.game,), each_in_turn), [variant], seed=seed + 1_000_000,
        **{**options, "episodes": trial_episodes * len(candidates), "agent_steps": None,
           "max_frames": trial_max_frames, "finished": (), "note": lambda score: None},
    )  # fmt: skip
    grades = np.reshape([(t.score, -t.length) for t in trials], (len(candidates), -1, 2)).mean(1)
    winner = max(zip(grades.tolist(), candidates), key=lambda pair: pair[0])[1]
    fixed = fixed_actions({variant.game: winner})
    return winner, rollout.play(fixed, [variant], seed=seed, **options)
