"""Normalised scores of groups of runs, as `aggregate` takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cql_atari.evaluation import summary
from cql_atari.evaluation.aggregate import Scores
from cql_atari.evaluation.groups import Group


def normalised(group: Group, form: str) -> dict[str, np.ndarray]:
    """Normalised scores of every game that has a reference and that all runs have played.

    Args:
      group: whose.
      form: "human_normalised" or "dqn_normalised".

    Returns:
      {game: float64 [episodes] of a single run, or [runs] means of several}.
    """
    runs = [summary.normalised(player.episodes, form) for player in group.players]
    if len(runs) == 1:
        return runs[0]
    return {
        game: np.array([run[game].mean() for run in runs])
        for game in runs[0]
        if all(game in run for run in runs)
    }


def scores(group: Group, form: str, games: Sequence[str]) -> Scores:
    """One run's episodes by game, or several runs' means [runs, games]."""
    if len(group.players) > 1:
        return run_scores(group, form, games)
    return [normalised(group, form)[game] for game in games]


def run_scores(group: Group, form: str, games: Sequence[str]) -> np.ndarray:
    """Each run's mean normalised scores [runs, games], of a single run as well."""
    found = normalised(group, form)
    if len(group.players) == 1:
        return np.array([[found[game].mean() for game in games]])
    return np.stack([found[game] for game in games], axis=1)


def common_games(groups: Sequence[Group], form: str) -> list[str]:
    """Games that all have played and that have a reference score, as the first orders them."""
    played = [normalised(group, form) for group in groups]
    return [game for game in (played[0] if played else ()) if all(game in one for one in played)]
