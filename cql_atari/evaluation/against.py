"""Scores against a number in the runs' paths: one panel for each game, and the mean over games."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cql_atari.evaluation import comparison, groups, intervals
from cql_atari.evaluation.figures import BAND, Chart, Style, styles_of
from cql_atari.evaluation.groups import Group
from cql_atari.evaluation.labels import AGENT, DATA, FIXED, ORDER, RANDOM, kind, rank
from cql_atari.evaluation.page import Section

_FEW = 4  # seeds; with fewer, the band by Student's t would be wider than the figure
_REFERENCES = {DATA: "--", FIXED: (0, (6, 2, 1, 2)), RANDOM: ":"}  # drawn without bands
_SECOND = (0, (5, 1.5))  # of a second baseline of one kind: it has the first one's colour
_GREY = "#888888"


class Point(NamedTuple):
    """The mean over seeds at a number, and the ends of its band (None for a single seed)."""

    at: float
    mean: float
    ends: tuple[float, float] | None


Lines = Mapping[str, Sequence[Point]]  # group's name -> in order of the number


def section(found: Sequence[Group], name: str, player: str = AGENT) -> Section:
    """The page's section: sentences, differences and charts.

    Args:
      found: as `groups.make` with `against=name`.
      name: of the number.
      player: as `comparison.compare`.
    """
    compared = comparison.compare(found, name, player)
    lines = [*(comparison.sentence(one, name) for one in compared), comparison.NOTE]
    tables = [comparison.table(compared, name)] if compared else []
    return Section("against", f"Against {_axis(name)}", lines, tables, charts(found, name))


def charts(found: Sequence[Group], name: str) -> list[Chart]:
    """A chart with a panel a game, and one of the mean over games where there is a scale for it.

    Args:
      found: as `groups.make` with `against=name`.
      name: of the number.
    """
    numbered = [group for group in found if group.at is not None]
    banded = (group for group in numbered if kind(group.name) not in _REFERENCES)
    counts = sorted({len(group.players) for group in banded} - {1})
    by_t = bool(counts) and counts[0] >= _FEW
    seeds = f"{' to '.join(map(str, dict.fromkeys([*counts[:1], *counts[-1:]])))} seeds"
    bands = f"95 % interval over {seeds} (t)" if by_t else f"lowest to highest of {seeds}"
    games = sorted({game for group in numbered for game in groups.means(group)})
    lines = {game: _lines(found, functools.partial(_by_seed, game=game), by_t) for game in games}
    said = f" against {_axis(name)}: the mean over seeds{f', {bands}' if counts else ''}. A line "
    said += "is dotted where a point between two others is missing."
    made = [_chart("scores", name, f"Score{said}", lines, bands if counts else "")]
    scale = _scale(found, games)
    if scale is not None:
        low, high, at = scale

        def normalised(group: Group) -> list[float]:
            scores = [_by_seed(group, game) for game in games]
            return ((np.array(scores) - low) / (high - low)).mean(0).tolist() if all(scores) else []

        lines = {f"mean of {len(games)} games": _lines(found, normalised, by_t)}
        y = f"0: random play,\n1: the data's mean at {at:g}"
        caption = f"Mean over games of the score ({' '.join(y.split())}){said}"
        chart = _chart("mean", name, caption, lines, bands if counts else "")
        made.append(chart._replace(y=y, inches=(4.2, 2.8)))
    return made


def _by_seed(group: Group, game: str) -> list[float]:
    return groups.means(group).get(game, [])


def _lines(found: Sequence[Group], scores: Callable[[Group], list[float]], by_t: bool) -> Lines:
    """One point for each group; for those without a number (fixed policies) it is at infinity."""
    lines: dict[str, list[Point]] = {}
    for group in sorted(found, key=lambda g: (*_order(g.name), g.at or 0)):
        if seeds := scores(group):
            ends = intervals.mean(seeds) if by_t else (min(seeds), max(seeds))
            at = np.inf if group.at is None else group.at
            point = Point(at, float(np.mean(seeds)), ends if len(seeds) > 1 else None)
            lines.setdefault(group.name, []).append(point)
    return lines


def _scale(
    found: Sequence[Group], games: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """(low, high, number): the scores [games, 1] that count as 0, which are those of random play,
    and as 1, which are the data's means at the largest number. None where one of them is missing,
    or the data aren't above random play in every game.
    """
    random = next((group for group in found if kind(group.name) == RANDOM), None)
    data = [group for group in found if kind(group.name) == DATA and group.at is not None]
    best = max(data, key=lambda group: group.at or 0, default=None)
    if random is None or best is None:
        return None
    if not all(_by_seed(group, game) for group in (random, best) for game in games):
        return None
    low, high = (
        np.array([[np.mean(_by_seed(group, game))] for game in games]) for group in (random, best)
    )
    return (low, high, best.at or 0) if np.all(high > low) else None


def _chart(name: str, number: str, caption: str, panels: Mapping[str, Lines], bands: str) -> Chart:
    labels = {label for lines in panels.values() for label in lines}
    styles = {
        label: _style(label, style)
        for label, style in styles_of(sorted(labels, key=_order)).items()
    }
    numbers = {p.at for lines in panels.values() for line in lines.values() for p in line}
    ticks = sorted(numbers - {np.inf})

    def draw(panel: Any, game: str) -> None:
        for label, line in panels[game].items():
            _draw(panel, label, line, styles[label], ticks)
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])

    return Chart(
        f"{name}_against_{number}", caption, list(panels), draw,
        styles | ({bands: Style(_GREY, BAND)} if bands else {}),
        inches=(2.67, 2.4), x=_axis(number), y="score", across=3,
    )  # fmt: skip


def _style(label: str, style: Style) -> Style:
    if kind(label) in _REFERENCES:
        return style._replace(dashes=_REFERENCES[kind(label)], marker="")
    second = kind(label) in ORDER and kind(label) != label
    return style._replace(dashes=_SECOND) if second else style


def _draw(
    panel: Any, label: str, line: Sequence[Point], style: Style, ticks: Sequence[float]
) -> None:
    """Draws one player's line: a horizontal one for a player without numbers."""
    look = {"color": style.colour, "zorder": 3 if label == AGENT else 2}
    by_number = {point.at: point for point in line}
    if np.inf in by_number:
        panel.axhline(line[0].mean, linestyle=style.dashes, linewidth=1.3, **look)
        return
    means = [by_number[at].mean if at in by_number else np.nan for at in ticks]
    panel.plot([p.at for p in line], [p.mean for p in line], linestyle=":", linewidth=0.8, **look)
    panel.plot(ticks, means, linestyle=style.dashes, linewidth=2.4 if label == AGENT else 1.4,
               marker=style.marker, markersize=4.5, **look)  # fmt: skip
    if kind(label) not in _REFERENCES:
        none = Point(0, 0, None)
        ends = [by_number.get(at, none).ends or (np.nan, np.nan) for at in ticks]
        low, high = zip(*ends)
        panel.fill_between(ticks, low, high, color=style.colour, alpha=0.15, linewidth=0)
        panel.vlines(ticks, low, high, color=style.colour, alpha=0.4, linewidth=1)  # seen alone


def _order(label: str) -> tuple[int, bool, str]:
    """Baselines, the agent, other methods."""
    return rank(label), label != AGENT, label


def _axis(name: str) -> str:
    """ "good play, %" for `percent_good_play`."""
    words = name.replace("_", " ")
    return f"{words.removeprefix('percent ')}, %" if words.startswith("percent ") else words
