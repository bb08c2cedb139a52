"""The page's sections on scores: by game, and over all games."""

from __future__ import annotations

from collections.abc import Sequence

from cql_atari.evaluation import (
    aggregate,
    charts,
    comparison,
    comparison_charts,
    groups,
    normalised,
    score_files,
    score_tables,
)
from cql_atari.evaluation.figures import Chart, Styles
from cql_atari.evaluation.groups import Group
from cql_atari.evaluation.labels import DATA, agents_of, kind
from cql_atari.evaluation.page import Contents, Section
from cql_atari.evaluation.summary import REFERENCES
from cql_atari.evaluation.tables import Estimate, Table, Value, share

_MOST_PANELS = 6  # of a figure with one for each player; for more players the table is clearer
_INTERVALS = (
    "95 % intervals, over seeds where there are several, else over episodes. docs/statistics.md "
    "says how they are computed and how often they contain the true value."
)


def scores(contents: Contents) -> Section:
    compared = comparison.compare(contents.groups, player=contents.player)
    lines = [comparison.sentence(one) for one in compared]
    played = [group for group in contents.groups if kind(group.name) != DATA]
    lines += [
        *([comparison.NOTE] if lines else []),
        *groups.unfinished_lines(played),
        *groups.protocol_lines(played),
    ]
    own = {group.name for group in contents.groups}
    references = {name: cells for name, cells in contents.columns.items() if name not in own}
    table = score_tables.scores(contents.groups, references)
    chart = charts.score_bars(contents.columns, contents.styles)
    return Section("scores", "Scores", lines, [table], [chart])


def recorded(contents: Contents) -> Section | None:
    """How good the recorded play was from its beginning to its end."""
    games = {game for cells in contents.columns.values() for game in cells}
    found: dict[str, dict[str, list[charts.Curve]]] = {}
    for group in contents.groups:
        for player in group.players if kind(group.name) == DATA else ():
            for game, runs in score_files.recorded_curves(player.folder, games).items():
                for run, curve in runs.items():
                    found.setdefault(game, {}).setdefault(run, []).append(curve)
    if not found:
        return None
    return Section("recorded_play", "Recorded play", [], [], [charts.recorded_play(found)])


def aggregates(contents: Contents) -> Section | None:
    tables, drawn, lines = [], [], []
    for form, reference in REFERENCES.items():
        found = [g for g in contents.groups if normalised.normalised(g, form)]
        # Recorded play may lack games; it isn't why others' are left out.
        games = normalised.common_games([g for g in found if kind(g.name) != DATA] or found, form)
        lacking = [g.name for g in found if not set(games) <= set(normalised.normalised(g, form))]
        found = [g for g in found if g.name not in lacking]
        if lacking:
            lines.append(
                f"Not in the {reference} aggregates, for lack of games: {', '.join(lacking)}."
            )
        if not games:
            if found:
                lines.append(f"No aggregates by {reference} scores: no game was played by all.")
            continue
        left = {game for g in found for game in normalised.normalised(g, form)} - set(games)
        if left:
            lines.append(
                f"Aggregates by {reference} scores are over the {len(games)} games that all have "
                f"played; left out: {', '.join(sorted(left))}."
            )
        values = {g.name: aggregate.aggregate(normalised.scores(g, form, games)) for g in found}
        header = ["player", "over", *(one.title for one in aggregate.AGGREGATES.values())]
        rows: list[list[Value]] = [
            [g.name, groups.counted(g), *(share(values[g.name][key])
                                          for key in aggregate.AGGREGATES)]
            for g in found
        ]  # fmt: skip
        tables.append(
            Table(f"aggregates_{reference}".lower(),
                  f"Aggregates of {reference}-normalised scores over {len(games)} games",
                  header, rows, _INTERVALS)
        )  # fmt: skip
        if form == next(iter(REFERENCES)):
            panels = {one.title: {g.name: share(values[g.name][key]) for g in found}
                      for key, one in aggregate.AGGREGATES.items()}  # fmt: skip
            drawn.append(
                comparison_charts.estimates(
                    "aggregates", f"Aggregates of {reference}-normalised scores, with their "
                    "95 % intervals where they have any; of the optimality gap less is better.",
                    panels, contents.styles, x="share of the human score",
                )
            )  # fmt: skip
            thresholds = comparison_charts.THRESHOLDS
            profiles = {
                g.name: aggregate.profile(normalised.scores(g, form, games), thresholds)
                for g in found
            }
            x = f"{reference}-normalised score"
            drawn.append(comparison_charts.profiles(profiles, contents.styles, x))
            improvements = _improvements(found, games, form)
            if improvements.rows:
                tables.append(improvements)
            if 0 < len({row[0] for row in improvements.rows}) <= _MOST_PANELS:
                drawn.append(_improvement_chart(improvements, contents.styles))
    return Section("aggregates", "Over all games", lines, tables, drawn) if tables else None


def _improvements(found: Sequence[Group], games: Sequence[str], form: str) -> Table:
    agents = agents_of([group.name for group in found])
    rows: list[list[Value]] = []
    for first in found:
        for second in found:
            if first.name not in agents or first is second:
                continue
            if second.name in agents and found.index(second) < found.index(first):
                continue
            several = max(len(first.players), len(second.players)) > 1
            of = normalised.run_scores if several else normalised.scores
            cell = aggregate.improvement(of(first, form, games), of(second, form, games))
            rows.append([first.name, second.name, share(cell)])
    return Table(
        "improvement", "Probability of improvement", ["player", "over", "probability"], rows,
        "The chance that a score of the first is above one of the second in a game, a tie counting "
        "half, over the games. Above 50 %: the first is better more often.",
    )  # fmt: skip


def _improvement_chart(table: Table, styles: Styles) -> Chart:
    rows: dict[str, dict[str, Estimate | None]] = {}
    for first, second, cell in table.rows:
        rows.setdefault(f"{first} over", {})[str(second)] = cell  # type: ignore[assignment]
    return comparison_charts.estimates(
        "improvement", "Probability that a player's score is above another's.", rows, styles,
        zero=0.5, x="probability",
    )  # fmt: skip
