"""Charts that set groups of runs side by side: aggregates, profiles, sizes, ablations, actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cql_atari.core.games import ACTION_NAMES
from cql_atari.evaluation.charts import Curve, inches_of_rows, name_rows, plot_curve
from cql_atari.evaluation.figures import INK, Chart, Style, Styles
from cql_atari.evaluation.tables import Estimate

THRESHOLDS = np.linspace(0, 2, 81)
# name in the log: what it is
MEASURES = {
    "cql_pull": "CQL's pull on Q, αs²",
    "q_gap": "gap between the two best actions",
    "greedy_is_datas": "share: greedy action is the data's",
    "q_data": "Q of the data's action",
    "q_largest_used": "largest Q, actions of the game",
    "q_largest_unused": "largest Q, other actions",
    "target_at_ends": "share: target mass at the ends",
    "target_action_unused": "share: target argmax not the game's",
}


def estimates(
    name: str,
    caption: str,
    rows: Mapping[str, Mapping[str, Estimate | None]],
    styles: Styles,
    *,
    zero: float | None = None,
    x: str = "",
) -> Chart:
    """One panel a quantity, one row a label: a point with its interval.

    Args:
      name: of its files.
      caption: what it shows.
      rows: panel's title -> label -> estimate.
      styles: of the labels; one that isn't there is drawn in ink.
      zero: where a vertical line says "no difference".
      x: what the horizontal axes have.
    """
    labels = list(dict.fromkeys(label for panel in rows.values() for label in panel))

    def draw(panel: Any, title: str) -> None:
        for row, label in enumerate(labels):
            estimate = rows[title].get(label)
            if estimate is None:
                continue
            style = styles.get(label, Style(INK, "o"))
            if estimate.ci95:
                panel.plot(estimate.ci95, [row, row], color=style.colour, linewidth=3,
                           alpha=0.45, solid_capstyle="butt")  # fmt: skip
            panel.plot([estimate.value], [row], color=style.colour, marker=style.marker)
        if zero is not None:
            panel.axvline(zero, color=INK, linewidth=0.8, linestyle=":")
        name_rows(panel, labels)

    return Chart(name, caption, list(rows), draw, inches=inches_of_rows(labels), x=x)


def profiles(found: Mapping[str, Sequence[Mapping[str, Any]]], styles: Styles, x: str) -> Chart:
    """Performance profiles: the share of scores above each of `THRESHOLDS`, with pointwise bands.

    Args:
      found: label -> as `aggregate.profile`.
      styles: of the labels.
      x: what the scores are.
    """

    def draw(panel: Any, _: str) -> None:
        for label, cells in found.items():
            style, values = styles[label], [cell["value"] for cell in cells]
            panel.plot(THRESHOLDS, values, color=style.colour, marker=style.marker, markersize=3,
                       markevery=10, linewidth=1.3)  # fmt: skip
            if cells[0]["ci95"]:
                low, high = zip(*(cell["ci95"] for cell in cells))
                panel.fill_between(THRESHOLDS, low, high, color=style.colour, alpha=0.15, lw=0)
        panel.set_ylim(-0.02, 1.02)

    return Chart(
        "performance_profile", "Performance profile: the share of scores above a threshold. "
        "A single run counts with its mean score in each game, several seeds with each seed's.",
        ["performance profile"], draw, {label: styles[label] for label in found},
        inches=(5.6, 3.4), x=x, y="share of scores above",
    )  # fmt: skip


def sizes(
    points: Mapping[str, Sequence[tuple[str, int, Estimate]]], styles: Styles, y: str
) -> Chart:
    """Score against size, a line for runs that differ by their network only.

    Args:
      points: line -> [(group's name, weights, score)].
      styles: of the groups.
      y: what the score is.
    """

    def draw(panel: Any, _: str) -> None:
        for row in points.values():
            ordered = sorted(row, key=lambda point: point[1])
            x, scores = [p[1] for p in ordered], [p[2].value for p in ordered]
            panel.plot(x, scores, color=INK, alpha=0.4, linewidth=1)
            for name, weights, score in ordered:
                style = styles[name]
                panel.plot([weights], [score.value], color=style.colour, marker=style.marker)
                if score.ci95:
                    panel.plot([weights] * 2, score.ci95, color=style.colour, linewidth=1)
        panel.set_xscale("log")
        panel.margins(x=0.15)

    key = {name: styles[name] for row in points.values() for name, _, _ in row}
    return Chart(
        "size_against_score", "Score against the number of weights without the games' heads; a "
        "line joins runs that differ by their network only.", ["size against score"], draw, key,
        inches=(5.6, 3.4), x="weights", y=y,
    )  # fmt: skip


def actions(shares: Mapping[str, Mapping[str, Mapping[str, float]]], styles: Styles):
    """The action histogram of each game: a row a player, the darker the more often.

    Args:
      shares: game -> player -> action -> share.
      styles: of the players.
    """

    def draw(panel: Any, game: str) -> None:
        names = [name for name in ACTION_NAMES if any(name in s for s in shares[game].values())]
        for row, (player, of) in enumerate(shares[game].items()):
            for column, name in enumerate(names):
                share = of.get(name, 0.0)
                panel.barh(row, 0.96, 0.9, column - 0.48, color=styles[player].colour,
                           alpha=0.04 + 0.6 * min(1.0, share), lw=0)  # fmt: skip
                if share >= 0.1:
                    panel.text(column, row, f"{100 * share:.0f}", ha="center", va="center",
                               fontsize=6 if len(names) > 9 else 7)  # fmt: skip
        panel.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        name_rows(panel, list(shares[game]), 18)
        panel.grid(visible=False)

    rows = max(map(len, shares.values()))
    return Chart(
        "actions", "Actions taken, in percent of a player's steps (numbers from 10 % on).",
        list(shares), draw, inches=(3.8, 1.35 + 0.2 * rows),
    )  # fmt: skip


def measures(found: Mapping[str, Sequence[Mapping[str, Curve]]], styles: Styles) -> Chart:
    """The measures by which runs explain themselves, one panel each, one line a run.

    Args:
      found: group -> the scalars of each of its runs.
      styles: of the groups.
    """
    logged = {name for runs in found.values() for run in runs for name in run}
    titles = {title: name for name, title in MEASURES.items() if name in logged}

    def draw(panel: Any, title: str) -> None:
        for group, runs in found.items():
            for run in runs:
                if curve := run.get(titles[title]):
                    plot_curve(panel, curve, styles[group])

    return Chart(
        "measures", "How runs explain themselves, over all games: one line a run.",
        list(titles), draw, {group: styles[group] for group in found}, x="gradient steps",
    )  # fmt: skip


def pull_against_gap(
    found: Mapping[str, Sequence[Mapping[str, Curve]]], styles: Styles
) -> Chart | None:
    """By game, how far CQL pulls Q beside the gap between the two best actions; None without."""
    games = dict.fromkeys(
        name.partition("/")[2]
        for runs in found.values() for run in runs for name in run if name.startswith("cql_pull/")
    )  # fmt: skip
    if not games:
        return None

    def draw(panel: Any, game: str) -> None:
        for group, runs in found.items():
            for run in runs:
                for name, dashes in (("cql_pull", "-"), ("q_gap", "--")):
                    if curve := run.get(f"{name}/{game}"):
                        plot_curve(panel, curve, styles[group], dashes)

    return Chart(
        "pull_against_gap", "By game: CQL's pull αs² (solid) beside the gap between the two best "
        "actions (dashed). Where the pull is far above the gap, CQL decides and not the return.",
        list(games), draw, {group: styles[group] for group in found}, x="gradient steps", y="Q",
    )  # fmt: skip
