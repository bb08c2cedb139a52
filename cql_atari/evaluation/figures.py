"""Pictures of a report: scores of every player by game, and runs' curves. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # not pyplot: no windows, no global state
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cql_atari.core.types import UserError
from cql_atari.evaluation.curves import read_metrics
from cql_atari.evaluation.players import CLONING, DATA, FIXED, ORDER, RANDOM, Player, kind, rank

SCORE = "evaluation/score/"
PANEL_INCHES = (3.2, 2.6)
# Okabe and Ito's colours, which the colour-blind tell apart: one a method, in every picture.
_FIXED_COLOURS = {RANDOM: "#999999", FIXED: "#e69f00", DATA: "#56b4e9", CLONING: "#cc79a7"}
_AGENT_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8860b", "#7b3294", "#555555", "#882255")
STYLES = ("-", "--", ":", "-.")  # of players that share a colour
_FEW_POINTS = 30  # of a curve: each of them is marked


def draw(
    columns: Mapping[str, Mapping[str, Any]],
    players: Mapping[str, Player],
    folders: Sequence[Path],
    grouped: Mapping[str, Any],
    out: Path,
) -> list[Path]:
    """Writes `scores.png`, `learning_curves.png` of groups of runs if there are any, and two
    pictures of curves for each `metrics.jsonl` at or below the folders.

    Args:
      columns: label -> game -> cell with `mean` and `ci95`, as in `players.make_columns`.
      players: whose scores are in which folder.
      folders: where to look for runs.
      grouped: the "variants" of `curves.summarise`.
      out: where to write; made if need be.

    Returns:
      The files written.

    Raises:
      UserError: where they can't be written.
    """
    colours = colours_of([*columns, *_labels(grouped)])
    figures = {"scores": score_bars(columns, colours)}
    if grouped:
        figures["learning_curves"] = learning_curves(grouped, columns, colours)
    labels = {player.folder.resolve(): label for label, player in players.items()}
    for folder, name in _named_runs(folders).items():
        curves = read_metrics(folder / "metrics.jsonl")
        scores = {key: curve for key, curve in curves.items() if key.startswith(SCORE)}
        rest = {key: curve for key, curve in curves.items() if key not in scores}
        if scores:
            colour = colours.get(labels.get(folder, ""), "black")
            figures[f"{name}_scores_by_step"] = score_curves(scores, columns, colours, colour)
        if rest:
            figures[f"{name}_training"] = training_curves(rest)
    return save(figures, out)


def save(figures: Mapping[str, Figure], out: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Writes each figure to `out/<name>.<format>`; returns the paths."""
    paths = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            for suffix in formats:
                paths.append(out / f"{name}.{suffix}")
                figure.savefig(paths[-1], dpi=110)
    except OSError as error:
        raise UserError(
            f"can't write figures to {out}: {error.strerror}; choose another folder"
        ) from error
    return paths


def colours_of(labels: Iterable[str]) -> dict[str, str]:
    """A colour for every label: baselines always have theirs, agents share out the others."""
    colours: dict[str, str] = {}
    agents = 0
    for label in dict.fromkeys(labels):
        if kind(label) in _FIXED_COLOURS:
            colours[label] = _FIXED_COLOURS[kind(label)]
        else:
            colours[label] = _AGENT_COLOURS[agents % len(_AGENT_COLOURS)]
            agents += 1
    return colours


def score_bars(columns: Mapping[str, Mapping[str, Any]], colours: Mapping[str, str]) -> Figure:
    """One panel a game, one bar a player, with the 95 % interval of its mean if it has one."""
    games = list(dict.fromkeys(game for cells in columns.values() for game in cells))
    width = PANEL_INCHES[0] + 0.05 * max(map(len, columns))
    figure, panels = _grid(len(games), (width, 0.7 + 0.24 * len(columns)))
    labels = list(columns)
    for game, panel in zip(games, panels):
        for row, label in enumerate(labels):
            cell = columns[label].get(game)
            if cell is None:
                panel.text(0, row, " not played", va="center", fontsize=6)
                continue
            panel.barh(row, cell.mean, color=colours[label])
            if cell.ci95:
                panel.plot(cell.ci95, [row, row], color="black", linewidth=1, marker="|",
                           markersize=5)  # fmt: skip
        panel.axvline(0, color="black", linewidth=0.6)
        panel.set_yticks(range(len(labels)), labels, fontsize=7)
        panel.invert_yaxis()
        panel.set_title(game, fontsize=9)
        _few_ticks(panel.xaxis)
    figure.supxlabel("score: mean and 95 % interval", fontsize=8)
    return figure


def score_curves(
    curves: Mapping[str, list[tuple[int, float]]],
    columns: Mapping[str, Mapping[str, Any]],
    colours: Mapping[str, str],
    colour: str,
) -> Figure:
    """One panel a game: the run's score by gradient step; baselines and data as dashed lines."""
    figure, panels = _grid(len(curves))
    for (name, curve), panel in zip(curves.items(), panels):
        game = name[len(SCORE) :]
        panel.plot(*zip(*curve), marker="o", markersize=3, color=colour, label="this run")
        _baselines(panel, game, columns, colours)
        panel.set_title(game, fontsize=9)
        _few_ticks(panel.xaxis)
        _few_ticks(panel.yaxis)
    panels[0].legend(fontsize=6)
    figure.supxlabel("gradient steps", fontsize=8)
    figure.supylabel("score", fontsize=8)
    return figure


def learning_curves(
    grouped: Mapping[str, Any],
    columns: Mapping[str, Mapping[str, Any]],
    colours: Mapping[str, str],
) -> Figure:
    """One panel a game, one line a group: the mean over seeds, its 95 % interval, each seed thin.

    The x-axis has environment frames where all groups count them, else gradient steps.
    """
    figure, panels = _grid(len(grouped), (6.4, 4.0))
    for (variant, entry), panel in zip(grouped.items(), panels):
        groups = entry["groups"]
        in_frames = all(group["frames"] for group in groups)
        for group in groups:
            x, colour = group["frames" if in_frames else "steps"], colours[group_label(group)]
            label = f"{group['name']} (n = {group['n']})"
            panel.plot(x, group["mean"], marker="o", markersize=3, color=colour, label=label)
            for scores in group["scores"] if group["n"] > 1 else ():
                panel.plot(x, scores, color=colour, alpha=0.4, linewidth=0.6)
        _baselines(panel, variant, columns, colours)
        panel.margins(y=0.25)
        # Few seeds have intervals that dwarf the scores: cut at the frame.
        limits = panel.get_ylim()
        for group in groups:
            if group["n"] > 1:
                x, (low, high) = group["frames" if in_frames else "steps"], zip(*group["ci95"])
                panel.fill_between(
                    x, low, high, color=colours[group_label(group)], alpha=0.15, linewidth=0
                )
        panel.set_ylim(limits)
        panel.set_title(variant, fontsize=9)
        panel.set_xlabel("environment frames" if in_frames else "gradient steps", fontsize=8)
        panel.legend(fontsize=7)
        _few_ticks(panel.xaxis)
        _few_ticks(panel.yaxis)
    figure.supylabel("score: mean and 95 % interval over seeds", fontsize=8)
    return figure


def score_against(
    name: str, points: Mapping[str, Mapping[str, Sequence[tuple[float, Any]]]]
) -> Figure:
    """One panel a game, one line a player: the mean over seeds against a number, and its 95 %
    interval where there are several seeds.

    Args:
      name: of the number.
      points: player -> game -> [(number, cell)], as in `over_seeds.curves_against`.
    """
    games = list(dict.fromkeys(game for lines in points.values() for game in lines))
    figure, panels = _grid(len(games), (3.4, 3.0))
    colours = colours_of(points)
    for game, panel in zip(games, panels):
        drawn: list[str] = []
        for player, lines in points.items():
            if game not in lines:
                continue
            colour = colours[player]
            style = STYLES[sum(colours[other] == colour for other in drawn) % len(STYLES)]
            drawn.append(player)
            x, cells = zip(*lines[game])
            panel.plot(x, [cell.mean for cell in cells], style, marker="o", markersize=3,
                       linewidth=1.2, color=colour, label=player)  # fmt: skip
            for number, cell in lines[game]:
                if cell.ci95:
                    panel.plot([number] * 2, cell.ci95, color=colour, linewidth=1, alpha=0.7)
        panel.set_title(game, fontsize=9)
        _few_ticks(panel.xaxis)
        _few_ticks(panel.yaxis)
    panels[0].legend(fontsize=6)
    figure.supxlabel(name, fontsize=8)
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
            marker = "o" if len(curves[name]) <= _FEW_POINTS else ""
            panel.plot(
                *zip(*curves[name]), linewidth=1, marker=marker, markersize=2.5,
                label=name.rpartition("/")[2],
            )  # fmt: skip
        panel.set_title(group, fontsize=9)
        if len(names) > 1:
            panel.legend(fontsize=6, ncols=1 + len(names) // 12)
        _few_ticks(panel.xaxis)
        _few_ticks(panel.yaxis)
    figure.supxlabel("gradient steps", fontsize=8)
    return figure


def group_label(group: Mapping[str, Any]) -> str:
    """Who a group of runs is, for its colour: a baseline by its kind, an agent by its name."""
    is_baseline = kind(group["label"]) in _FIXED_COLOURS
    return group["label"] if is_baseline else f"{group['label']}: {group['name']}"


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


def _baselines(
    panel: Any, game: str, columns: Mapping[str, Mapping[str, Any]], colours: Mapping[str, str]
) -> None:
    """Dashed lines at the means of those that don't learn by reward."""
    for label in columns:
        if rank(label) < len(ORDER) and game in columns[label]:
            mean = columns[label][game].mean
            panel.axhline(mean, linestyle="--", linewidth=1, color=colours[label], label=label)


def _few_ticks(axis: Any) -> None:
    """At most five labels, short ones (10k), so that they don't overlap in a small panel."""
    axis.set_major_locator(MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.4g}"


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
