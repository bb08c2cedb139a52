"""Who played: every `scores.json` below some folders under a label of its own, and the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import NUM_ACTIONS, EpisodeScore, UserError
from cql_atari.evaluation import intervals, score_files
from cql_atari.evaluation.labels import DATA, FIXED, Cell, Columns, kind, rank
from cql_atari.evaluation.summary import default_mode, summarise
from cql_atari.system.files import parse_json

CAP_STEPS = 27_000  # 108,000 emulator frames: where collected episodes are cut


class Player(NamedTuple):
    """One `scores.json`, summarised.

    Attributes:
      folder: where it is.
      episodes: all of them.
      summary: as `summary.summarise`.
      protocol: how they were played.
      run: who played: label, step, configuration.
    """

    folder: Path
    episodes: list[EpisodeScore]
    summary: dict[str, Any]
    protocol: dict[str, Any]
    run: dict[str, Any]


def find_players(folders: Sequence[Path]) -> dict[str, Player]:
    """Every `scores.json` at or below the folders, by label, baselines first.

    Two with one label take their folder's name besides; its path, where two have one name.

    Raises:
      UserError: where a folder has none, or a file is malformed.
    """
    paths: dict[Path, Path] = {}  # each file once, though folders may lie in one another
    for folder in folders:
        below = sorted(folder.rglob("scores.json")) if folder.is_dir() else [folder]
        if not below:
            raise UserError(
                f"no scores.json in {folder} or below; a finished train run or "
                "`python -m cql_atari.evaluate` writes one"
            )
        for path in below:
            paths.setdefault(path.resolve(), path)
    found: list[tuple[str, Player]] = []
    for path in paths.values():
        episodes, protocol, run = score_files.read(path)
        label = str(run.get("label", path.resolve().parent.name))
        found.append((label, Player(path.parent, episodes, summarise(episodes), protocol, run)))
    labels = [label for label, _ in found]
    names = [(label, player.folder.resolve().name) for label, player in found]
    named = {}
    for (label, player), name in zip(found, names):
        place = name[1] if names.count(name) == 1 else player.folder
        named[label if labels.count(label) == 1 else f"{label} ({place})"] = player
    return {label: named[label] for label in sorted(named, key=rank)}


def find_data(folders: Sequence[Path]) -> list[Path]:
    """Folders at or below these that hold recorded play, `<Game>/<run>/episodes.jsonl`."""
    found = dict.fromkeys(
        path.parents[2]
        for folder in folders
        for path in sorted(folder.rglob("episodes.jsonl"))
        if len(path.parts) > 3 and path.parts[-3] in games.table() and path.parts[-2][0] != "."
    )
    return list(found)


def data_cells(data_dir: Path) -> dict[str, Cell]:
    """Mean raw score of the recorded episodes of each game, over all runs below `data_dir`.

    The episode that the end of the recording cut is left out: its score is only a part.

    Raises:
      UserError: where there are none, or a line is malformed.
    """
    return {
        game: Cell(float(np.mean(values)), intervals.mean(values), len(values))
        for game, values in _recorded([data_dir]).items()
    }


def data_player(data_dirs: Sequence[Path]) -> Player:
    """What was recorded, as a player: the episodes below all of the folders together.

    Raises:
      UserError: as `data_cells`.
    """
    episodes = [
        EpisodeScore(
            game, score, 0, False, 0, number, default_mode(game), 0, "", (0,) * NUM_ACTIONS
        )
        for game, values in _recorded(data_dirs).items()
        for number, score in enumerate(values)
    ]
    return Player(data_dirs[0], episodes, summarise(episodes), {}, {"label": DATA})


def _recorded(data_dirs: Sequence[Path]) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for path in [p for folder in data_dirs for p in sorted(folder.glob("*/[!.]*/episodes.jsonl"))]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                row = parse_json(line)
                if row["terminal"] or row["length"] >= CAP_STEPS:
                    scores.setdefault(path.parts[-3], []).append(float(row["score"]))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}, line {number}: {error!r}; collect it again") from None
    if not scores:
        raise UserError(
            f"--data_dir={data_dirs[0]} has no finished episode in <Game>/<run>/episodes.jsonl; "
            "`python -m cql_atari.collect` writes them (DQN-Replay itself has no raw scores)"
        )
    return scores


def make_columns(players: dict[str, Player], data: dict[str, Cell]) -> Columns:
    """Every player's cells; data without a player in the same game are left out."""
    columns = {label: cells_of(label, player) for label, player in players.items()}
    played = {game for cells in columns.values() for game in cells}
    if any(game in played for game in data):
        columns[DATA] = {game: cell for game, cell in data.items() if game in played}
    return {label: columns[label] for label in sorted(columns, key=rank)}


def cells_of(label: str, player: Player) -> dict[str, Cell]:
    """A player's score by game, with intervals over its episodes."""
    return {
        game: Cell(row["mean"], row["ci95"], row["n"], _fixed_action(label, row))
        for game, row in player.summary["games"].items()
    }


def _fixed_action(label: str, row: dict[str, Any]) -> str:
    """The name of a fixed action, which is the one taken most."""
    return max(row["action_share"], key=row["action_share"].get) if kind(label) == FIXED else ""
