"""The report as text or Markdown: scores of every player by game, verdicts, aggregates, actions."""

from __future__ import annotations

from typing import Any

from cql_atari.evaluation import aggregate, comparison, tables
from cql_atari.evaluation.labels import (
    CLONING,
    DATA,
    FIXED,
    ORDER,
    Cell,
    Columns,
    agents_of,
    kind,
    rank,
)
from cql_atari.evaluation.players import Player
from cql_atari.evaluation.score_files import protocol_line
from cql_atari.evaluation.summary import REFERENCES

INTERVALS = (
    "± and [ ]: 95 % intervals over evaluation episodes (docs/statistics.md); the chance of "
    "training is not in them"
)


def report(players: dict[str, Player], columns: Columns, markdown: bool) -> str:
    """All tables and sentences as one text."""
    agents = agents_of(players)
    blocks = [_score_table(players, columns, agents, markdown)]
    lines = [line for label in agents for line in verdicts(label, columns)]
    lines += [line for label in agents for line in aggregate_lines(label, players[label].summary)]
    lines += [*protocol_lines(players), INTERVALS]
    blocks.append("\n".join(f"- {line}" for line in lines))
    blocks += [_action_table(label, players[label].summary, markdown) for label in agents]
    blocks += [line for label in agents for line in conclusions(label, columns)]
    return "\n\n".join(blocks)


def conclusions(agent: str, columns: Columns) -> list[str]:
    """What the agent is for, in a sentence each: to be above its data, and above cloning them."""
    return [
        comparison.sentence(agent, comparison.NAMES.get(kind(label), label), rows) + "."
        for label, cells in columns.items()
        if kind(label) in (DATA, CLONING) and label != agent
        if (rows := comparison.of_cells(columns[agent], cells))
    ]


def verdicts(agent: str, columns: Columns) -> list[str]:
    """In how many games the agent's mean is above each baseline's; one sentence a baseline."""
    lines = []
    for label, cells in columns.items():
        games = [game for game in columns[agent] if game in cells]
        if rank(label) == len(ORDER) or label == agent or not games:
            continue
        pairs = [(columns[agent][game], cells[game]) for game in games]
        above = sum(mine.mean > theirs.mean for mine, theirs in pairs)
        apart = sum(_clearly_above(mine, theirs) for mine, theirs in pairs)
        name = comparison.NAMES.get(kind(label), label)
        lines.append(
            f"{agent} above {name} on {above} of {len(games)} games; intervals apart on {apart}"
        )
    return lines


def aggregate_lines(label: str, summary: dict[str, Any]) -> list[str]:
    """Every aggregate over games with its interval, for both normalisations."""
    lines = []
    for key, reference in REFERENCES.items():
        values = summary[key]
        if values["games"]:
            numbers = ", ".join(
                f"{one.title} {tables.percent_with_range(values[name])}"
                for name, one in aggregate.AGGREGATES.items()
            )
            lines.append(f"{label}, {reference}-normalised over {values['games']} games: {numbers}")
    return lines


def small(label: str, summary: dict[str, Any]) -> str:
    """One evaluation in a small table, as commands print it at their end.

    Args:
      label: who played.
      summary: as `summary.summarise`.
    """
    rows = [["game", "episodes", "mean score", "of human", "of DQN"]]
    for name, row in summary["games"].items():
        cell = Cell(row["mean"], row["ci95"], row["n"])
        shares = [tables.percent(row[kind]) for kind in ("human_normalised", "dqn_normalised")]
        rows.append([name, str(row["n"]), comparison.score(cell), *shares])
    return "\n".join([tables.table(rows, False), *aggregate_lines(label, summary)])


def protocol_lines(players: dict[str, Player]) -> list[str]:
    """How the episodes were played; one line, or one for each protocol where they differ."""
    texts: dict[str, list[str]] = {}
    for label, player in players.items():
        texts.setdefault(protocol_line(player.protocol), []).append(label)
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
        row = [game] + [comparison.score(cells.get(game)) for cells in columns.values()]
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


def _title(label: str) -> str:
    return label.replace(FIXED, "best fixed")


def _clearly_above(mine: Cell, theirs: Cell) -> bool:
    return bool(mine.ci95 and theirs.ci95 and mine.ci95[0] > theirs.ci95[1])
