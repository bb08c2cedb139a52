"""Players that differ by seed only, taken together: their scores by game, and their aggregates.

A group of one run has intervals over its episodes, a group of several over runs: the chance of
training is in the latter only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cql_atari.core.types import UserError
from cql_atari.evaluation import aggregate, configurations, intervals, score_files, summary
from cql_atari.evaluation.labels import DATA, Cell, Columns, kind, rank
from cql_atari.evaluation.players import Player, cells_of, data_player, find_data


class Group(NamedTuple):
    """Runs of one method, or one other player.

    Attributes:
      name: its own; the label, with a place besides where several have it.
      players: one a seed, in their order.
      seeds: of the training runs; empty where nothing was trained, or it isn't said.
      settings: the configuration of the first, flat; empty where it has no configuration.
    """

    name: str
    players: list[Player]
    seeds: list[int]
    settings: dict[str, Any]

    @property
    def parameters(self) -> dict[str, int] | None:
        """{"trunk", "heads"}: weights, where the scores say."""
        return self.players[0].run.get("parameters")


class Contents(NamedTuple):
    """What the sections are made of.

    Attributes:
      groups: everybody who played, and the data.
      columns: group's name -> game -> cell.
      runs: the groups that were trained.
    """

    groups: list[Group]
    columns: Columns
    runs: list[Group]


def make(players: Mapping[str, Player]) -> list[Group]:
    """Groups of the players, baselines first. Runs of one label, method and configuration whose
    seeds differ are one; where a seed comes twice, folders tell them apart.

    Raises:
      UserError: where the seeds of a group were evaluated under different protocols.
    """
    trained: dict[str, list[Player]] = {}
    found: list[tuple[str, list[Player]]] = []
    for name, player in players.items():
        label = str(player.run.get("label", kind(name)))
        if seed_of(player) is None:
            found.append((label, [player]))
        else:
            trained.setdefault(label, []).append(player)
    for label, runs in trained.items():
        seeds = [seed_of(run) or 0 for run in runs]
        for places in configurations.same_but_seed(seeds, [settings_of(run) for run in runs]):
            found += [(label, same) for same in _once_a_seed([runs[place] for place in places])]
    for _, same in found:
        _refuse_mixture(same)
    names = _names([(label, place_of(runs[0]), runs[0].folder) for label, runs in found])
    made = [
        Group(name, same, [s for s in map(seed_of, same) if s is not None], settings_of(same[0]))
        for name, (_, same) in zip(names, found)
    ]
    return sorted(made, key=lambda group: rank(group.name))


def recorded(folders: Sequence[Path], players: Mapping[str, Player]) -> dict[str, Player]:
    """Recorded play at or below the folders, as players called `data`.

    Folders `<seed>/data` beside `<seed>/<run>` are one player over all seeds.
    """
    places: dict[tuple[str, ...], list[Path]] = {}
    for folder in find_data(folders):
        beside = folder.resolve().parent
        seeds = {seed_of(p) for p in players.values() if p.folder.resolve().is_relative_to(beside)}
        seeds -= {None}
        if not seeds and beside.name.isdigit():  # its runs aren't finished
            seeds = {int(beside.name)}
        only = seeds.pop() if len(seeds) == 1 else None
        places.setdefault(configurations.without_seed(folder.resolve(), only), []).append(folder)
    names = _names([(DATA, where, found[0]) for where, found in places.items()])
    return {name: data_player(found) for name, found in zip(names, places.values())}


def seed_of(player: Player) -> int | None:
    """The seed of the training run; None where there is none."""
    return settings_of(player).get(configurations.SEED)


def settings_of(player: Player) -> dict[str, Any]:
    """The configuration that the scores hold, flat; {} where they hold none, or another thing."""
    try:
        settings = configurations.flat(player.run.get("config") or {})
    except (AttributeError, ValueError):
        return {}
    known = type(settings.get(configurations.SEED)) is int
    return settings if known and type(settings.get("train.steps")) is int else {}


def means(group: Group) -> dict[str, list[float]]:
    """Of each game that all runs have played: each run's mean score."""
    games = group.players[0].summary["games"]
    return {
        game: [player.summary["games"][game]["mean"] for player in group.players]
        for game in games
        if all(game in player.summary["games"] for player in group.players)
    }


def cells(group: Group) -> dict[str, Cell]:
    """Score by game: over seeds where there are several, else over episodes."""
    if len(group.players) > 1:
        return {
            game: Cell(float(np.mean(runs)), intervals.mean(runs), len(runs))
            for game, runs in means(group).items()
        }
    return cells_of(group.name, group.players[0])


def counted(group: Group) -> str:
    """What its intervals are over: "5 seeds", "10 episodes"."""
    if len(group.players) > 1:
        return f"{len(group.players)} seeds"
    counts = sorted({row["n"] for row in group.players[0].summary["games"].values()})
    episodes = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{episodes} episode{'s' if counts != [1] else ''}"


def normalised(group: Group, form: str) -> dict[str, np.ndarray]:
    """Normalised scores of every game that has a reference and that all runs have played.

    Args:
      group: whose.
      form: "human_normalised" or "dqn_normalised".

    Returns:
      {game: float64 [episodes] of a single run, or [runs] means of several}.
    """
    runs = [summary.normalised(player.episodes, form) for player in group.players]
    if len(runs) == 1:
        return runs[0]
    return {
        game: np.array([run[game].mean() for run in runs])
        for game in runs[0]
        if all(game in run for run in runs)
    }


def scores(group: Group, form: str, games: Sequence[str]) -> list[np.ndarray] | np.ndarray:
    """What `aggregate.profile` and `improvement` take: one run's episodes by game, or several
    runs' means [runs, games]."""
    found = normalised(group, form)
    if len(group.players) == 1:
        return [found[game] for game in games]
    return np.stack([found[game] for game in games], axis=1)


def run_scores(group: Group, form: str, games: Sequence[str]) -> np.ndarray:
    """Each run's mean normalised scores [runs, games], of a single run as well."""
    found = normalised(group, form)
    if len(group.players) == 1:
        return np.array([[found[game].mean() for game in games]])
    return np.stack([found[game] for game in games], axis=1)


def aggregates(group: Group, form: str, games: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Every aggregate over the games, with intervals: {name: {"value", "ci95"}}."""
    found = scores(group, form, games)
    if isinstance(found, np.ndarray):
        return aggregate.aggregate_runs(found)
    return aggregate.aggregate(found)


def common_games(groups: Sequence[Group], form: str) -> list[str]:
    """Games that all have played and that have a reference score, as the first orders them."""
    played = [normalised(group, form) for group in groups]
    return [game for game in (played[0] if played else ()) if all(game in one for one in played)]


def _once_a_seed(runs: list[Player]) -> list[list[Player]]:
    """The runs as one group, or by folder where a seed comes twice."""
    runs = sorted(runs, key=lambda run: seed_of(run) or 0)
    if len({seed_of(run) for run in runs}) == len(runs):
        return [runs]
    places: dict[tuple[str, ...], list[Player]] = {}
    for run in runs:
        places.setdefault(place_of(run), []).append(run)
    apart: list[list[Player]] = []
    for same in places.values():
        once = len({seed_of(run) for run in same}) == len(same)
        apart += [same] if once else [[run] for run in same]
    return apart


def place(group: Group) -> tuple[str, ...]:
    """The parts of its folder's path, without the seed."""
    return place_of(group.players[0])


def place_of(player: Player) -> tuple[str, ...]:
    return configurations.without_seed(player.folder.resolve(), seed_of(player))


def _names(found: Sequence[tuple[str, tuple[str, ...], Path]]) -> list[str]:
    """Of each (label, place, folder): the label; where several have it, with as much of the place
    as tells them apart, or of the folder where the places are equal.
    """
    places = [(label, where) for label, where, _ in found]
    said = {label for label, _ in places} - {label for label, w in places if w[-1:] != (label,)}
    # Where every place of a label ends in it, the end says nothing.
    places = [(label, where[:-1] if label in said else where) for label, where in places]
    for number, (label, _, folder) in enumerate(found):
        if places.count(places[number]) > 1:
            places[number] = label, folder.resolve().parts
    names = []
    for label, where in places:
        others = [other for one, other in places if one == label and other != where]
        length = 1
        while length < len(where) and any(o[-length:] == where[-length:] for o in others):
            length += 1
        names.append(f"{label} ({'/'.join(where[-length:])})" if others else label)
    return names


def _refuse_mixture(runs: Sequence[Player]) -> None:
    protocols = {score_files.protocol_line(run.protocol): run.folder for run in runs}
    if len(protocols) > 1:
        lines = [f"  {folder}: {protocol}" for protocol, folder in protocols.items()]
        raise UserError(
            "\n".join(["one mean over seeds would mix evaluations under other protocols:", *lines])
            + "\nEvaluate one of them again, or name folders that don't hold both."
        )
