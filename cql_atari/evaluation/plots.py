"""Pictures of a report: scores of every player by game, and a run's curves. Needs matplotlib."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging
from matplotlib.figure import Figure  # not pyplot: no windows, no global state

SCORE = "evaluation/score/"
PANEL_INCHES = (3.2, 2.6)


def draw(
    columns: Mapping[str, Mapping[str, Any]], folders: Sequence[Path], out: Path
) -> list[Path]:
    """Writes `scores.png`, and two pictures of curves for each folder with a `metrics.jsonl`.

    Args:
      columns: label -> game -> cell with `mean` and `ci95`, as in `cql_atari.report`.
      folders: the runs' folders.
      out: where to write; made if need be.

    Returns:
      The files written.
    """
    out.mkdir(parents=True, exist_ok=True)
    figures = {"scores": score_bars(columns)}
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


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars of a `metrics.jsonl` by name, each [(step, value)] in order of steps.

    Where a step stands twice (after a resume) the later line counts. A line that a crash has cut
    is left out with a warning.
    """
    curves: dict[str, dict[int, float]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = dict(json.loads(line))
            step = int(row.pop("step"))
        except (ValueError, KeyError, TypeError) as error:
            logging.warning("%s, line %d is left out: %r", path, number, error)
            continue
        row.pop("time", None)
        for name, value in row.items():
            curves.setdefault(name, {})[step] = float(value)
    return {name: sorted(curve.items()) for name, curve in curves.items()}


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
        for number, label in enumerate(columns):
            if label in ("random", "best_fixed", "data", "cloning") and game in columns[label]:
                mean = columns[label][game].mean
                panel.axhline(mean, linestyle="--", linewidth=1, color=f"C{number}", label=label)
        panel.set_title(game, fontsize=9)
    panels[0].legend(fontsize=6)
    figure.supxlabel("gradient steps", fontsize=8)
    figure.supylabel("score", fontsize=8)
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


def _grid(count: int) -> tuple[Figure, list[Any]]:
    """A figure with `count` panels, near square."""
    width = max(1, min(8, round(count**0.5 + 0.4)))
    height = max(1, -(-count // width))
    size = (PANEL_INCHES[0] * width, PANEL_INCHES[1] * height)
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(height, width, squeeze=False).flat)
    for panel in panels:
        panel.tick_params(labelsize=7)
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]
