"""95 % intervals of a mean and of a difference of means by Student's t, and their p-values.

Values that are all equal leave t without an error. Their p-value is then a permutation test's: the
share of all signs, or of all divisions into two groups, that are as extreme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special  # not scipy.stats, which takes a second to import

_ROUNDING = 1e-9  # mean scores that differ by less are equal: floats are rounded


def mean(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None for fewer than two values.

    Preferred to the bootstrap, which is far too narrow for the 4 to 16 episodes of an evaluation.
    """
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1) * _deviation(values) / np.sqrt(len(values))
    middle = np.mean(values)
    return float(middle - half), float(middle + half)


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of mean(first) - mean(second) by Welch's t (variances and numbers may differ).

    None where either has fewer than two values.
    """
    if min(len(first), len(second)) < 2:
        return None
    parts, degrees = _parts(first, second)
    half = welch_quantile(parts, degrees) * parts.sum() ** 0.5
    middle = np.mean(first) - np.mean(second)
    return float(middle - half), float(middle + half)


def p_paired(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the hypothesis that the differences' mean is 0, by Student's t; None
    for fewer than two.
    """
    if len(differences) < 2:
        return None
    error = _deviation(differences) / len(differences) ** 0.5
    extreme = 2 / 2 ** len(differences)
    return _p(float(np.mean(differences)), error, len(differences) - 1, extreme)


def p_welch(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p-value of the hypothesis that the means are equal, by Welch's t; None where
    either has fewer than two values.
    """
    if min(len(first), len(second)) < 2:
        return None
    parts, degrees = _parts(first, second)
    error = float(parts.sum() ** 0.5)
    extreme = 2 / math.comb(len(first) + len(second), len(first))
    value = float(np.mean(first) - np.mean(second))
    return _p(value, error, _welch_degrees(parts, degrees), extreme)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) corrected p-values. If every hypothesis with one below 0.05 is rejected, the
    probability that a true one is among them is at most 5 %.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for done, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[place]))
        corrected[place] = largest
    return corrected


def welch_quantile(parts: np.ndarray, degrees: Sequence[int] | np.ndarray) -> float:
    """The t quantile for an error whose square is the sum of `parts`, each with its own degrees of
    freedom (Welch and Satterthwaite); 0 where the error is 0.
    """
    return t_quantile(_welch_degrees(parts, degrees)) if parts.any() else 0.0


def t_quantile(degrees: float) -> float:
    """The 97.5 % quantile of Student's t."""
    return float(special.stdtrit(degrees, 0.975))


def _p(value: float, error: float, degrees: float, extreme: float) -> float:
    if error == 0:
        return extreme if abs(value) > _ROUNDING else 1.0
    return float(2 * special.stdtr(degrees, -abs(value) / error))


def _deviation(values: Sequence[float]) -> float:
    """The standard deviation; 0 where only rounding tells values apart: t would divide by it."""
    return 0.0 if np.ptp(values) < _ROUNDING else float(np.std(values, ddof=1))


def _parts(first: Sequence[float], second: Sequence[float]) -> tuple[np.ndarray, list[int]]:
    """Squared errors of both means, and their degrees of freedom."""
    parts = np.array([_deviation(values) ** 2 / len(values) for values in (first, second)])
    return parts, [len(first) - 1, len(second) - 1]


def _welch_degrees(parts: np.ndarray, degrees: Sequence[int] | np.ndarray) -> float:
    if not parts.any():
        return 1.0
    weights = parts / parts.sum()
    return float(1 / np.sum(weights**2 / degrees))
