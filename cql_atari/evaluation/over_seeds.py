"""Scores over training seeds: runs that differ by their seed become one player.

Unlike the intervals of one run's report, those here hold the chance of training.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cql_atari.core.types import UserError
from cql_atari.evaluation import comparison, configurations, intervals, tables
from cql_atari.evaluation.groups import seed_of, settings_of
from cql_atari.evaluation.labels import DATA, FIXED, Cell, Columns, kind, rank
from cql_atari.evaluation.players import Player, data_cells
from cql_atari.evaluation.score_files import protocol_line

NOTE = (
    "±: 95 % intervals over training seeds (Student's t; of a difference: paired by seed); each "
    "seed is the mean of its episodes. They are not corrected for the number of games"
)
BySeed = dict[int, dict[str, float]]  # seed -> game -> mean score of its episodes


class Group(NamedTuple):
    """One player over seeds.

    Attributes:
      name: who played.
      scores: of every seed.
      data: mean score of the recorded play that each seed learned from, where it is known.
      at: the number in its path that scores are drawn against, if any.
      protocol: how it played.
    """

    name: str
    scores: BySeed
    data: BySeed
    at: float | None
    protocol: str


def find_groups(
    players: Iterable[Player], data_dir: Path | None = None, against: str | None = None
) -> list[Group]:
    """Groups runs by everything but the seed: label, protocol and settings.

    Two groups with one label take the name of their folder besides. Players without a training seed
    (random play, fixed actions) are left out.

    Args:
      players: all that were evaluated.
      data_dir: the recorded play of all; None: `data` beside each run's folder, where there is one.
      against: what stands as `against=NUMBER` in the runs' paths.

    Raises:
      UserError: where a path lacks the number.
    """
    alike: dict[tuple[str, str, str], list[Player]] = {}
    for player in filter(is_trained, players):
        number = str(_number(against, player.folder))
        alike.setdefault((_label(player), number, protocol_line(player.protocol)), []).append(
            player
        )
    found: dict[tuple[str, ...], dict[int, Player]] = {}
    for who, members in alike.items():
        seeds, settings = [_seed(one) for one in members], [settings_of(one) for one in members]
        for nth, places in enumerate(configurations.same_but_seed(seeds, settings)):
            for player in (members[place] for place in places):
                key: tuple[str, ...] = (*who, str(nth))
                if _seed(player) in found.get(key, {}):
                    key = (*key, str(player.folder))  # a copy, or a repetition: another player
                found.setdefault(key, {})[_seed(player)] = player
    labels = [key[0] for key in found]
    groups = []
    for (label, _, protocol, _, *copies), runs in found.items():
        folder = next(iter(runs.values())).folder
        place = next((part for part in reversed(folder.resolve().parts) if not part.isdigit()), "")
        name = label if place == label or labels.count(label) == 1 else f"{label} ({place})"
        name = f"{label} ({copies[0]})" if copies else name
        scores = {seed: _means(runs[seed]) for seed in sorted(runs)}
        data = {seed: row for seed in scores if (row := _data(runs[seed], data_dir))}
        groups.append(Group(name, scores, data, _number(against, folder), protocol))
    return sorted(groups, key=lambda group: (rank(group.name), group.name, group.at or 0))


def is_trained(player: Player) -> bool:
    """Whether the player's scores say which training run it is from."""
    return seed_of(player) is not None


def _seed(player: Player) -> int:
    return int(settings_of(player)[configurations.SEED])


def make_columns(groups: Sequence[Group], fixed: Mapping[str, Player]) -> Columns:
    """A cell over seeds for every group and the data, and the means of players without a seed."""
    columns = {
        label: {game: Cell(mean, None, 1) for game, mean in _means(player).items()}
        for label, player in fixed.items()
    }
    if data := _known_data(groups):
        columns[DATA] = cells(data)
    columns |= {group.name: cells(group.scores) for group in groups}
    return {label: columns[label] for label in sorted(columns, key=rank)}


def report(
    groups: Sequence[Group], fixed: Mapping[str, Player], against: str | None, markdown: bool
) -> str:
    """Tables of means over seeds, one for each number, and what the agents are above.

    Args:
      groups: as `find_groups` gives them.
      fixed: players without a seed, by label.
      against: the name of the numbers.
      markdown: whether to write Markdown.
    """
    blocks = []
    for at in sorted({group.at or 0 for group in groups}):
        here = [group for group in groups if (group.at or 0) == at]
        blocks += [f"{against} = {at:g}"] if against else []
        blocks += [_table(make_columns(here, fixed), markdown), _sentences(here, fixed)]
    lines = [*dict.fromkeys(f"protocol: {group.protocol}" for group in groups), NOTE]
    return "\n\n".join([*blocks, "\n".join(f"- {line}" for line in lines)])


def _table(columns: Columns, markdown: bool) -> str:
    games = dict.fromkeys(game for cells in columns.values() for game in cells)
    header = ["game", *(_header(label, column) for label, column in columns.items())]
    rows = [[comparison.score(column.get(game)) for column in columns.values()] for game in games]
    return tables.table([header, *([game, *row] for game, row in zip(games, rows))], markdown)


def _sentences(groups: Sequence[Group], fixed: Mapping[str, Player]) -> str:
    agents = [group for group in groups if rank(group.name) == rank("agent")]
    lines = [line for agent in agents for line in sentences(agent, groups, fixed)]
    return "\n".join(f"- {line}" for line in lines)


def _header(label: str, column: Mapping[str, Cell]) -> str:
    seeds = max(cell.n for cell in column.values())
    name = label.replace(FIXED, "best fixed")
    return f"{name} ({seeds} seeds)" if seeds > 1 else name


def sentences(agent: Group, groups: Sequence[Group], fixed: Mapping[str, Player]) -> list[str]:
    """What the agent is above and by how much: the data's mean, cloning, fixed policies."""
    others: dict[str, BySeed] = {comparison.NAMES[DATA]: agent.data}
    others |= {g.name: g.scores for g in groups if rank(g.name) < rank(agent.name)}
    for label, player in fixed.items():
        others[comparison.NAMES.get(kind(label), label)] = dict.fromkeys(
            agent.scores, _means(player)
        )
    found = ((name, differences(agent.scores, other)) for name, other in others.items())
    return [comparison.sentence(agent.name, name, rows) for name, rows in found if rows]


def differences(mine: BySeed, theirs: BySeed) -> list[comparison.Difference]:
    """Of every game that both have, over the seeds that both have, paired by seed."""
    seeds = [seed for seed in mine if seed in theirs]
    shared = [
        game for game in (mine[seeds[0]] if seeds else {})
        if all(game in scores[seed] for seed in seeds for scores in (mine, theirs))
    ]  # fmt: skip
    rows = []
    for game in shared:
        values = [mine[seed][game] - theirs[seed][game] for seed in seeds]
        above = (sum(value > 0 for value in values), len(values))
        rows.append(
            comparison.Difference(game, float(np.mean(values)), intervals.mean(values), above)
        )
    return rows


def cells(scores: BySeed) -> dict[str, Cell]:
    """Mean and interval over seeds by game."""
    by_game: dict[str, list[float]] = {}
    for row in scores.values():
        for game, score in row.items():
            by_game.setdefault(game, []).append(score)
    return {
        game: Cell(float(np.mean(values)), intervals.mean(values), len(values))
        for game, values in by_game.items()
    }


def curves_against(groups: Sequence[Group]) -> dict[str, dict[str, list[tuple[float, Cell]]]]:
    """For the figure: player -> game -> [(number, cell over seeds)] in order, the data's too."""
    found: dict[str, dict[str, list[tuple[float, Cell]]]] = {}
    for at in sorted({group.at for group in groups if group.at is not None}):
        here = [group for group in groups if group.at == at]
        rows = {group.name: group.scores for group in here}
        for name, scores in {DATA: _known_data(here), **rows}.items():
            for game, cell in cells(scores).items():
                found.setdefault(name, {}).setdefault(game, []).append((at, cell))
    return {name: found[name] for name in sorted(found, key=rank)}


def to_json(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Every group's scores, seed by seed, and the data's."""
    return [
        {"name": g.name, "at": g.at, "protocol": g.protocol, "scores": g.scores, "data": g.data}
        for g in groups
    ]


def _known_data(groups: Sequence[Group]) -> BySeed:
    return {seed: row for group in groups for seed, row in group.data.items()}


def _label(player: Player) -> str:
    return str(player.run.get("label", player.folder.resolve().name))


def _means(player: Player) -> dict[str, float]:
    return {game: row["mean"] for game, row in player.summary["games"].items()}


def _data(player: Player, data_dir: Path | None) -> dict[str, float]:
    folder = data_dir or player.folder.resolve().parent / "data"
    if data_dir is None and not any(folder.glob("*/[!.]*/episodes.jsonl")):
        return {}
    played = player.summary["games"]
    return {game: cell.mean for game, cell in data_cells(folder).items() if game in played}


def _number(name: str | None, folder: Path) -> float | None:
    if name is None:
        return None
    found = re.search(rf"(?:^|[/,]){re.escape(name)}=(-?[0-9.]+(?:e-?[0-9]+)?)", str(folder))
    if not found:
        raise UserError(f"--against={name}: {folder} has no {name}=NUMBER in its path")
    return float(found[1])
