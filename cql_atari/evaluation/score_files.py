"""`scores.json`: every episode of an evaluation, how it was played and by whom. See docs/scores.md.

The file may come from elsewhere, and a wrong value would falsify every number that is computed from
it; so every field is checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cql_atari.core import games
from cql_atari.core.types import NUM_ACTIONS, EpisodeScore, UserError
from cql_atari.data.shared import LONGEST
from cql_atari.evaluation import summary
from cql_atari.evaluation.labels import DATA
from cql_atari.runs import folder
from cql_atari.system import files
from cql_atari.system.text import shorten

FORMAT = 1
# What makes scores comparable: an evaluation under another value measures something else.
PROTOCOL = ("epsilon", "sticky", "max_frames")
_BEYOND_SCORES = 1e100
_BEYOND_LENGTHS = 10**9


class Scores(NamedTuple):
    """What a `scores.json` holds, or recorded play: who played what.

    Attributes:
      folder: where it is.
      episodes: every episode, at least one.
      summary: as `summary.summarise`.
      protocol: how they were played (epsilon, sticky, cap, ...); {} for recorded play.
      run: who played (`label`, checkpoint, step, ...).
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


def find_scores(folders: Sequence[Path]) -> list[Scores]:
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
    return [read(path) for path in paths.values()]


def find_play(folders: Sequence[Path]) -> list[Path]:
    """Folders at or below these that hold recorded play, `<Game>/<run>/episodes.jsonl`."""
    found = dict.fromkeys(
        path.parents[2]
        for top in folders
        for path in sorted(top.rglob("episodes.jsonl"))
        if len(path.parts) > 3 and path.parts[-3] in games.table() and path.parts[-2][0] != "."
    )
    return list(found)


def recorded_play(data_dir: Path, played: Collection[str]) -> Scores | None:
    """Recorded play as a player: the raw scores of its episodes, over all runs of each game.

    An episode that was cut by the end of the recording is left out, as its score is incomplete.

    Args:
      data_dir: the folder above <Game>/<run>/episodes.jsonl.
      played: games that count.

    Returns:
      None where no episode is finished.

    Raises:
      UserError: where a line is malformed.
    """
    scores: dict[str, list[float]] = {}
    for game, _, row in _recorded_episodes(data_dir, played):
        if _is_whole(row):
            scores.setdefault(game, []).append(float(row["score"]))
    if not scores:
        return None
    episodes = [
        EpisodeScore(
            game, score, 0, False, 0, number, summary.default_mode(game), 0, "", (0,) * NUM_ACTIONS
        )
        for game, values in scores.items()
        for number, score in enumerate(values)
    ]
    return Scores(data_dir, episodes, summary.summarise(episodes), {}, {"label": DATA})


def recorded_curves(
    data_dir: Path, played: Collection[str]
) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Game -> run -> (agent steps recorded by its end, score) of each whole episode, in order.

    Raises:
      UserError: where a line is malformed.
    """
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    steps: dict[tuple[str, str], int] = {}
    for game, run, row in _recorded_episodes(data_dir, played):
        end = steps[game, run] = steps.get((game, run), 0) + row["length"]
        if _is_whole(row):
            curves.setdefault(game, {}).setdefault(run, []).append((end, float(row["score"])))
    return curves


def _recorded_episodes(
    data_dir: Path, played: Collection[str]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(game, run, line) for each line of the games' `episodes.jsonl`."""
    for path in sorted(data_dir.glob("*/[!.]*/episodes.jsonl")):
        game, run = path.parts[-3:-1]
        for number, line in enumerate(path.read_bytes().splitlines() if game in played else (), 1):
            try:
                row = files.parse_json(line)
                if not _is_score(row["score"]):
                    raise ValueError(f"the score is {brief(row['score'])}")
                if type(row["length"]) is not int or not 0 <= row["length"] < _BEYOND_LENGTHS:
                    raise ValueError(f"the length is {brief(row['length'])}")
                row["terminal"]
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}, line {number}: {error!r}; collect it again") from None
            yield game, run, row


def _is_whole(row: Mapping[str, Any]) -> bool:
    return bool(row["terminal"] or row["length"] >= LONGEST)


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """How episodes were played, as far as scores depend on it; "?" where it isn't said."""
    return ", ".join(f"{name} {protocol.get(name, '?')}" for name in PROTOCOL)


def write(
    path: str | Path,
    episodes: Sequence[EpisodeScore],
    protocol: Mapping[str, Any],
    run: Mapping[str, Any],
) -> None:
    """Writes `scores.json`: run, protocol, summary, and every episode on a line of its own.

    The file appears whole or not at all.

    Raises:
      UserError: if it can't be written.
    """
    head = {
        "format": FORMAT, "run": run, "protocol": protocol, "summary": summary.summarise(episodes),
    }  # fmt: skip
    lines = ",\n".join(json.dumps(score._asdict(), allow_nan=False) for score in episodes)
    text = json.dumps(head, indent=2, allow_nan=False)[:-2] + f',\n  "episodes": [\n{lines}\n]}}\n'
    write_text(Path(path), text)


def write_text(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all; makes its folder.

    Raises:
      UserError: if it can't be written.
    """
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, text)


def read(path: str | Path) -> Scores:
    """Reads a `scores.json`.

    Raises:
      UserError: if it is missing, not JSON, or not as `write` writes it; says what is wrong where.
    """
    try:
        content = files.parse_json(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); evaluate again to replace it") from None
    try:
        if not isinstance(content, dict):
            raise ValueError(f"{brief(content)} instead of an object")
        if content.get("format") != FORMAT:
            raise ValueError(f"format is {content.get('format')!r} instead of {FORMAT}")
        for name, kind in (("run", dict), ("protocol", dict), ("episodes", list)):
            if not isinstance(content.get(name), kind):
                raise ValueError(f"{name} is {brief(content.get(name))}")
        _check_parameters(content["run"].get("parameters"))
        if not content["episodes"]:
            raise ValueError("it holds no episode")
        episodes = [episode(row, number) for number, row in enumerate(content["episodes"])]
    except ValueError as error:
        raise UserError(
            f"{path} is no scores file: {error}; docs/scores.md says what one holds"
        ) from None
    summarised = summary.summarise(episodes)
    return Scores(Path(path).parent, episodes, summarised, content["protocol"], content["run"])


def _check_parameters(value: Any) -> None:
    """Weights, where a file says how many: {"trunk", "heads"}."""
    if value is None:
        return
    sound = isinstance(value, dict) and value.keys() == {"trunk", "heads"}
    if not sound or not all(_whole(count) and count >= 0 for count in value.values()):
        raise ValueError(
            f'run.parameters is {brief(value)} instead of {{"trunk": COUNT, "heads": COUNT}}'
        )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_score(value: Any) -> bool:
    """Whether it is a number with which one can calculate: finite, also its square."""
    return (_whole(value) or isinstance(value, float)) and abs(value) < _BEYOND_SCORES


# field: whether a value is sound, and what is expected in words
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "game": (lambda value: isinstance(value, str), "the name of a game"),
    "score": (_is_score, "a finite number"),
    "length": (lambda value: _whole(value) and value >= 0, "a number of agent steps"),
    "truncated": (lambda value: isinstance(value, bool), "true or false"),
    "seed": (_whole, "a whole number"),
    "nth": (_whole, "a whole number"),
    "mode": (_whole, "a whole number"),
    "difficulty": (_whole, "a whole number"),
    "rom_md5": (lambda value: isinstance(value, str), "the MD5 of the ROM file"),
    "action_counts": (
        lambda value: (
            isinstance(value, list)
            and len(value) == NUM_ACTIONS
            and all(_whole(count) and count >= 0 for count in value)
        ),
        f"{NUM_ACTIONS} counts, one for each action of the full set",
    ),
}


def episode(row: Any, number: int = 0) -> EpisodeScore:
    """An episode from its JSON object.

    Args:
      row: the object.
      number: its place among the episodes, for the error.

    Raises:
      ValueError: names the field, what stands there, and what should.
    """
    if not isinstance(row, dict):
        raise ValueError(f"episode {number} is {brief(row)} instead of an object")
    if unknown := sorted(row.keys() - _FIELDS.keys()):
        raise ValueError(f"episode {number} has an unknown field {unknown[0]!r}")
    for name, (is_sound, expected) in _FIELDS.items():
        if name not in row:
            raise ValueError(f"episode {number} has no {name}: {expected}")
        if not is_sound(row[name]):
            raise ValueError(
                f"{name} of episode {number} is {brief(row[name])} instead of {expected}"
            )
    try:
        games.spec(row["game"])
    except UserError as error:
        raise ValueError(f"episode {number}: {error}") from None
    return EpisodeScore(**{**row, "action_counts": tuple(row["action_counts"])})


def brief(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    return shorten(json.dumps(value))
