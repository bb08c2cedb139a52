"""Aggregates over games of normalised scores, as in Agarwal et al. 2021 ("rliable")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RESAMPLES = 2_000
TITLES = {"mean": "mean", "median": "median", "iqm": "IQM"}


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
        known = min(map(len, scores)) > 1  # one episode says nothing of chance
        result[name] = {"value": value, "ci95": (float(low), float(high)) if known else None}
    return result
