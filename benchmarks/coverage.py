"""Coverage: how often a 95 % interval holds the true value, by simulation over a range of noise.

Truth: 40 (or 5) games whose true normalised scores are drawn anew each time (gamma, shape 0.8,
mean 0.8: a long tail, as human-normalised scores have). An episode's score is the truth plus noise
whose standard deviation is `noise` times the truth, of one of three shapes: normal; exponential
(skewed); rare (one episode in four is good, the rest are not). `percentile` is the usual stratified
bootstrap, for comparison. The second table has runs that differ by seed: half of a seed's luck is
shared by all its games, half is each game's own.

Usage: python benchmarks/coverage.py [--rounds 400]   (prints Markdown, about 10 minutes)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from cql_atari.evaluation import aggregate

SHAPES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "exponential": lambda rng, size: rng.exponential(size=size) - 1,
    "rare": lambda rng, size: ((rng.random(size) < 0.25) - 0.25) / 0.1875**0.5,
}  # each of mean 0, variance 1
NOISES = (0.2, 0.6, 1.5)
NAMES = tuple(aggregate.AGGREGATES)
RESAMPLES = 300  # of the percentile bootstrap


def percentile(scores: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The usual interval of the IQM: episodes are resampled within each game [games, n]."""
    games, n = scores.shape
    chosen = rng.integers(n, size=(RESAMPLES, games, n))
    means = np.take_along_axis(scores[None], chosen, 2).mean(2)[:, None]
    low, high = np.percentile(aggregate.iqm(means), [2.5, 97.5])
    return float(low), float(high)


def truth_of(games: int, rng: np.random.Generator) -> np.ndarray:
    return rng.gamma(0.8, 1.0, games)


def holds(cell: dict, truth: float) -> bool:
    low, high = cell["ci95"] or (-np.inf, np.inf)  # without an interval nothing is excluded
    return bool(low <= truth <= high)


def episodes_table(rounds: int) -> list[list[str]]:
    rng = np.random.default_rng(0)
    rows = [["games", "episodes", "shape", "noise", *NAMES, "profile at 1", "percentile (IQM)"]]
    for games in (40, 5):
        for n in (2, 4, 16):
            for shape, draw in SHAPES.items():
                for noise in NOISES:
                    held = []
                    for _ in range(rounds):
                        truth = truth_of(games, rng)
                        scores = truth[:, None] * (1 + noise * draw(rng, (games, n)))
                        cells = aggregate.aggregate(list(scores))
                        true = {name: float(one.statistic(truth[None]))
                                for name, one in aggregate.AGGREGATES.items()}  # fmt: skip
                        share = aggregate.profile(list(scores), np.ones(1))[0]
                        usual = {"ci95": percentile(scores, rng)}
                        held.append([*(holds(cells[name], true[name]) for name in NAMES),
                                     holds(share, (truth > 1).mean()),
                                     holds(usual, true["iqm"])])  # fmt: skip
                    rows.append([str(games), str(n), shape, str(noise), *_percents(held)])
    return rows


def runs_table(rounds: int) -> list[list[str]]:
    rng = np.random.default_rng(1)
    rows = [["games", "seeds", "shape", "noise", *NAMES, "improvement"]]
    for games in (40, 5):
        for seeds in (3, 5, 10):
            for shape, draw in SHAPES.items():
                for noise in NOISES:
                    held = []
                    for _ in range(rounds):
                        truth = truth_of(games, rng)
                        first, second = (
                            _runs(truth, seeds, noise, draw, rng) for _ in range(2)
                        )  # one method twice: the chance that the first is above is a half
                        many = _runs(truth, 500, noise, draw, rng)
                        cells = aggregate.aggregate(first)
                        better = aggregate.improvement(first, second)
                        held.append([*(holds(cells[name], float(one.statistic(many)))
                                       for name, one in aggregate.AGGREGATES.items()),
                                     holds(better, 0.5)])  # fmt: skip
                    rows.append([str(games), str(seeds), shape, str(noise), *_percents(held)])
    return rows


def _runs(
    truth: np.ndarray, seeds: int, noise: float, draw: Callable, rng: np.random.Generator
) -> np.ndarray:
    """Scores [seeds, games]."""
    luck = draw(rng, (seeds, 1)) + draw(rng, (seeds, len(truth)))
    return truth * (1 + noise * luck / 2**0.5)


def _percents(held: list[list[bool]]) -> list[str]:
    return [f"{100 * share:.0f}" for share in np.mean(held, 0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=400)
    rounds = parser.parse_args().rounds
    for rows in (episodes_table(rounds), runs_table(rounds)):
        for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]):
            print("| " + " | ".join(row) + " |", flush=True)
        print()


if __name__ == "__main__":
    main()
