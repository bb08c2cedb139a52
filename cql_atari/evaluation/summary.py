"""The numbers of one evaluation by game and over games, as dictionaries and as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import EpisodeScore
from cql_atari.evaluation import intervals, tables
from cql_atari.evaluation.aggregate import AGGREGATES, aggregate
from cql_atari.evaluation.tables import Estimate, Value

# ALE's default mode where it isn't 0. Normalised scores exist for the defaults only.
_DEFAULT_MODES = {
    "AirRaid": 1, "BattleZone": 1, "Berzerk": 1, "Centipede": 22, "Defender": 1, "DemonAttack": 1,
    "NameThisGame": 8, "Pooyan": 10,
}  # fmt: skip
REFERENCES = {"human_normalised": "human", "dqn_normalised": "DQN"}
_NORMALISE = {"human_normalised": games.human_normalised, "dqn_normalised": games.dqn_normalised}


def variant_name(score: EpisodeScore) -> str:
    """The game's name, with mode and difficulty where they aren't the default."""
    if is_default(score):
        return score.game
    return f"{score.game} (mode {score.mode}, difficulty {score.difficulty})"


def is_default(score: EpisodeScore) -> bool:
    """Whether the episode was played with the console's switches as reference scores have them."""
    return score.mode == default_mode(score.game) and score.difficulty == 0


def default_mode(game: str) -> int:
    """ALE's mode of the game where none is asked for."""
    return _DEFAULT_MODES.get(game, 0)


def by_variant(episodes: Sequence[EpisodeScore]) -> dict[str, list[EpisodeScore]]:
    """Episodes grouped by `variant_name`, in order of first appearance."""
    groups: dict[str, list[EpisodeScore]] = {}
    for score in episodes:
        groups.setdefault(variant_name(score), []).append(score)
    return groups


def normalised(episodes: Sequence[EpisodeScore], kind: str) -> dict[str, np.ndarray]:
    """Normalised scores of the episodes of every game that has a reference: {game: float64 [n]}."""
    return {
        name: np.array([_NORMALISE[kind](score.game, score.score) for score in group])
        for name, group in by_variant(episodes).items()
        if is_default(group[0]) and _NORMALISE[kind](group[0].game, 0.0) is not None
    }


def summarise(episodes: Sequence[EpisodeScore]) -> dict[str, Any]:
    """The numbers of an evaluation, ready for JSON.

    Returns:
      {"games": {variant name: {n, mean, ci95, median, min, max, human_normalised, dqn_normalised,
      truncated, length, action_share}}, "human_normalised" and "dqn_normalised": {"games": how many
      have the reference score, then as `aggregate`}}. What doesn't exist is None: the interval of
      one episode, normalised scores of variants and of games without a reference.
    """
    rows = {name: _game(group) for name, group in by_variant(episodes).items()}
    result: dict[str, Any] = {"games": rows}
    for kind in REFERENCES:
        scores = list(normalised(episodes, kind).values())
        result[kind] = {"games": len(scores), **(aggregate(scores) if scores else {})}
    return result


def as_text(label: str, found: dict[str, Any], markdown: bool = False) -> str:
    """One evaluation in a small table, as commands print it at their end, and its aggregates.

    Args:
      label: who played.
      found: as `summarise`.
      markdown: whether to write Markdown.
    """
    rows: list[list[Value]] = [
        ["game", "episodes", "mean score", "of human", "of DQN"],
        *([name, row["n"], Estimate(row["mean"], row["ci95"]),
           *(tables.percent(row[form]) for form in REFERENCES)]
          for name, row in found["games"].items()),
    ]  # fmt: skip
    lines = aggregate_lines(label, {form: found[form] for form in REFERENCES})
    if markdown:
        lines = ["", *(f"- {line}" for line in lines)]
    return "\n".join([tables.table(rows, markdown), *lines])


def aggregate_lines(label: str, values: dict[str, dict[str, Any]]) -> list[str]:
    """Every aggregate over games with its interval, for both normalisations.

    Args:
      label: of the player.
      values: "human_normalised" and "dqn_normalised" -> {"games": number, aggregate: {"value",
        "ci95"}}.
    """
    lines = []
    for form, reference in REFERENCES.items():
        if number := values[form]["games"]:
            numbers = ", ".join(
                f"{one.title} {tables.text(tables.share(values[form][name]))}"
                for name, one in AGGREGATES.items()
            )
            lines.append(f"{label}, {reference}-normalised over {number} games: {numbers}")
    return lines


def _game(group: Sequence[EpisodeScore]) -> dict[str, Any]:
    game = group[0].game
    scores = [score.score for score in group]
    mean = float(np.mean(scores))
    counts = np.sum([score.action_counts for score in group], 0)
    return {
        "n": len(scores),
        "mean": mean,
        "ci95": intervals.mean(scores),
        "median": float(np.median(scores)),
        "min": min(scores),
        "max": max(scores),
        **{kind: normalise(game, mean) if is_default(group[0]) else None
           for kind, normalise in _NORMALISE.items()},
        "truncated": sum(score.truncated for score in group),
        "length": float(np.mean([score.length for score in group])),
        "action_share": {
            games.ACTION_NAMES[action]: float(counts[action] / max(1, counts.sum()))
            for action in games.spec(game).actions
        },
    }  # fmt: skip
