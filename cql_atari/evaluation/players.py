"""Who played: every `scores.json` below some folders, and recorded play."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cql_atari.core import games as games_lib
from cql_atari.core.types import NUM_ACTIONS, EpisodeScore, UserError
from cql_atari.evaluation import score_files
from cql_atari.evaluation.labels import DATA, FIXED, Cell
from cql_atari.evaluation.summary import default_mode, summarise
from cql_atari.runs import folder
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

    @property
    def label(self) -> str:
        """What the file calls the player ("agent", "random", ...); without that, its folder."""
        return str(self.run.get("label", self.folder.resolve().name))


def find_players(folders: Sequence[Path]) -> list[Player]:
    """Every `scores.json` at or below the folders, each once.

    Raises:
      UserError: where a folder has none, or a file is malformed.
    """
    paths: dict[Path, Path] = {}  # by resolved path
    for top in folders:
        below = [place / folder.SCORES for place in folder.holding(folder.SCORES, [top])]
        if top.is_dir() and not below:
            raise UserError(
                f"no {folder.SCORES} in {top} or below; a finished train run or "
                "`python -m cql_atari.evaluate` writes one"
            )
        for path in below or [top]:
            paths.setdefault(path.resolve(), path)
    found = []
    for path in paths.values():
        episodes, protocol, run = score_files.read(path)
        found.append(Player(path.parent, episodes, summarise(episodes), protocol, run))
    return found


def find_data(folders: Sequence[Path]) -> list[Path]:
    """Folders at or below these that hold recorded play, `<Game>/<run>/episodes.jsonl`."""
    found = dict.fromkeys(
        path.parents[2]
        for top in folders
        for path in sorted(top.rglob("episodes.jsonl"))
        if len(path.parts) > 3 and path.parts[-3] in games_lib.table() and path.parts[-2][0] != "."
    )
    return list(found)


def data_player(data_dir: Path, games: Collection[str]) -> Player | None:
    """Recorded play as a player: the raw scores of its episodes, over all runs of each game.

    The episode that the end of a recording cut is left out: its score is only a part.

    Args:
      data_dir: the folder above <Game>/<run>/episodes.jsonl.
      games: those that count.

    Returns:
      None where no episode is finished.

    Raises:
      UserError: where a line is malformed.
    """
    scores: dict[str, list[float]] = {}
    for path in sorted(data_dir.glob("*/[!.]*/episodes.jsonl")):
        if path.parts[-3] not in games:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                row = parse_json(line)
                if row["terminal"] or row["length"] >= CAP_STEPS:
                    scores.setdefault(path.parts[-3], []).append(float(row["score"]))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}, line {number}: {error!r}; collect it again") from None
    if not scores:
        return None
    episodes = [
        EpisodeScore(
            game, score, 0, False, 0, number, default_mode(game), 0, "", (0,) * NUM_ACTIONS
        )
        for game, values in scores.items()
        for number, score in enumerate(values)
    ]
    return Player(data_dir, episodes, summarise(episodes), {}, {"label": DATA})


def cells_of(player: Player) -> dict[str, Cell]:
    """A player's score by game, with intervals over its episodes."""
    return {
        game: Cell(row["mean"], row["ci95"], row["n"], _fixed_action(player, row))
        for game, row in player.summary["games"].items()
    }


def _fixed_action(player: Player, row: dict[str, Any]) -> str:
    """The name of a fixed action, which is the one taken most."""
    return max(row["action_share"], key=row["action_share"].get) if player.label == FIXED else ""
