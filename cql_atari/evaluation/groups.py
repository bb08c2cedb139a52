"""Groups of runs that differ by their seed only, and each group's scores by game.

The intervals of a single run are over its episodes. Those of several runs are over the runs, so
they include the randomness of training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cql_atari.core.types import UserError
from cql_atari.evaluation import configurations, intervals, score_files
from cql_atari.evaluation.labels import FIXED, rank
from cql_atari.evaluation.score_files import Scores, protocol_line
from cql_atari.evaluation.tables import Estimate


class Group(NamedTuple):
    """Runs of one method, or one other player.

    Attributes:
      name: unique; the label, with a part of the path behind it where several groups have it.
      players: one for each seed, in the seeds' order.
      seeds: of the training runs; of recorded play, of the runs that learned from it; empty where
        nothing was trained, or it isn't said.
      settings: the configuration of the first, flat; empty where it has no configuration.
      at: the number in its path by which groups are compared, if any.
    """

    name: str
    players: list[Scores]
    seeds: list[int]
    settings: dict[str, Any]
    at: float | None = None

    @property
    def parameters(self) -> dict[str, int] | None:
        """{"trunk", "heads"}: weights, where the scores say."""
        return self.players[0].run.get("parameters")


def make(
    players: Sequence[Scores], data_dirs: Sequence[Path], against: str | None = None
) -> list[Group]:
    """Groups all players, and the recorded play of their games; baselines come first.

    Runs of one label and configuration whose seeds differ are one group; if two of them have the
    same seed, those in different folders are different groups. The recorded play in each
    `<seed>/data`, beside `<seed>/<run>`, is one group, too.

    Args:
      players: as `score_files.find_scores`.
      data_dirs: at or below which recorded play is looked for.
      against: NAME of a NAME=NUMBER in the paths of trained runs; runs with another number are
        another group, of the same name.

    Raises:
      UserError: where the seeds of a group were evaluated under different protocols, or a trained
        run's path lacks the number.
    """
    found: list[tuple[list[Scores], list[int], float | None]] = []
    alike: dict[tuple[str, float | None], list[Scores]] = {}
    for player in players:
        if seed_of(player) is None:
            found.append(([player], [], None))
        else:
            number = _number(player.folder, against)
            if against and number is None:
                raise UserError(
                    f"--against={against}: {player.folder} has no {against}=NUMBER in its path; "
                    "leave the flag out, or give another name or other folders"
                )
            alike.setdefault((player.label, number), []).append(player)
    for (_, at), runs in alike.items():
        seeds = [seed_of(run) or 0 for run in runs]
        for places in configurations.same_but_seed(seeds, [settings_of(run) for run in runs]):
            for same in _once_a_seed([runs[place] for place in places]):
                protocols = {protocol_line(run.protocol): run.folder for run in same}
                refuse_mixture("mean over seeds", protocols)
                found.append((same, [seed_of(run) or 0 for run in same], at))
    for data, seeds in _recorded(data_dirs, players):
        found.append((data, seeds, _number(data[0].folder, against)))
    made = [Group("", same, seeds, settings_of(same[0]), at) for same, seeds, at in found]
    named = [group._replace(name=name) for group, name in zip(made, _names(made, against))]
    return sorted(named, key=lambda group: rank(group.name))


def seed_of(player: Scores) -> int | None:
    """The seed of the training run; None where there is none."""
    return settings_of(player).get(configurations.SEED)


def settings_of(player: Scores) -> dict[str, Any]:
    """The configuration that the scores hold, flat; {} where they hold none, or another thing."""
    try:
        settings = configurations.flat(player.run.get("config") or {})
    except (AttributeError, ValueError):
        return {}
    known = type(settings.get(configurations.SEED)) is int
    return settings if known and type(settings.get("train.steps")) is int else {}


def place(group: Group, against: str | None = None) -> tuple[str, ...]:
    """The parts of its folder's path, without the seed and without `against=NUMBER`."""
    return _place(group.players[0], group.seeds[0] if group.seeds else None, against)


def means(group: Group) -> dict[str, list[float]]:
    """Of each game that all runs have played: each run's mean score."""
    games = group.players[0].summary["games"]
    return {
        game: [player.summary["games"][game]["mean"] for player in group.players]
        for game in games
        if all(game in player.summary["games"] for player in group.players)
    }


def cells(group: Group) -> dict[str, Estimate]:
    """Mean score by game: over seeds where there are several, else over episodes. Beside the score
    of a fixed action stands the action's name: it is the one taken most.
    """
    if len(group.players) > 1:
        return {
            game: Estimate(float(np.mean(runs)), intervals.mean(runs))
            for game, runs in means(group).items()
        }
    (player,) = group.players
    found = {}
    for game, row in player.summary["games"].items():
        share = row["action_share"]
        action = max(share, key=share.get) if player.label == FIXED else ""
        found[game] = Estimate(row["mean"], row["ci95"], note=action)
    return found


def counted(group: Group) -> str:
    """What its intervals are computed over: "5 seeds", "10 episodes"."""
    if len(group.players) > 1:
        return f"{len(group.players)} seeds"
    counts = sorted({row["n"] for row in group.players[0].summary["games"].values()})
    episodes = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{episodes} episode{'s' if counts != [1] else ''}"


def action_shares(group: Group) -> dict[str, dict[str, float]]:
    """game -> action -> share of its steps, averaged over seeds; no games without any action."""
    found = {}
    for game in means(group):
        of = [player.summary["games"][game]["action_share"] for player in group.players]
        if any(any(one.values()) for one in of):
            found[game] = {name: sum(one[name] for one in of) / len(of) for name in of[0]}
    return found


def _recorded(
    folders: Sequence[Path], players: Sequence[Scores]
) -> list[tuple[list[Scores], list[int]]]:
    """Recorded play of the players' games at or below the folders, as one player for each folder.
    Folders whose paths differ only by the seed of the runs beside them are together, with these
    seeds; play whose runs have several seeds stands alone.
    """
    games = {game for player in players for game in player.summary["games"]}
    found: dict[tuple[bool, tuple[str, ...]], tuple[list[Scores], list[int]]] = {}
    for folder in score_files.find_play(folders):
        player = score_files.recorded_play(folder, games)
        if player is None:
            continue
        beside = folder.resolve().parent
        seeds = {seed_of(p) for p in players if p.folder.resolve().is_relative_to(beside)}
        seeds -= {None}
        if not seeds and beside.name.isdigit():  # its runs aren't finished
            seeds = {int(beside.name)}
        only = seeds.pop() if len(seeds) == 1 else None
        where = _place(player, only, None)
        same, known = found.setdefault((only is None, where), ([], []))
        same.append(player)
        known += [] if only is None else [only]
    return list(found.values())


def _once_a_seed(runs: list[Scores]) -> list[list[Scores]]:
    """The runs as one group, or by folder where a seed comes twice."""
    runs = sorted(runs, key=lambda run: seed_of(run) or 0)
    if len({seed_of(run) for run in runs}) == len(runs):
        return [runs]
    places: dict[tuple[str, ...], list[Scores]] = {}
    for run in runs:
        places.setdefault(_place(run, seed_of(run), None), []).append(run)
    apart: list[list[Scores]] = []
    for same in places.values():
        once = len({seed_of(run) for run in same}) == len(same)
        apart += [same] if once else [[run] for run in same]
    return apart


def _place(player: Scores, seed: int | None, against: str | None) -> tuple[str, ...]:
    parts = configurations.without_seed(player.folder.resolve(), seed)
    return tuple(part for part in parts if _number(Path(part), against) is None)


def _number(path: Path, name: str | None) -> float | None:
    """The number of a part `name=NUMBER` of the path; None without."""
    if name is None:
        return None
    number = r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]{1,2})?"
    found = re.search(rf"(?:^|[/,]){re.escape(name)}=({number})(?![0-9.e])", str(path))
    return float(found[1]) if found else None


def _names(groups: Sequence[Group], against: str | None) -> list[str]:
    """Of each group its label; where several have it, with as much of the place as tells them
    apart, or of the folder where the places are equal.
    """
    labels = [group.players[0].label for group in groups]
    places = [(label, place(group, against)) for label, group in zip(labels, groups)]
    said = set(labels) - {label for label, where in places if where[-1:] != (label,)}
    # Where every place of a label ends in it, the end says nothing.
    places = [(label, where[:-1] if label in said else where) for label, where in places]
    at = [(*where, group.at) for where, group in zip(places, groups)]
    for number, (label, group) in enumerate(zip(labels, groups)):
        if at.count(at[number]) > 1:
            places[number] = label, group.players[0].folder.resolve().parts
    names = []
    for label, where in places:
        others = [other for one, other in places if one == label and other != where]
        length = 1
        while length < len(where) and any(o[-length:] == where[-length:] for o in others):
            length += 1
        apart = "/".join(where[-length:])
        short = apart.removesuffix(f"/{label}")  # the end says the label again
        if not any(f"/{'/'.join(other)}".endswith(f"/{short}") for other in others):
            apart = short
        names.append(f"{label} ({apart})" if others and apart != label else label)
    return names


def protocol_lines(found: Sequence[Group]) -> list[str]:
    """How the episodes were played; one line, or one for each protocol where they differ."""
    texts: dict[str, dict[str, None]] = {}
    for group in found:
        texts.setdefault(protocol_line(group.players[0].protocol), {})[group.name] = None
    if len(texts) == 1:
        return [f"protocol: {next(iter(texts))}"]
    return [f"protocol of {', '.join(names)}: {text}" for text, names in texts.items()]


def unfinished_lines(found: Sequence[Group]) -> list[str]:
    """Which scores are of weights from before the end of their training."""
    lines = []
    for group in found:
        steps = [player.run.get("step") for player in group.players]
        end = group.settings.get("train.steps", 0)
        if any(isinstance(step, int) and step < end for step in steps):
            reached = ", ".join(dict.fromkeys(map(str, steps)))
            lines.append(f"{group.name} isn't trained to its end: step {reached} of {end}")
    return lines


def refuse_mixture(what: str, protocols: Mapping[str, object]) -> None:
    """Raises a UserError where there is more than one.

    Args:
      what: they would be mixed in.
      protocols: each with the path of scores under it.
    """
    if len(protocols) > 1:
        lines = [f"  {path}: {protocol}" for protocol, path in protocols.items()]
        raise UserError(
            "\n".join([f"one {what} would mix evaluations under other protocols:", *lines])
            + "\nEvaluate one of them again (`python -m cql_atari.evaluate --run=RUN "
            "--checkpoint=STEP`), or name folders that don't hold both."
        )
