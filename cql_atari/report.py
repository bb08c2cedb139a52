"""python -m cql_atari.report DIR...: scores.json files and data statistics -> tables and verdicts.

Each DIR is searched for `scores.json` files, each with the label of who played: "random",
"best_fixed", "cloning", "agent" or any other name. Two with one label take their folder's name
besides (its path, where two have one name). With --data_dir the mean score of the recorded play
stands beside them.

Runs that differ by `train.seed` only become one learning curve, with an interval over seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from cql_atari.core.types import UserError
from cql_atari.evaluation import aggregate, curves, tables
from cql_atari.system import cli

RANDOM, FIXED, DATA, CLONING = "random", "best_fixed", "data", "cloning"
ORDER = (RANDOM, FIXED, DATA, CLONING)  # others, the agents, follow
CAP_STEPS = 27_000  # 108,000 emulator frames: where collected episodes are cut
PROTOCOL = ("epsilon", "sticky", "max_frames")
INTERVALS = (
    "± and [ ]: 95 % intervals (Student's t; stratified bootstrap) over evaluation episodes; "
    "the chance of training is not in them"
)


class Cell(NamedTuple):
    """One player's score in one game; `ci95` is None for a single episode."""

    mean: float
    ci95: tuple[float, float] | None
    n: int
    note: str = ""


Columns = dict[str, dict[str, Cell]]  # label -> game or variant -> cell


class Player(NamedTuple):
    """One `scores.json`, summarised."""

    summary: dict[str, Any]
    protocol: dict[str, Any]


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UserError("no folder given; usage: python -m cql_atari.report DIR [DIR...]")
    values, folders = flags.FLAGS, [Path(argument) for argument in argv[1:]]
    players = find_players(folders)
    data = data_cells(Path(values.data_dir)) if values.data_dir else {}
    columns = make_columns(players, data)
    print(report(players, columns, values.markdown))
    summary = curves.summarise(curves.find_runs(folders))
    shown = curves.worth_showing(summary)
    if shown:
        print("\n" + tables.curves_table(summary, values.markdown))
    if values.json:
        aggregate.write_text(
            Path(values.json), json.dumps(summary, indent=1, allow_nan=False) + "\n"
        )
        print(f"wrote {values.json}")
    if values.figures:
        from cql_atari.evaluation import figures as plots

        out, grouped = Path(values.figures), summary["variants"] if shown else {}
        for path in plots.draw(columns, folders, grouped, out):
            print(f"wrote {path}")


def find_players(folders: Sequence[Path]) -> dict[str, Player]:
    """Every `scores.json` at or below the folders, by label, baselines first.

    Raises:
      UserError: where a folder has none, or a file is malformed.
    """
    found: list[tuple[str, Path, Player]] = []
    for folder in folders:
        paths = sorted(folder.rglob("scores.json")) if folder.is_dir() else [folder]
        if not paths:
            raise UserError(
                f"no scores.json in {folder} or below; a finished train run or "
                "`python -m cql_atari.evaluate` writes one"
            )
        for path in paths:
            scores = aggregate.read_scores(path)
            label = str(scores.run.get("label", path.parent.name))
            player = Player(aggregate.summarise(scores.episodes), scores.protocol)
            found.append((label, path.parent, player))
    labels = [label for label, _, _ in found]
    names = [(label, folder.name) for label, folder, _ in found]
    named = {}
    for label, folder, player in found:
        place = folder.name if names.count((label, folder.name)) == 1 else folder
        named[label if labels.count(label) == 1 else f"{label} ({place})"] = player
    return {label: named[label] for label in sorted(named, key=_rank)}


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
                row = json.loads(line)
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
        game: Cell(float(np.mean(values)), aggregate.mean_interval(values), len(values))
        for game, values in scores.items()
    }


def make_columns(players: dict[str, Player], data: dict[str, Cell]) -> Columns:
    """The table's columns; data without a player in the same game is left out."""
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
    return {label: columns[label] for label in sorted(columns, key=_rank)}


def report(players: dict[str, Player], columns: Columns, markdown: bool) -> str:
    """All tables and sentences as one text."""
    agents = agents_of(players)
    blocks = [_score_table(players, columns, agents, markdown)]
    lines = [line for label in agents for line in verdicts(label, columns)]
    lines += [line for label in agents for line in aggregate_lines(label, players[label].summary)]
    lines += [*protocol_lines(players), INTERVALS]
    blocks.append("\n".join(f"- {line}" for line in lines))
    blocks += [_action_table(label, players[label].summary, markdown) for label in agents]
    return "\n\n".join(blocks)


def agents_of(players: Iterable[str]) -> list[str]:
    """The labels that are neither baseline nor data, or else the last label there is."""
    labels = list(players)
    return [label for label in labels if _rank(label) == len(ORDER)] or labels[-1:]


def verdicts(agent: str, columns: Columns) -> list[str]:
    """In how many games the agent's mean is above each baseline's; one sentence a baseline."""
    lines = []
    for label, cells in columns.items():
        games = [game for game in columns[agent] if game in cells]
        if _rank(label) == len(ORDER) or label == agent or not games:
            continue
        pairs = [(columns[agent][game], cells[game]) for game in games]
        above = sum(mine.mean > theirs.mean for mine, theirs in pairs)
        apart = sum(_clearly_above(mine, theirs) for mine, theirs in pairs)
        name = {DATA: "the data's mean", FIXED: "the best fixed action"}.get(_kind(label), label)
        lines.append(
            f"{agent} above {name} on {above} of {len(games)} games; intervals apart on {apart}"
        )
    return lines


def aggregate_lines(label: str, summary: dict[str, Any]) -> list[str]:
    """Mean, median and IQM over games with their intervals, for both normalisations."""
    lines = []
    for kind, name in (("human_normalised", "human"), ("dqn_normalised", "DQN")):
        values = summary[kind]
        if values["games"]:
            numbers = ", ".join(
                f"{title} {tables.percent(values[key]['value'])} "
                f"[{', '.join(map(tables.percent, values[key]['ci95']))}]"
                for key, title in (("mean", "mean"), ("median", "median"), ("iqm", "IQM"))
            )
            lines.append(f"{label}, {name}-normalised over {values['games']} games: {numbers}")
    return lines


def protocol_lines(players: dict[str, Player]) -> list[str]:
    """How the episodes were played; one line, or one for each protocol where they differ."""
    texts: dict[str, list[str]] = {}
    for label, player in players.items():
        text = ", ".join(f"{name} {player.protocol.get(name, '?')}" for name in PROTOCOL)
        texts.setdefault(text, []).append(label)
    if len(texts) == 1:
        return [f"protocol: {next(iter(texts))}"]
    return [f"protocol of {', '.join(labels)}: {text}" for text, labels in texts.items()]


def _score_table(
    players: dict[str, Player], columns: Columns, agents: list[str], markdown: bool
) -> str:
    games = list(dict.fromkeys(game for cells in columns.values() for game in cells))
    header = ["game", *(_header(label, cells) for label, cells in columns.items())]
    header += [f"{_title(label)} / human" for label in agents]
    rows = []
    for game in games:
        row = [game] + [_cell(cells.get(game)) for cells in columns.values()]
        for label in agents:
            entry = players[label].summary["games"].get(game, {})
            row.append(tables.percent(entry.get("human_normalised")))
        rows.append(row)
    return tables.table([header, *rows], markdown)


def _action_table(label: str, summary: dict[str, Any], markdown: bool) -> str:
    rows = [["game", "most frequent", "share", f"all actions of {_title(label)} (from 1 %)"]]
    for game, entry in summary["games"].items():
        shares = sorted(entry["action_share"].items(), key=lambda item: -item[1])
        listed = ", ".join(
            f"{name} {tables.percent(share)}" for name, share in shares if share >= 0.01
        )
        rows.append([game, shares[0][0], tables.percent(shares[0][1]), listed])
    return tables.table(rows, markdown)


def _header(label: str, cells: dict[str, Cell]) -> str:
    counts = sorted({cell.n for cell in cells.values()})
    episodes = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{_title(label)} (n = {episodes})"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    text = tables.number(cell.mean)
    if cell.ci95:
        text += f" ± {tables.number(cell.ci95[1] - cell.mean)}"
    return f"{text} {cell.note}".rstrip()


def _note(label: str, row: dict[str, Any]) -> str:
    """The name of a fixed action, which is the one taken most."""
    return max(row["action_share"], key=row["action_share"].get) if _kind(label) == FIXED else ""


def _title(label: str) -> str:
    return label.replace(FIXED, "best fixed")


def _kind(label: str) -> str:
    """`cloning` for `cloning (folder)`."""
    return label.partition(" (")[0]


def _rank(label: str) -> int:
    """Position in ORDER; agents last."""
    return ORDER.index(_kind(label)) if _kind(label) in ORDER else len(ORDER)


def _clearly_above(mine: Cell, theirs: Cell) -> bool:
    return bool(mine.ci95 and theirs.ci95 and mine.ci95[0] > theirs.ci95[1])


def _define_flags() -> None:
    # Not at import: every command has its own, and a test imports them all.
    flags.DEFINE_string("data_dir", None, "Folder with the data's <Game>/<run>/episodes.jsonl.")
    flags.DEFINE_bool("markdown", False, "Print Markdown.")
    flags.DEFINE_string("figures", None, "Folder to write pictures to.")
    flags.DEFINE_string("json", None, "File for the learning curves' numbers, seed by seed.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
