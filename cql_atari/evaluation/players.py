"""Who played: every `scores.json` below some folders under a label of its own, and the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cql_atari.core.types import EpisodeScore, UserError
from cql_atari.evaluation import intervals, score_files
from cql_atari.evaluation.summary import summarise
from cql_atari.system.files import parse_json

RANDOM, FIXED, DATA, CLONING = "random", "best_fixed", "data", "cloning"
ORDER = (RANDOM, FIXED, DATA, CLONING)  # others, the agents, follow
CAP_STEPS = 27_000  # 108,000 emulator frames: where collected episodes are cut


class Cell(NamedTuple):
    """One player's score in one game; `ci95` is None for a single episode."""

    mean: float
    ci95: tuple[float, float] | None
    n: int
    note: str = ""


Columns = dict[str, dict[str, Cell]]  # label -> game or variant -> cell


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


def data_cells(data_dir: Path) -> dict[str, Cell]:
    """Mean raw score of the recorded episodes of each game, over all runs below `data_dir`.

    The episode that the end of the recording cut is left out: its score is only a part.

    Raises:
      UserError: where there are none, or a line is malformed.
    """
    scores: dict[str, list[float]] = {}
    for path in sorted(data_dir.glob("*/[!.]*/episodes.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                row = parse_json(line)
                if row["terminal"] or row["length"] >= CAP_STEPS:
                    scores.setdefault(path.parts[-3], []).append(float(row["score"]))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}, line {number}: {error!r}; collect it again") from None
    if not scores:
        raise UserError(
            f"--data_dir={data_dir} has no finished episode in <Game>/<run>/episodes.jsonl; "
            "`python -m cql_atari.collect` writes them (DQN-Replay itself has no raw scores)"
        )
    return {
        game: Cell(float(np.mean(values)), intervals.mean(values), len(values))
        for game, values in scores.items()
    }


def make_columns(players: dict[str, Player], data: dict[str, Cell]) -> Columns:
    """Every player's cells; data without a player in the same game are left out."""
    columns = {
        label: {
            game: Cell(row["mean"], row["ci95"], row["n"], _note(label, row))
            for game, row in player.summary["games"].items()
        }
        for label, player in players.items()
    }
    played = {game for cells in columns.values() for game in cells}
    if any(game in played for game in data):
        columns[DATA] = {game: cell for game, cell in data.items() if game in played}
    return {label: columns[label] for label in sorted(columns, key=rank)}


def agents_of(players: Iterable[str]) -> list[str]:
    """The labels that are neither baseline nor data, or else the last label there is."""
    labels = list(players)
    return [label for label in labels if rank(label) == len(ORDER)] or labels[-1:]


def kind(label: str) -> str:
    """`cloning` for `cloning (folder)`."""
    return label.partition(" (")[0]


def rank(label: str) -> int:
    """Position in ORDER; agents last."""
    return ORDER.index(kind(label)) if kind(label) in ORDER else len(ORDER)


def _note(label: str, row: dict[str, Any]) -> str:
    """The name of a fixed action, which is the one taken most."""
    return max(row["action_share"], key=row["action_share"].get) if kind(label) == FIXED else ""
