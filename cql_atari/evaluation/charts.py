"""What the panels of a report's figures show: scores by game, and runs' curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cql_atari.evaluation.figures import INK, Chart, Style, few_ticks, styles_of
from cql_atari.evaluation.labels import CLONING, DATA, FIXED, HUMAN, RANDOM, kind
from cql_atari.evaluation.run_logs import SCORE, read_metrics

_MARKED_POINTS = 30  # of a curve: each of them has a mark
Curve = Sequence[tuple[float, float]]
Cells = Mapping[str, Mapping[str, Any]]  # label -> game -> cell with `mean` and `ci95`


def of_folders(
    columns: Cells,
    labels: Mapping[Path, str],
    folders: Sequence[Path],
    grouped: Mapping[str, Any],
) -> list[Chart]:
    """Scores by game, learning curves of groups of runs if there are any, and two charts of curves
    for each `metrics.jsonl` at or below the folders.

    Args:
      columns: as `players.make_columns`.
      labels: resolved folder -> whose scores are in it.
      folders: where to look for runs.
      grouped: the "variants" of `curves.summarise`.
    """
    styles = styles_of([*columns, *_labels(grouped)])
    charts = [score_bars(columns, styles)]
    if grouped:
        charts.append(learning_curves(grouped, columns, styles))
    for folder, name in _named_runs(folders).items():
        curves = read_metrics(folder / "metrics.jsonl")
        scores = {key[len(SCORE) :]: c for key, c in curves.items() if key.startswith(SCORE)}
        rest = {key: curve for key, curve in curves.items() if not key.startswith(SCORE)}
        if scores:
            label = labels.get(folder, "this run")
            charts.append(score_curves(f"{name}_scores_by_step", scores, label, columns, styles))
        if rest:
            charts.append(training_curves(f"{name}_training", rest))
    return charts


def score_bars(columns: Cells, styles: Mapping[str, Style]) -> Chart:
    """One panel a game, one bar a player, with the 95 % interval of its mean if it has one."""
    games = list(dict.fromkeys(game for cells in columns.values() for game in cells))
    width = 2.6 + 0.05 * min(30, max(map(len, columns)))
    labels = list(columns)

    def drawing(game: str) -> Callable[[Any], None]:
        def draw(panel: Any) -> None:
            for row, label in enumerate(labels):
                cell = columns[label].get(game)
                if cell is None:
                    panel.text(0, row, " not played", va="center", fontsize=6)
                    continue
                panel.barh(row, cell.mean, color=styles[label].colour)
                _interval(panel, cell.ci95, row)
            panel.axvline(0, color=INK, linewidth=0.6)
            # An interval over two seeds dwarfs the scores: cut at the frame.
            ends = [0.0, *(cells[game].mean for cells in columns.values() if game in cells)]
            room = 0.3 * (max(ends) - min(ends)) or 1.0
            low, high = panel.get_xlim()
            panel.set_xlim(max(low, min(ends) - room), min(high, max(ends) + room))
            panel.set_yticks(range(len(labels)), [brief(label) for label in labels])
            panel.set_ylim(len(labels) - 0.4, -0.6)
            panel.grid(visible=False, axis="y")
            few_ticks(panel.xaxis)

        return draw

    return Chart(
        "scores", "Score by game: the mean and, cut at the frame, its 95 % interval if it has one.",
        {game: drawing(game) for game in games}, inches=(width, 0.75 + 0.2 * len(labels)),
        x="score",
    )  # fmt: skip


def score_curves(
    name: str, curves: Mapping[str, Curve], label: str, columns: Cells, styles: Mapping[str, Style]
) -> Chart:
    """One panel a game: a run's score by gradient step; baselines and data as dashed lines."""
    style = styles.get(label, Style(INK, "o"))

    def drawing(game: str) -> Callable[[Any], None]:
        def draw(panel: Any) -> None:
            panel.plot(*zip(*curves[game]), marker=style.marker, markersize=3, color=style.colour)
            _baselines(panel, game, columns, styles)
            few_ticks(panel.xaxis)
            few_ticks(panel.yaxis)

        return draw

    key = {label: style} | _baseline_key(columns, curves, styles)
    return Chart(
        name, f"Score of {label} by gradient step; dashed: players that didn't learn from reward.",
        {game: drawing(game) for game in curves}, key, x="gradient steps", y="score",
    )  # fmt: skip


def learning_curves(
    grouped: Mapping[str, Any], columns: Cells, styles: Mapping[str, Style]
) -> Chart:
    """One panel a game, one line a group: the mean over seeds, its 95 % interval, each seed thin.

    The x-axis has environment frames where all groups count them, else gradient steps.
    """
    groups = [group for entry in grouped.values() for group in entry["groups"]]
    in_frames = all(group["frames"] for group in groups)
    x_of = "frames" if in_frames else "steps"

    def drawing(variant: str) -> Callable[[Any], None]:
        def draw(panel: Any) -> None:
            groups = grouped[variant]["groups"]
            for group in groups:
                style = styles[group_label(group)]
                panel.plot(group[x_of], group["mean"], markersize=3.5, linewidth=1.4,
                           marker=style.marker, color=style.colour)  # fmt: skip
                for scores in group["scores"] if group["n"] > 1 else ():
                    panel.plot(group[x_of], scores, color=style.colour, alpha=0.4, linewidth=0.6)
            _baselines(panel, variant, columns, styles)
            panel.margins(y=0.25)
            # Few seeds have intervals that dwarf the scores: cut at the frame.
            limits = panel.get_ylim()
            for group in groups:
                if group["n"] > 1:
                    low, high = zip(*group["ci95"])
                    colour = styles[group_label(group)].colour
                    panel.fill_between(group[x_of], low, high, color=colour, alpha=0.15, lw=0)
            panel.set_ylim(limits)
            few_ticks(panel.xaxis)
            few_ticks(panel.yaxis)

        return draw

    shown = dict.fromkeys(group_label(group) for group in groups)
    key = {label: styles[label] for label in shown} | _baseline_key(columns, grouped, styles)
    return Chart(
        "learning_curves",
        "Learning curves: the mean over seeds, each seed thin, the band its 95 % interval over "
        "seeds, cut at the frame. Dashed: players that didn't learn from reward.",
        {variant: drawing(variant) for variant in grouped}, key,
        x="environment frames" if in_frames else "gradient steps", y="score",
    )  # fmt: skip


def training_curves(name: str, curves: Mapping[str, Curve]) -> Chart:
    """One panel a group of scalars: the names that share all but their last part.

    Speeds have no unit in common: one panel each.
    """
    groups: dict[str, list[str]] = {}
    for scalar in curves:
        parent = scalar.rpartition("/")[0]
        groups.setdefault(scalar if parent in ("", "speed") else parent, []).append(scalar)
    several = [scalars for scalars in groups.values() if len(scalars) > 1]
    lines = list(dict.fromkeys(s.rpartition("/")[2] for scalars in several for s in scalars))
    styles = styles_of(f"line {line}" for line in lines)

    def drawing(group: str) -> Callable[[Any], None]:
        def draw(panel: Any) -> None:
            for scalar in groups[group]:
                style = styles.get(f"line {scalar.rpartition('/')[2]}", Style(INK, "o"))
                line(panel, curves[scalar], style)
            few_ticks(panel.xaxis)
            few_ticks(panel.yaxis)

        return draw

    return Chart(
        name, "What the run logged.", {group: drawing(group) for group in groups},
        {line: styles[f"line {line}"] for line in lines}, x="gradient steps",
    )  # fmt: skip


def line(panel: Any, curve: Curve, style: Style, **options: Any) -> None:
    """A curve with a mark at each point, or at some where there are many: one alone is seen."""
    every = 1 if len(curve) <= _MARKED_POINTS else len(curve) // 8
    panel.plot(*zip(*curve), color=style.colour, marker=style.marker, markevery=every,
               markersize=3, **{"linewidth": 1.1, **options})  # fmt: skip


def brief(label: str, longest: int = 30) -> str:
    """A label that fits an axis: cut in the middle where it is long."""
    if len(label) <= longest:
        return label
    half = (longest - 1) // 2
    return f"{label[:half]}…{label[-half:]}"


def group_label(group: Mapping[str, Any]) -> str:
    """Who a group of runs is, for its colour: a baseline by its kind, an agent by its name."""
    if group["label"] == group["name"] or kind(group["label"]) == CLONING:
        return str(group["label"])
    return f"{group['label']}: {group['name']}"


def _labels(grouped: Mapping[str, Any]) -> list[str]:
    return [group_label(group) for entry in grouped.values() for group in entry["groups"]]


def _named_runs(folders: Sequence[Path]) -> dict[Path, str]:
    """Folders with a `metrics.jsonl`, each with a name of its own for its pictures: the last parts
    of its path, as many as it takes.
    """
    found = list(
        dict.fromkeys(
            path.parent.resolve()
            for folder in folders
            for path in sorted(folder.rglob("metrics.jsonl"))
        )
    )
    length = 1
    while len({run.parts[-length:] for run in found}) < len(found):
        length += 1
    return {run: "_".join(run.parts[-length:]).lstrip("/") for run in found}


def _interval(panel: Any, ci95: Sequence[float] | None, row: float) -> None:
    if ci95:
        panel.plot(ci95, [row, row], color=INK, linewidth=1, marker="|", markersize=5)


def _dashed(columns: Cells) -> list[str]:
    return [label for label in columns if kind(label) in (RANDOM, FIXED, DATA, CLONING, HUMAN)]


def _baseline_key(columns: Cells, games: Any, styles: Mapping[str, Style]) -> dict[str, Style]:
    return {label: styles[label] for label in _dashed(columns) if set(columns[label]) & set(games)}


def _baselines(panel: Any, game: str, columns: Cells, styles: Mapping[str, Style]) -> None:
    """Dashed lines at the means of those that don't learn by reward."""
    for label in _dashed(columns):
        if game in columns[label]:
            panel.axhline(columns[label][game].mean, linestyle="--", linewidth=1,
                          color=styles[label].colour)  # fmt: skip
