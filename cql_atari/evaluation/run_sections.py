"""The page's sections on runs: learning curves, size, actions, measures."""

from __future__ import annotations

from typing import Any

from cql_atari.evaluation import (
    aggregate,
    charts,
    comparison_charts,
    curves,
    groups,
    normalised,
    score_tables,
)
from cql_atari.evaluation.labels import DATA, FIXED, RANDOM, kind
from cql_atari.evaluation.page import Contents, Section
from cql_atari.evaluation.run_logs import read_metrics
from cql_atari.evaluation.summary import REFERENCES
from cql_atari.evaluation.tables import Estimate, Table, Value, share


def learning(contents: Contents) -> Section | None:
    """Learning curves of groups whose runs were evaluated more than once."""
    summary = curves.summarise(contents.runs)
    if not summary["variants"]:
        return None
    chart = charts.learning_curves(summary["variants"], contents.columns, contents.styles)
    return Section("curves", "Learning curves", [], [curves.table(summary)], [chart])


def sizes(contents: Contents) -> Section | None:
    """Scores against the number of weights, for groups that differ in it."""
    form = next(iter(REFERENCES))
    sized = [g for g in contents.groups if g.parameters and normalised.normalised(g, form)]
    if len({g.parameters["trunk"] for g in sized if g.parameters}) < 2:
        return None
    games = normalised.common_games(sized, form)
    if not games:
        return None
    points: dict[str, list[tuple[str, int, Estimate]]] = {}
    rows: list[list[Value]] = []
    for group in sized:
        cell = share(aggregate.aggregate(normalised.scores(group, form, games))["iqm"])
        weights = group.parameters or {}
        alike = {n: v for n, v in group.settings.items() if n.split(".")[0] not in
                 ("network", "transformer")}  # fmt: skip
        points.setdefault(str(alike or group.name), []).append((group.name, weights["trunk"], cell))
        rows.append([group.name, weights["trunk"], weights["heads"], cell])
    y = f"IQM of {REFERENCES[form]}-normalised scores"
    table = Table("sizes", "Size against score", ["player", "weights", "of the heads besides", y],
                  rows, f"Over {len(games)} games.")  # fmt: skip
    chart = comparison_charts.sizes(points, contents.styles, y)
    return Section("sizes", "Size", [], [table], [chart])


def actions(contents: Contents) -> Section | None:
    players = [g for g in contents.groups if kind(g.name) not in (DATA, RANDOM, FIXED)]
    shares: dict[str, dict[str, dict[str, float]]] = {}
    for group in players:
        for game, share_of in groups.action_shares(group).items():
            shares.setdefault(game, {})[group.name] = share_of
    if not shares:
        return None
    chart = comparison_charts.actions(dict(sorted(shares.items())), contents.styles)
    return Section("actions", "Actions", [], [score_tables.actions(players)], [chart])


def measures(contents: Contents) -> Section | None:
    found: dict[str, list[dict[str, Any]]] = {}
    for group in contents.runs:
        runs = [read_metrics(player.folder) for player in group.players]
        runs = [run for run in runs if any(name in run for name in comparison_charts.MEASURES)]
        if runs:
            found[group.name] = runs
    if not found:
        return None
    names = list(comparison_charts.MEASURES)
    rows: list[list[Value]] = []
    for group_name, runs in found.items():
        for game in ["", *sorted({n.partition("/")[2] for run in runs for n in run
                                  if n.partition("/")[0] in names and "/" in n})]:  # fmt: skip
            row: list[Value] = [group_name, game or "all"]
            for name in names:
                last = [run[key][-1][1] for run in runs
                        if (key := f"{name}/{game}" if game else name) in run]  # fmt: skip
                row.append(sum(last) / len(last) if last else None)
            rows.append(row)
    table = Table("measures", "Last value of each measure, averaged over seeds",
                  ["player", "game", *comparison_charts.MEASURES.values()], rows)  # fmt: skip
    drawn = [comparison_charts.measures(found, contents.styles)]
    if chart := comparison_charts.pull_against_gap(found, contents.styles):
        drawn.append(chart)
    return Section("measures", "How runs explain themselves", [], [table], drawn)
