"""What a report's page is made of: everybody who played, in groups, with a style each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cql_atari.core import games as games_lib
from cql_atari.evaluation import groups
from cql_atari.evaluation.groups import Contents, Group
from cql_atari.evaluation.labels import HUMAN, RANDOM, Cell, Columns, kind, rank
from cql_atari.evaluation.players import Player


def gather(players: Mapping[str, Player], data_dirs: Sequence[Path]) -> Contents:
    """Groups of the players and the recorded play, with the reference scores beside them.

    Args:
      players: as `players.find_players`.
      data_dirs: at or below which recorded play is looked for.

    Raises:
      UserError: as `groups.make`.
    """
    found = groups.make(players)
    played = {game for group in found for game in groups.cells(group)}
    found += [
        Group(name, [player], [], {})
        for name, player in groups.recorded(data_dirs, players).items()
        if played & set(player.summary["games"])
    ]
    found.sort(key=lambda group: rank(group.name))
    columns = {
        group.name: {game: cell for game, cell in groups.cells(group).items() if game in played}
        for group in found
    }
    columns = _references(columns, played)
    runs = [group for group in found if group.settings]
    return Contents(found, columns, runs)


def _references(columns: Columns, played: set[str]) -> Columns:
    """The columns with human scores in front, and random ones where none were evaluated."""
    known = games_lib.table()
    scored = [known[game] for game in sorted(played) if game in known and known[game].human]
    human = {game.name: Cell(game.human or 0.0, None, 0) for game in scored}
    random = {game.name: Cell(game.random or 0.0, None, 0) for game in scored}
    added: dict[str, Any] = {}
    if random and not any(kind(name) == RANDOM for name in columns):
        added[f"{RANDOM} (published)"] = random
    return {**({HUMAN: human} if human else {}), **added, **columns}
