"""Ablations: what each changes in the base, and how its scores differ, with intervals.

The base is the group of runs in a folder `base`, and its ablations are in the folders beside it:
`launchers/ablations.sh` makes them so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cql_atari.evaluation import (
    aggregate,
    comparison_charts,
    configurations,
    groups,
    intervals,
    normalised,
)
from cql_atari.evaluation.groups import Group
from cql_atari.evaluation.page import Contents, Section
from cql_atari.evaluation.tables import Estimate, Table, percent

BASE = "base"
_IQM = "IQM, human-normalised"
_NO_CHANGE = {configurations.SEED, "data.dir"}


class Row(NamedTuple):
    """One ablation.

    Attributes:
      group: its runs.
      changes: setting -> its value.
      differences: game, or the IQM's title -> its score minus that of the base.
    """

    group: Group
    changes: dict[str, Any]
    differences: dict[str, Estimate]


def section(contents: Contents) -> Section | None:
    """The page's section; None where there is no base, or nothing beside it."""
    base = find_base(contents.runs)
    if base is None:
        return None
    rows = differences(base, contents.runs)
    if not rows:
        return None
    panels = {title: {row.group.name: row.differences.get(title) for row in rows}
              for title in titles(rows)}  # fmt: skip
    chart = comparison_charts.estimates(
        "ablations", f"Difference to {base.name}, with its 95 % interval over seeds.", panels,
        contents.styles, zero=0, x="difference",
    )  # fmt: skip
    return Section(
        "ablations", f"Ablations of {base.name}", lines(base, rows), [table(base, rows)], [chart]
    )


def find_base(runs: Sequence[Group]) -> Group | None:
    """The group of runs in a folder `base`; None where there is none."""
    return next((group for group in runs if groups.place(group)[-1] == BASE), None)


def differences(base: Group, runs: Sequence[Group]) -> list[Row]:
    """The ablations beside the base. Intervals are Welch's over seeds; none for a single seed."""
    rows = []
    for group in runs:
        if group is base or groups.place(group)[:-1] != groups.place(base)[:-1]:
            continue
        mine, theirs = groups.means(group), groups.means(base)
        found = {game: _estimate(mine[game], theirs[game]) for game in mine if game in theirs}
        if games := normalised.common_games([base, group], "human_normalised"):
            means = (normalised.run_scores(one, "human_normalised", games) for one in (group, base))
            own, its = (aggregate.iqm(scores[:, None]).tolist() for scores in means)
            found[_IQM] = _estimate(own, its)._replace(form=percent)
        changed = configurations.differing([base.settings, group.settings])
        changes = {n: group.settings.get(n) for n in changed if n not in _NO_CHANGE}
        rows.append(Row(group, changes, found))
    return rows


def titles(rows: Sequence[Row]) -> list[str]:
    """The IQM and the games, in the order of the columns."""
    found = dict.fromkeys(title for row in rows for title in row.differences)
    return sorted(found, key=lambda title: (title != _IQM, title))


def table(base: Group, rows: Sequence[Row]) -> Table:
    """One row an ablation: what it changes, and the differences."""
    shown = titles(rows)
    return Table(
        "ablations", f"Differences to {base.name} ({groups.counted(base)})",
        ["ablation", "over", "changes", *shown],
        [
            [row.group.name, groups.counted(row.group),
             ", ".join(f"{name} = {value}" for name, value in row.changes.items()) or "nothing",
             *(row.differences.get(title) for title in shown)]
            for row in rows
        ],
        "± : 95 % intervals of the difference over seeds (Welch's t). The IQM is each run's over "
        "its games, averaged over seeds.",
    )  # fmt: skip


def lines(base: Group, rows: Sequence[Row]) -> list[str]:
    """Sentences on what the table doesn't show."""
    said = []
    if len(base.players) < 2:
        said.append(f"{base.name} has one seed, so no difference has an interval.")
    compared = sum(one.ci95 is not None for row in rows for one in row.differences.values())
    apart = [
        f"{row.group.name} ({title})"
        for row in rows
        for title, one in row.differences.items()
        if one.ci95 and not one.ci95[0] <= 0 <= one.ci95[1]
    ]
    if compared:
        said.append(
            f"{len(apart)} of {compared} intervals exclude 0{': ' if apart else ''}"
            f"{', '.join(apart)}. As these are 95 % intervals, about {compared / 20:.0f} of them "
            "would exclude 0 by chance if nothing differed."
        )
    return said


def _estimate(mine: Sequence[float], theirs: Sequence[float]) -> Estimate:
    return Estimate(float(np.mean(mine) - np.mean(theirs)), intervals.difference(mine, theirs))
