"""Pictures of a report: scores of every player by game, and a run's curves. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # not pyplot: no windows, no global state

from cql_atari.evaluation.curves import read_metrics

SCORE = "evaluation/score/"
PANEL_INCHES = (3.2, 2.6)


def draw(
    columns: Mapping[str, Mapping[str, Any]],
    folders: Sequence[Path],
    grouped: Mapping[str, Any],
    out: Path,
) -> list[Path]:
    """Writes `scores.png`, `learning_curves.png` of groups of runs if there are any, and two
    pictures of curves for each folder with a `metrics.jsonl`.

    Args:
      columns: label -> game -> cell with `mean` and `ci95`, as in `cql_atari.report`.
      folders: the runs' folders.
      grouped: the "variants" of `curves.summarise`.
      out: where to write; made if need be.

    Returns:
      The files written.
    """
    out.mkdir(parents=True, exist_ok=True)
    figures = {"scores": score_bars(columns)}
    if grouped:
        figures["learning_curves"] = learning_curves(grouped, columns)
    for folder in folders:
        if (folder / "metrics.jsonl").is_file():
            curves = read_metrics(folder / "metrics.jsonl")
            name = folder.resolve().name
            scores = {key: curve for key, curve in curves.items() if key.startswith(SCORE)}
            rest = {key: curve for key, curve in curves.items() if key not in scores}
            if scores:
                figures[f"{name}_scores_by_step"] = score_curves(scores, columns)
            figures[f"{name}_training"] = training_curves(rest)
    paths = []
    for name, figure in figures.items():
        paths.append(out / f"{name}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def score_bars(columns: Mapping[str, Mapping[str, Any]]) -> Figure:
    """One panel a game, one bar a player, with the 95 % interval of its mean."""
    games = list(dict.fromkeys(game for cells in columns.values() for game in cells))
    figure, panels = _grid(len(games))
    colours = {label: f"C{number}" for number, label in enumerate(columns)}
    for game, panel in zip(games, panels):
        labels = [label for label in columns if game in columns[label]]
        cells = [columns[label][game] for label in labels]
        errors = [cell.ci95[1] - cell.mean if cell.ci95 else 0.0 for cell in cells]
        panel.bar(
            range(len(labels)), [cell.mean for cell in cells], yerr=errors, capsize=3,
            color=[colours[label] for label in labels], error_kw={"linewidth": 1},
        )  # fmt: skip
        panel.axhline(0, color="black", linewidth=0.6)
        panel.set_xticks(range(len(labels)), labels, rotation=25, ha="right", fontsize=7)
        panel.set_title(game, fontsize=9)
    figure.supylabel("score, mean and 95 % interval", fontsize=8)
    return figure


def score_curves(
    curves: Mapping[str, list[tuple[int, float]]], columns: Mapping[str, Mapping[str, Any]]
) -> Figure:
    """One panel a game: the run's score by gradient step; baselines and data as dashed lines."""
    figure, panels = _grid(len(curves))
    for (name, curve), panel in zip(curves.items(), panels):
        game = name[len(SCORE) :]
        panel.plot(*zip(*curve), marker="o", markersize=3, color="black", label="this run")
        _baselines(panel, game, columns)
        panel.set_title(game, fontsize=9)
    panels[0].legend(fontsize=6)
    figure.supxlabel("gradient steps", fontsize=8)
    figure.supylabel("score", fontsize=8)
    return figure


def learning_curves(grouped: Mapping[str, Any], columns: Mapping[str, Mapping[str, Any]]) -> Figure:
    """One panel a game, one line a group: the mean over seeds, its 95 % interval, each seed thin.

    The x-axis has environment frames where all groups count them, else gradient steps.
    """
    figure, panels = _grid(len(grouped), (6.4, 4.0))
    for (variant, entry), panel in zip(grouped.items(), panels):
        in_frames = all(group["frames"] for group in entry["groups"])
        for number, group in enumerate(entry["groups"]):
            x, colour = group["frames" if in_frames else "steps"], f"C{number}"
            label = f"{group['name']} (n = {group['n']})"
            panel.plot(x, group["mean"], marker="o", markersize=3, color=colour, label=label)
            for scores in group["scores"] if group["n"] > 1 else ():
                panel.plot(x, scores, color=colour, alpha=0.4, linewidth=0.6)
        _baselines(panel, variant, columns)
        panel.margins(y=0.25)
        limits = (
            panel.get_ylim()
        )  # few seeds have intervals that dwarf the scores: cut at the frame
        for number, group in enumerate(entry["groups"]):
            if group["n"] > 1:
                x, (low, high) = group["frames" if in_frames else "steps"], zip(*group["ci95"])
                panel.fill_between(x, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
        panel.set_ylim(limits)
        panel.set_title(variant, fontsize=9)
        panel.set_xlabel("environment frames" if in_frames else "gradient steps", fontsize=8)
        panel.legend(fontsize=7)
    figure.supylabel("score: mean and 95 % interval over seeds", fontsize=8)
    return figure


def training_curves(curves: Mapping[str, list[tuple[int, float]]]) -> Figure:
    """One panel a group of scalars: the names that share all but their last part.

    Speeds have no unit in common: one panel each.
    """
    groups: dict[str, list[str]] = {}
    for name in curves:
        parent = name.rpartition("/")[0]
        groups.setdefault(name if parent in ("", "speed") else parent, []).append(name)
    figure, panels = _grid(len(groups))
    for (group, names), panel in zip(groups.items(), panels):
        for name in names:
            panel.plot(*zip(*curves[name]), linewidth=1, label=name.rpartition("/")[2])
        panel.set_title(group, fontsize=9)
        if len(names) > 1:
            panel.legend(fontsize=6, ncols=1 + len(names) // 12)
    figure.supxlabel("gradient steps", fontsize=8)
    return figure


def _baselines(panel: Any, game: str, columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Dashed lines at the means of those that don't learn by reward."""
    for number, label in enumerate(columns):
        if label in ("random", "best_fixed", "data", "cloning") and game in columns[label]:
            mean = columns[label][game].mean
            panel.axhline(mean, linestyle="--", linewidth=1, color=f"C{number}", label=label)


def _grid(count: int, inches: tuple[float, float] = PANEL_INCHES) -> tuple[Figure, list[Any]]:
    """A figure with `count` panels, near square."""
    width = max(1, min(8, round(count**0.5 + 0.4)))
    height = max(1, -(-count // width))
    size = (inches[0] * width, inches[1] * height)
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(height, width, squeeze=False).flat)
    for panel in panels:
        panel.tick_params(labelsize=7)
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]
