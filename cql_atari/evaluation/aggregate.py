"""From episodes to numbers: intervals, normalised scores, aggregates over games, `scores.json`."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import NUM_ACTIONS, EpisodeScore, UserError

FORMAT = 1
RESAMPLES = 2_000
# ALE's default mode where it isn't 0. Normalised scores exist for the defaults only.
_DEFAULT_MODES = {
    "AirRaid": 1, "BattleZone": 1, "Berzerk": 1, "Centipede": 22, "Defender": 1, "DemonAttack": 1,
    "NameThisGame": 8, "Pooyan": 10,
}  # fmt: skip


class Scores(NamedTuple):
    """What a `scores.json` holds.

    Attributes:
      episodes: every episode.
      protocol: how they were played (epsilon, sticky, cap, ...).
      run: who played (`label`, checkpoint, step, ...).
    """

    episodes: list[EpisodeScore]
    protocol: dict[str, Any]
    run: dict[str, Any]


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None for fewer than two values.

    Preferred to the bootstrap, which is far too narrow for the 4 to 16 episodes of an evaluation.
    """
    if len(values) < 2:
        return None
    half = _t_quantile(len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    mean = np.mean(values)
    return float(mean - half), float(mean + half)


def difference_interval(
    first: Sequence[float], second: Sequence[float]
) -> tuple[float, float] | None:
    """95 % interval of mean(first) - mean(second) by Welch's t (spreads may differ, and numbers).

    None where either has fewer than two values.
    """
    if min(len(first), len(second)) < 2:
        return None
    parts = np.array([np.var(values, ddof=1) / len(values) for values in (first, second)])
    error, difference = parts.sum() ** 0.5, np.mean(first) - np.mean(second)
    if error:
        weights = parts / parts.sum()  # Welch-Satterthwaite
        degrees = 1 / np.sum(weights**2 / [len(first) - 1, len(second) - 1])
        error *= _t_quantile(float(degrees))
    return float(difference - error), float(difference + error)


@functools.cache
def _t_quantile(degrees: float) -> float:
    """The 97.5 % quantile of Student's t.

    With t = sqrt(degrees) tan(angle), the angle's density is proportional to
    cos(angle)^(degrees - 1), which is summed on a grid over [0, pi / 2].
    """
    angle = np.linspace(0, np.pi / 2, 100_001)
    density = np.cos(angle) ** (degrees - 1)
    mass = np.cumsum(density[1:] + density[:-1])
    return float(np.sqrt(degrees) * np.tan(np.interp(0.95 * mass[-1], mass, angle[1:])))


def iqm(scores: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Interquartile mean: the mean without the lowest and the highest quarter (rounded down).

    Over a matrix [runs, games] and `axis=None` this is rliable's: all entries are pooled. With one
    training seed each game contributes one entry, its mean over episodes (method section 5: over
    40 games, the mean of the middle 20).
    """
    ordered = np.sort(scores, axis=axis)
    axis = 0 if axis is None else axis
    size = ordered.shape[axis]
    return ordered.take(range(size // 4, size - size // 4), axis=axis).mean(axis)


def aggregate(scores: Sequence[np.ndarray]) -> dict[str, dict[str, Any]]:
    """Mean, median and IQM over games of the games' mean normalised scores.

    The 95 % intervals are percentile intervals of a stratified bootstrap: episodes are resampled
    within each game (Agarwal et al. 2021, with one training seed's episodes for runs). They hold
    the chance of evaluation, not that of training, which needs several seeds.

    Args:
      scores: per game, the normalised scores of its episodes [n_g].

    Returns:
      {"mean" | "median" | "iqm": {"value": ..., "ci95": (low, high)}}.
    """
    generator = np.random.default_rng(0)
    resampled = np.stack(
        [np.mean(s[generator.integers(len(s), size=(RESAMPLES, len(s)))], 1) for s in scores], 1
    )  # [RESAMPLES, games]
    point = np.array([np.mean(s) for s in scores])[None]
    result = {}
    functions: dict[str, Callable[..., np.ndarray]] = {
        "mean": np.mean, "median": np.median, "iqm": iqm,
    }  # fmt: skip
    for name, function in functions.items():
        low, high = np.percentile(function(resampled, axis=1), [2.5, 97.5])
        value = float(function(point, axis=1)[0])
        result[name] = {"value": value, "ci95": (float(low), float(high))}
    return result


def variant_name(score: EpisodeScore) -> str:
    """The game's name, with mode and difficulty where they aren't the default."""
    if is_default(score):
        return score.game
    return f"{score.game} (mode {score.mode}, difficulty {score.difficulty})"


def is_default(score: EpisodeScore) -> bool:
    """Whether the episode was played with the console's switches as reference scores have them."""
    return score.mode == _DEFAULT_MODES.get(score.game, 0) and score.difficulty == 0


def by_variant(episodes: Sequence[EpisodeScore]) -> dict[str, list[EpisodeScore]]:
    """Episodes grouped by `variant_name`, in order of first appearance."""
    groups: dict[str, list[EpisodeScore]] = {}
    for score in episodes:
        groups.setdefault(variant_name(score), []).append(score)
    return groups


def summarise(episodes: Sequence[EpisodeScore]) -> dict[str, Any]:
    """The numbers of an evaluation, ready for JSON.

    Returns:
      {"games": {variant name: {n, mean, ci95, median, min, max, human_normalised, dqn_normalised,
      truncated, length, action_share}}, "human_normalised" and "dqn_normalised": {"games": how many
      have the reference score, then as `aggregate`}}. What doesn't exist is None: the interval of
      one episode, normalised scores of variants and of games without a reference.
    """
    groups = by_variant(episodes)
    summary: dict[str, Any] = {"games": {name: _game(group) for name, group in groups.items()}}
    for kind in ("human_normalised", "dqn_normalised"):
        normalise = getattr(games, kind)
        scores = [
            np.array([normalise(score.game, score.score) for score in groups[name]])
            for name, row in summary["games"].items()
            if row[kind] is not None
        ]
        summary[kind] = {"games": len(scores), **(aggregate(scores) if scores else {})}
    return summary


def _game(group: Sequence[EpisodeScore]) -> dict[str, Any]:
    game = group[0].game
    scores = [score.score for score in group]
    mean = float(np.mean(scores))
    default = is_default(group[0])
    counts = np.sum([score.action_counts for score in group], 0)
    return {
        "n": len(scores),
        "mean": mean,
        "ci95": mean_interval(scores),
        "median": float(np.median(scores)),
        "min": min(scores),
        "max": max(scores),
        "human_normalised": games.human_normalised(game, mean) if default else None,
        "dqn_normalised": games.dqn_normalised(game, mean) if default else None,
        "truncated": sum(score.truncated for score in group),
        "length": float(np.mean([score.length for score in group])),
        "action_share": {
            games.ACTION_NAMES[action]: float(counts[action] / max(1, counts.sum()))
            for action in games.spec(game).actions
        },
    }


def write_scores(
    path: str | Path,
    episodes: Sequence[EpisodeScore],
    protocol: dict[str, Any],
    run: dict[str, Any],
) -> None:
    """Writes `scores.json`: run, protocol, summary, and every episode on a line of its own.

    The file appears whole or not at all.

    Raises:
      UserError: if it can't be written.
    """
    head = {"format": FORMAT, "run": run, "protocol": protocol, "summary": summarise(episodes)}
    lines = ",\n".join(json.dumps(score._asdict(), allow_nan=False) for score in episodes)
    text = json.dumps(head, indent=2, allow_nan=False)[:-2] + f',\n  "episodes": [\n{lines}\n]}}\n'
    write_text(Path(path), text)


def write_text(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all; makes its folder.

    Raises:
      UserError: if it can't be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text)
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise UserError(
            f"can't write {path}: {error.strerror}; free space or mend the path"
        ) from error


def read_scores(path: str | Path) -> Scores:
    """Reads a `scores.json`.

    Raises:
      UserError: if it is missing, not JSON, or not as `write_scores` writes it.
    """
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); evaluate again to replace it") from None
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r} instead of {FORMAT}")
        run, protocol = dict(content["run"]), dict(content["protocol"])
        return Scores([_episode(row) for row in content["episodes"]], protocol, run)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no scores file of cql_atari.evaluate: {error!r}; evaluate again"
        ) from None


def _episode(row: dict[str, Any]) -> EpisodeScore:
    score = EpisodeScore(**{**row, "action_counts": tuple(map(int, row["action_counts"]))})
    if len(score.action_counts) != NUM_ACTIONS:
        raise ValueError(f"{len(score.action_counts)} action counts instead of {NUM_ACTIONS}")
    if not np.isfinite(score.score):
        raise ValueError(f"score {score.score!r}")
    games.spec(score.game)
    return score
