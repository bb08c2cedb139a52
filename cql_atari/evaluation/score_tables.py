"""Tables of a report that its text and its page have in common: scores by game, actions taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cql_atari.evaluation import groups
from cql_atari.evaluation.groups import Group
from cql_atari.evaluation.labels import DATA, HUMAN, agents_of, kind, title
from cql_atari.evaluation.tables import Columns, Estimate, Table, Value, percent

_NOTE = (
    "± and [ ]: 95 % intervals over what is counted in brackets (docs/statistics.md); over seeds "
    "they include the randomness of training, over episodes they do not"
)
_OF_OTHERS = (
    ". Human and published random scores are reference values from the literature, under another "
    "protocol"
)


def scores(
    found: Sequence[Group], references: Columns | None = None, at: float | None = None
) -> Table:
    """One row for each game and one column for each player. Data have a second column with their
    best episode. Agents have one with their share of the human score, unless players are compared
    by a number.

    Args:
      found: as `groups.make`.
      references: columns that stand before the players'.
      at: show the groups at this number, and those without one; others are "not run".
    """
    here = {group.name: group for group in found if group.at in (at, None)}
    columns: dict[str, Mapping[str, Any]] = {**(references or {})}
    for name in dict.fromkeys(group.name for group in found):
        group = here.get(name)
        counted = groups.counted(group) if group else "not run"
        columns[f"{title(name)} ({counted})"] = groups.cells(group) if group else {}
        if group and kind(name) == DATA:
            columns[f"best episode of the {name}"] = _best_episodes(group)
    players = [group for group in here.values() if kind(group.name) != DATA]
    for name in agents_of(group.name for group in players) if at is None else ():
        columns[f"{title(name)} / {HUMAN}"] = _of_human(here[name])
    games = dict.fromkeys(game for group in players for game in groups.means(group))
    rows: list[list[Value]] = [
        [game, *(cells.get(game) for cells in columns.values())] for game in sorted(games)
    ]
    note = f"{_NOTE}{_OF_OTHERS if references else ''}."
    return Table("scores", "Score by game", ["game", *columns], rows, note)


def _best_episodes(data: Group) -> dict[str, Estimate]:
    return {
        game: Estimate(max(player.summary["games"][game]["max"] for player in data.players))
        for game in groups.means(data)
    }


def _of_human(group: Group) -> dict[str, str]:
    found = {}
    for game in groups.means(group):
        shares = [player.summary["games"][game]["human_normalised"] for player in group.players]
        if None not in shares:
            found[game] = percent(float(np.mean(shares)))
    return found


def actions(found: Sequence[Group]) -> Table:
    """A row a game and player: the most frequent action, and how often each was taken."""
    rows: list[list[Value]] = []
    for group in found:
        for game, of in groups.action_shares(group).items():
            shares = sorted(of.items(), key=lambda item: -item[1])
            listed = ", ".join(f"{name} {percent(part)}" for name, part in shares if part >= 0.01)
            most, share = shares[0]
            rows.append([game, title(group.name), most, Estimate(share, None, percent), listed])
    header = ["game", "player", "most frequent", "its share", "all (from 1 %)"]
    return Table("actions", "Actions taken", header, sorted(rows, key=lambda row: str(row[0])))
