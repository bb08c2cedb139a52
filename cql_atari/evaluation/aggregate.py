"""Aggregates over games of normalised scores, as in Agarwal et al. 2021 ("rliable").

Point estimates are rliable's. The intervals are not: percentile intervals of the bootstrap are too
narrow for few episodes or seeds. docs/statistics.md says how often ours contain the true value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cql_atari.evaluation import intervals

DRAWS = 2_000
# A function of scores float64 [..., runs, games] that returns [...].
Statistic = Callable[[np.ndarray], np.ndarray]
# Normalised scores: of one run, for each game those of its episodes [n_g]; or of several runs that
# differ by seed, each run's means over episodes, float64 [runs, games].
Scores = Sequence[np.ndarray] | np.ndarray


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean: the mean without the lowest and the highest quarter (rounded down).

    All entries of [..., runs, games] are pooled, as rliable does. With one training seed each game
    contributes one entry, its mean over episodes: over 40 games it is the mean of the middle 20.
    """
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    size = ordered.shape[-1]
    return ordered[..., size // 4 : size - size // 4].mean(-1)


def mean(scores: np.ndarray) -> np.ndarray:
    """The mean over games and runs."""
    return scores.mean((-2, -1))


def median(scores: np.ndarray) -> np.ndarray:
    """The median over games of their means over runs."""
    return np.median(scores.mean(-2), axis=-1)


def optimality_gap(scores: np.ndarray) -> np.ndarray:
    """By how much scores fall short of 1 on average; what is above 1 counts as 1."""
    return 1 - np.minimum(scores, 1).mean((-2, -1))


class Aggregate(NamedTuple):
    """A statistic and its name in tables and figures."""

    title: str
    statistic: Statistic


# Every one in this list is computed, logged and shown in reports.
AGGREGATES = {
    "iqm": Aggregate("IQM", iqm),
    "mean": Aggregate("mean", mean),
    "median": Aggregate("median", median),
    "optimality_gap": Aggregate("optimality gap", optimality_gap),
}


def aggregate(scores: Scores) -> dict[str, dict[str, Any]]:
    """Every aggregate, with its interval.

    The intervals of one run cover the randomness of evaluation only. Those of several runs cover
    that of training, too.

    Returns:
      {name in AGGREGATES: {"value": ..., "ci95": (low, high)}}; None for an interval where there is
      one run and a game has fewer than two episodes.
    """
    estimate = _estimator(scores)
    return {name: estimate(one.statistic) for name, one in AGGREGATES.items()}


def profile(scores: Scores, thresholds: np.ndarray) -> list[dict[str, Any]]:
    """Performance profile: the share of scores above each threshold, with pointwise intervals.

    Args:
      scores: see `Scores`.
      thresholds: normalised scores.

    Returns:
      For each threshold, {"value", "ci95"}.
    """
    estimate = _estimator(scores)
    cells = [estimate(_above(float(threshold))) for threshold in thresholds]
    for cell in cells:  # shares
        cell["ci95"] = cell["ci95"] and tuple(np.clip(cell["ci95"], 0, 1).tolist())
    return cells


def improvement(first: Scores, second: Scores) -> dict[str, Any]:
    """Probability that a score of the first is above one of the second, averaged over games.

    A tie counts half. The interval is DeLong's (1988), by Student's t.

    Args:
      first: see `Scores`.
      second: the same kind, the same games.

    Returns:
      {"value", "ci95"}; no interval where a game has fewer than two scores on a side, or where
      nothing varies (in each game all scores of one are above all of the other): that is no proof
      of a chance of 100 %.
    """
    runs = isinstance(first, np.ndarray)
    pairs = zip(first.T, second.T) if runs else zip(first, second)  # type: ignore[union-attr]
    wins = [np.greater.outer(a, b) + 0.5 * np.equal.outer(a, b) for a, b in pairs]
    value = float(np.mean([game.mean() for game in wins]))
    if min(min(game.shape) for game in wins) < 2:
        return {"value": value, "ci95": None}
    placements = [game.mean(axis) for game in wins for axis in (1, 0)]
    if runs:  # a run's games aren't independent: each run counts once, with their mean
        placements = [np.mean(placements[side::2], 0) for side in (0, 1)]
    degrees = [len(placement) - 1 for placement in placements]
    parts = np.array([placement.var() / d for placement, d in zip(placements, degrees)])
    if max(map(np.ptp, placements)) < 1e-9:  # in 5 games 4 / 5 varies by its last bit
        return {"value": value, "ci95": None}
    parts /= 1 if runs else len(wins) ** 2
    half = intervals.welch_quantile(parts, degrees) * parts.sum() ** 0.5
    return {"value": value, "ci95": (max(0.0, value - half), min(1.0, value + half))}


def _estimator(scores: Scores) -> Callable[[Statistic], dict[str, Any]]:
    """A function that gives a statistic of the scores, {"value", "ci95"}."""
    if isinstance(scores, np.ndarray):
        return functools.partial(_over_runs, scores)
    return functools.partial(_over_episodes, scores)


@functools.cache
def _noise(games: int) -> np.ndarray:
    """Standard normal numbers [DRAWS, 1, games], the same for every statistic."""
    return np.random.default_rng(0).normal(size=(DRAWS, 1, games))


def _over_episodes(scores: Sequence[np.ndarray], statistic: Statistic) -> dict[str, Any]:
    """The statistic of one run's means, within t standard deviations of the statistics of draws.

    A draw is the means with new noise of the size of their standard errors. A statistic of noisy
    means is biased unless it is their mean: noise spreads the games, which moves the middle ones.
    Since the draws add the same noise a second time, their bias estimates that of the value. On
    average the estimate is only half of the bias, because the means are spread by noise already; so
    the interval reaches twice the estimate further to that side.
    """
    counts = np.array([len(score) for score in scores])
    means = np.array([score.mean() for score in scores])[None]  # [1, games]
    value = float(statistic(means))
    if counts.min() < 2:
        return {"value": value, "ci95": None}
    squared = np.array([score.var(ddof=1) for score in scores]) / counts
    drawn = statistic(means + squared**0.5 * _noise(len(scores)))
    half = intervals.welch_quantile(squared, counts - 1) * drawn.std()
    bias = drawn.mean() - value
    low, high = value - half - max(2 * bias, 0), value + half - min(2 * bias, 0)
    return {"value": value, "ci95": (float(low), float(high))}


def _over_runs(scores: np.ndarray, statistic: Statistic) -> dict[str, Any]:
    """Student's t with the jackknife's error over runs, which leaves a run out with all its games:
    games of one run aren't independent of each other.
    """
    value, runs = float(statistic(scores)), len(scores)
    if runs < 2:
        return {"value": value, "ci95": None}
    without = np.array([statistic(np.delete(scores, run, axis=0)) for run in range(runs)])
    half = intervals.t_quantile(runs - 1) * ((runs - 1) * without.var()) ** 0.5
    return {"value": value, "ci95": (float(value - half), float(value + half))}


def _above(threshold: float) -> Statistic:
    return lambda scores: (scores > threshold).mean((-2, -1))
