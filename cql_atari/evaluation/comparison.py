"""Scores and differences between players in words: a table's entry, a plain sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cql_atari.evaluation import intervals, tables
from cql_atari.evaluation.labels import DATA, FIXED, Cell

NAMES = {DATA: "the data's mean", FIXED: "the best fixed action"}  # others: their labels


class Difference(NamedTuple):
    """By how much one player's mean score in a game is above another's.

    Attributes:
      game: or variant.
      value: of the means.
      ci95: its interval; None where there is none.
      above: in how many seeds it is above 0, of how many; None for single runs.
    """

    game: str
    value: float
    ci95: tuple[float, float] | None
    above: tuple[int, int] | None = None


def score(cell: Cell | None) -> str:
    """A mean with half its interval, where there is one, and its note; "-" for none."""
    if cell is None:
        return "-"
    text = tables.number(cell.mean)
    if cell.ci95:
        text += f" ± {tables.number(cell.ci95[1] - cell.mean)}"
    return f"{text} {cell.note}".rstrip()


def of_cells(mine: Mapping[str, Cell], theirs: Mapping[str, Cell]) -> list[Difference]:
    """Of every game that both played, with Welch's interval over the episodes of both."""
    rows = []
    for game in mine:
        if game in theirs:
            value = mine[game].mean - theirs[game].mean
            half = _half(mine[game], theirs[game])
            rows.append(
                Difference(game, value, None if half is None else (value - half, value + half))
            )
    return rows


def _half(*pair: Cell) -> float | None:
    if any(cell.ci95 is None for cell in pair):
        return None
    degrees = [cell.n - 1 for cell in pair]
    halves = [cell.ci95[1] - cell.mean for cell in pair if cell.ci95]
    parts = np.array([(h / intervals.t_quantile(d)) ** 2 for h, d in zip(halves, degrees)])
    return float(intervals.welch_quantile(parts, degrees) * parts.sum() ** 0.5)


def sentence(mine: str, theirs: str, differences: Sequence[Difference]) -> str:
    """E.g. "agent above cloning in 1 of 2 games: Freeway +8.0 ± 0.9 (5 of 5 seeds), ..."."""
    games = ", ".join(map(_game, differences))
    above = sum(one.value > 0 for one in differences)
    clear = sum(bool(one.ci95 and one.ci95[0] > 0) for one in differences)
    return (
        f"{mine} above {theirs} in {above} of {len(differences)} games, "
        f"in {clear} with an interval above 0: {games}"
    )


def _game(one: Difference) -> str:
    text = f"{one.game} {'+' if one.value > 0 else ''}{tables.number(one.value)}"
    if one.ci95:
        text += f" ± {tables.number(one.ci95[1] - one.value)}"
    if one.above and one.above[1] > 1:
        text += f" ({one.above[0]} of {one.above[1]} seeds)"
    return text
