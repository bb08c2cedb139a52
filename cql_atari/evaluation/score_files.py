"""`scores.json`: every episode of an evaluation, how it was played and by whom. See docs/scores.md.

The file is read strictly: it may come from elsewhere, and a wrong value in it would bend every
number that is made of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cql_atari.core import games
from cql_atari.core.types import NUM_ACTIONS, EpisodeScore, UserError
from cql_atari.evaluation import summary
from cql_atari.system import files

FORMAT = 1
# What makes scores comparable: an evaluation under another value measures something else.
PROTOCOL = ("epsilon", "sticky", "max_frames")


class Scores(NamedTuple):
    """What a `scores.json` holds.

    Attributes:
      episodes: every episode, at least one.
      protocol: how they were played (epsilon, sticky, cap, ...).
      run: who played (`label`, checkpoint, step, ...).
    """

    episodes: list[EpisodeScore]
    protocol: dict[str, Any]
    run: dict[str, Any]


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, text)
    except OSError as error:
        raise UserError(
            f"can't write {path}: {error.strerror}; free some space or choose another folder"
        ) from error


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
            raise ValueError(f"{_brief(content)} instead of an object")
        if content.get("format") != FORMAT:
            raise ValueError(f"format is {content.get('format')!r} instead of {FORMAT}")
        for name, kind in (("run", dict), ("protocol", dict), ("episodes", list)):
            if not isinstance(content.get(name), kind):
                raise ValueError(f"{name} is {_brief(content.get(name))}")
        _check_parameters(content["run"].get("parameters"))
        if not content["episodes"]:
            raise ValueError("it holds no episode")
        episodes = [episode(row, number) for number, row in enumerate(content["episodes"])]
    except ValueError as error:
        raise UserError(
            f"{path} is no scores file: {error}; docs/scores.md says what one holds"
        ) from None
    return Scores(episodes, content["protocol"], content["run"])


def _check_parameters(value: Any) -> None:
    """Weights, where a file says how many: {"trunk", "heads"}."""
    if value is None:
        return
    sound = isinstance(value, dict) and value.keys() == {"trunk", "heads"}
    if not sound or not all(_whole(count) and count >= 0 for count in value.values()):
        raise ValueError(
            f'run.parameters is {_brief(value)} instead of {{"trunk": COUNT, "heads": COUNT}}'
        )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# field: whether a value is sound, and what is expected in words
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "game": (lambda value: isinstance(value, str), "the name of a game"),
    "score": (
        lambda value: (_whole(value) or isinstance(value, float)) and math.isfinite(value),
        "a finite number",
    ),
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
        raise ValueError(f"episode {number} is {_brief(row)} instead of an object")
    if unknown := sorted(row.keys() - _FIELDS.keys()):
        raise ValueError(f"episode {number} has an unknown field {unknown[0]!r}")
    for name, (is_sound, expected) in _FIELDS.items():
        if name not in row:
            raise ValueError(f"episode {number} has no {name}: {expected}")
        if not is_sound(row[name]):
            raise ValueError(
                f"{name} of episode {number} is {_brief(row[name])} instead of {expected}"
            )
    try:
        games.spec(row["game"])
    except UserError as error:
        raise ValueError(f"episode {number}: {error}") from None
    return EpisodeScore(**{**row, "action_counts": tuple(row["action_counts"])})


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
