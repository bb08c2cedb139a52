"""What the panels of a report's figures show: scores by game, and runs' curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cql_atari.evaluation.figures import INK, MARKERS, Chart, Style, Styles, styles_of
from cql_atari.evaluation.labels import CLONING, DATA, FIXED, HUMAN, RANDOM, kind, title
from cql_atari.evaluation.run_logs import SCORE, read_metrics
from cql_atari.evaluation.tables import Columns
from cql_atari.runs import folder

_LONGEST_NAME = 56  # of a row, in characters: two changed settings fit
_MARKED_POINTS = 30  # a curve with more points has marks at some of them only
Curve = Sequence[tuple[float, float]]


def of_folders(
    columns: Columns,
    names: Mapping[Path, str],
    folders: Sequence[Path],
    variants: Mapping[str, Any],
) -> list[Chart]:
    """Scores by game, learning curves of groups of runs if there are any, and two charts of curves
    for each `metrics.jsonl` at or below the folders.

    Args:
      columns: each player's mean scores.
      names: resolved folder -> the player whose scores are in it.
      folders: where to look for runs.
      variants: those of `curves.summarise`.
    """
    styles = styles_of(columns)
    charts = [score_bars(columns, styles)]
    if variants:
        charts.append(learning_curves(variants, columns, styles))
    for workdir, name in _named_runs(folders).items():
        curves = read_metrics(workdir)
        scores = {key[len(SCORE) :]: c for key, c in curves.items() if key.startswith(SCORE)}
        rest = {key: curve for key, curve in curves.items() if not key.startswith(SCORE)}
        if scores:
            player = names.get(workdir, "this run")
            charts.append(score_curves(f"{name}_scores_by_step", scores, player, columns, styles))
        if rest:
            charts.append(training_curves(f"{name}_training", rest))
    return charts


def score_bars(columns: Columns, styles: Styles) -> Chart:
    """One panel a game, one bar a player, with the 95 % interval of its mean if it has one."""
    labels = list(columns)

    def draw(panel: Any, game: str) -> None:
        for row, label in enumerate(labels):
            cell = columns[label].get(game)
            if cell is None:
                panel.text(0, row, " not played", va="center", fontsize=6)
                continue
            panel.barh(row, cell.value, color=styles[label].colour)
            if cell.ci95:
                panel.plot(cell.ci95, [row, row], color=INK, linewidth=1, marker="|", markersize=5)
        panel.axvline(0, color=INK, linewidth=0.6)
        # An interval over two seeds may be far wider than the scores: it is cut at the frame.
        # One over five seldom is.
        ends = [0.0, *(cells[game].value for cells in columns.values() if game in cells)]
        room = 0.6 * (max(ends) - min(ends)) or 1.0
        low, high = panel.get_xlim()
        panel.set_xlim(max(low, min(ends) - room), min(high, max(ends) + room))
        name_rows(panel, labels)

    games = list(dict.fromkeys(game for cells in columns.values() for game in cells))
    return Chart(
        "scores", "Score by game: the mean and, cut at the frame, its 95 % interval if it has one.",
        games, draw, inches=inches_of_rows(labels), x="score",
    )  # fmt: skip


def score_curves(
    name: str,
    curves: Mapping[str, Curve],
    label: str,
    columns: Columns,
    styles: Styles,
) -> Chart:
    """One panel a game: a run's score by gradient step; baselines and data as dashed lines."""
    style = styles.get(label, Style(INK, "o"))

    def draw(panel: Any, game: str) -> None:
        panel.plot(*zip(*curves[game]), marker=style.marker, markersize=3, color=style.colour)
        _baselines(panel, game, columns, styles)

    return Chart(
        name, f"Score of {label} by gradient step; dashed: players that didn't learn from reward.",
        list(curves), draw, {label: style} | _baseline_key(columns, curves, styles),
        x="gradient steps", y="score",
    )  # fmt: skip


def learning_curves(variants: Mapping[str, Any], columns: Columns, styles: Styles) -> Chart:
    """One panel a game, one line a group: the mean over seeds, its 95 % interval, each seed thin.

    The x-axis has environment frames where all groups count them, else gradient steps.
    """
    groups = [group for entry in variants.values() for group in entry["groups"]]
    in_frames = all(group["frames"] for group in groups)
    x_of = "frames" if in_frames else "steps"

    def draw(panel: Any, variant: str) -> None:
        shown = variants[variant]["groups"]
        for group in shown:
            style = styles[group["name"]]
            panel.plot(group[x_of], group["mean"], markersize=3.5, linewidth=1.4,
                       marker=style.marker, color=style.colour)  # fmt: skip
            for scores in group["scores"] if group["n"] > 1 else ():
                panel.plot(group[x_of], scores, color=style.colour, alpha=0.4, linewidth=0.6)
        _baselines(panel, variant, columns, styles)
        panel.margins(y=0.25)
        # The band of few seeds may be far wider than the scores: it is cut at the frame.
        limits = panel.get_ylim()
        for group in shown:
            if group["n"] > 1:
                low, high = zip(*group["ci95"])
                colour = styles[group["name"]].colour
                panel.fill_between(group[x_of], low, high, color=colour, alpha=0.15, lw=0)
        panel.set_ylim(limits)

    key = {group["name"]: styles[group["name"]] for group in groups}
    return Chart(
        "learning_curves",
        "Learning curves: the mean over seeds, each seed thin, the band its 95 % interval over "
        "seeds, cut at the frame. Dashed: players that didn't learn from reward.",
        list(variants), draw, key | _baseline_key(columns, variants, styles),
        x="environment frames" if in_frames else "gradient steps", y="score",
    )  # fmt: skip


def recorded_play(curves: Mapping[str, Mapping[str, Sequence[Curve]]]) -> Chart:
    """One panel a game: recorded episodes' scores by where in the recording they end; a line has
    the means of its tenths.

    Args:
      curves: game -> run -> one curve for each folder: (agent steps, score) of its episodes.
    """
    names = sorted({f"run {run}" for of_runs in curves.values() for run in of_runs})
    styles = styles_of(names)

    def draw(panel: Any, game: str) -> None:
        for run, recordings in curves[game].items():
            style = styles[f"run {run}"]
            ends, scores = np.array([point for curve in recordings for point in curve]).T
            panel.plot(ends, scores, ".", markersize=2.5, alpha=0.5, color=style.colour)
            width = max(ends.max(), 1) / 10  # a foreign file may say 0 steps
            tenths = np.minimum(ends // width, 9)
            means = [(width * (k + 0.5), scores[tenths == k].mean()) for k in np.unique(tenths)]
            panel.plot(*zip(*means), marker=style.marker, markersize=3, color=style.colour)

    return Chart(
        "recorded_play",
        "Recorded play: each whole episode's score by where in the recording it ends, and the "
        "means of tenths of the recording.",
        list(curves), draw, styles if len(names) > 1 else {}, x="agent steps", y="score",
    )  # fmt: skip


def training_curves(name: str, curves: Mapping[str, Curve]) -> Chart:
    """One panel for each group of scalars, whose names share all but their last part.

    What speed and online acting log gets one panel each, as it has no unit in common.
    """
    groups: dict[str, list[str]] = {}
    for scalar in curves:
        parent = scalar.rpartition("/")[0]
        alone = parent in ("", "speed", "online")
        groups.setdefault(scalar if alone else parent, []).append(scalar)
    several = [scalars for scalars in groups.values() if len(scalars) > 1]
    lines = list(dict.fromkeys(s.rpartition("/")[2] for scalars in several for s in scalars))
    styles = styles_of(f"line {line}" for line in lines)

    def draw(panel: Any, group: str) -> None:
        for scalar in groups[group]:
            style = styles.get(f"line {scalar.rpartition('/')[2]}", Style(INK, "o"))
            plot_curve(panel, curves[scalar], style)

    return Chart(
        name, "What the run logged.", list(groups), draw,
        {line: styles[f"line {line}"] for line in lines}, x="gradient steps",
    )  # fmt: skip


def plot_curve(panel: Any, curve: Curve, style: Style, dashes: str = "-") -> None:
    """Draws a curve. Its points have marks, so that a single point is seen; of many, some have."""
    every = 1 if len(curve) <= _MARKED_POINTS else len(curve) // 8
    panel.plot(*zip(*curve), color=style.colour, marker=style.marker, markevery=every,
               markersize=3, linewidth=1.1, linestyle=dashes)  # fmt: skip


def name_rows(panel: Any, labels: Sequence[str], longest: int = _LONGEST_NAME) -> None:
    """Names of rows 0, 1, ... from the top down; long ones are cut in their middle."""
    half = (longest - 1) // 2
    names = map(title, labels)
    cut = [one if len(one) <= longest else f"{one[:half]}…{one[-half:]}" for one in names]
    panel.set_yticks(range(len(labels)), cut)
    panel.set_ylim(len(labels) - 0.4, -0.6)
    panel.grid(visible=False, axis="y")


def inches_of_rows(labels: Sequence[str]) -> tuple[float, float]:
    """The size of a panel with these rows."""
    longest = min(_LONGEST_NAME, max(map(len, labels), default=0))
    return 2.6 + 0.05 * longest, 0.75 + 0.2 * len(labels)


def _named_runs(folders: Sequence[Path]) -> dict[Path, str]:
    """Folders with a `metrics.jsonl`, each with a name of its own for its pictures: the last parts
    of its path, as many as it takes.
    """
    found = [run.resolve() for run in folder.holding(folder.METRICS, folders)]
    length = 1
    while len({run.parts[-length:] for run in found}) < len(found):
        length += 1
    return {run: "_".join(run.parts[-length:]).lstrip("/") for run in found}


def _lines_of(columns: Columns, styles: Styles) -> Styles:
    """Players that don't learn from reward: dashed lines, others of one kind dash-dotted."""
    others = (RANDOM, FIXED, DATA, CLONING, HUMAN)
    return {
        label: styles[label]._replace(
            marker="", dashes="--" if styles[label].marker == MARKERS[0] else "-."
        )
        for label in columns
        if kind(label) in others
    }


def _baseline_key(columns: Columns, games: Any, styles: Styles) -> Styles:
    lines = _lines_of(columns, styles)
    return {label: line for label, line in lines.items() if set(columns[label]) & set(games)}


def _baselines(panel: Any, game: str, columns: Columns, styles: Styles) -> None:
    for label, line in _lines_of(columns, styles).items():
        if game in columns[label]:
            panel.axhline(columns[label][game].value, linestyle=line.dashes, linewidth=1,
                          color=line.colour)  # fmt: skip
