"""Where the recorded play lies that a configuration selects, its format, and how much of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from cql_atari.core.settings import Data
from cql_atari.core.types import Episode, UserError
from cql_atari.data.dopamine import reader as dopamine
from cql_atari.data.dopamine.files import Ranges
from cql_atari.data.packed import files as packed_files
from cql_atari.data.packed import reader as packed

RLDS_NAMES = ("rlu_atari_checkpoints_ordered", "rlu_atari_checkpoints")
EXCLUSIONS = "cql_atari exclusions 1"


class Source(NamedTuple):
    """One run of one game's recorded play.

    Attributes:
      game: CamelCase name.
      run: number of the run.
      path: folder of the files, or its gs:// address.
      format: "dopamine", "rlds" or "packed".
      suffixes: which suffixes (RLDS: splits), in order; each is there.
      fraction: the first part of each suffix.
      left_out: of a suffix, what not to read: slots (`.gz`) or episodes of the split (RLDS).
    """

    game: str
    run: int
    path: str
    format: str
    suffixes: tuple[int, ...]
    fraction: float
    left_out: dict[int, Ranges]


def find(config: Data) -> list[Source]:
    """The file groups that the configuration selects, each checked to exist.

    Raises:
      UserError: naming what is missing and the layouts that are expected.
    """
    if config.dir is None:
        raise UserError(
            "data.dir is not set: it is the folder with your DQN-Replay files or RLDS data set.\n"
            "  --gin_bindings=\"data.dir='/path/to/dqn'\"\n"
            "Expected inside: <Game>/<run>/replay_logs/$store$_observation_ckpt.K.gz (and action, "
            "reward, terminal, add_count, invalid_range),\nfor example "
            "Breakout/1/replay_logs/$store$_observation_ckpt.0.gz;\n"
            "or rlu_atari_checkpoints_ordered/<Game>_run_<run>/<version>/, as TensorFlow Datasets "
            "prepares it.\n"
            "No data? launchers/get_data.sh fetches it, `python -m cql_atari.collect` plays.\n"
            "`make quickstart` does everything on play of its own."
        )
    excluded = _read_exclusions(config.exclude) if config.exclude else {}
    sources = []
    for game, run in itertools.product(config.games, config.runs):
        path, kind = _locate(config.dir, game, run)
        here = _MODULES[kind]().list_suffixes(path)
        if absent := [k for k in config.suffixes or () if k not in here]:
            raise UserError(
                f"no suffix {absent} of {game}, run {run}, in {path}; there are {here}. Set "
                "data.suffixes to those (None takes all)."
            )
        suffixes = tuple(here) if config.suffixes is None else config.suffixes
        left_out = excluded.pop(f"{game}/{run}", {})
        sources.append(Source(game, run, path, kind, suffixes, config.fraction, left_out))
    return sources


def reader(source: Source) -> ModuleType:
    """The module that reads a source's format: `dopamine` or `rlds`."""
    return _MODULES[source.format]()


def read_part(source: Source, suffix: int) -> Iterator[Episode]:
    """The episodes of one suffix of a source, as its reader's `read_episodes`."""
    return reader(source).read_episodes(
        source.path, source.game, [suffix], fraction=source.fraction, left_out=source.left_out
    )


def _rlds() -> ModuleType:
    from cql_atari.data.rlds import reader as rlds  # TensorFlow, only where it is needed

    return rlds


_MODULES = {"dopamine": lambda: dopamine, "rlds": _rlds, "packed": lambda: packed}


def _locate(directory: str, game: str, run: int) -> tuple[str, str]:
    """(path, format) of one run: packed play if there is any, else DQN-Replay files, else RLDS."""
    folder = packed_files.folder(directory, game, run)
    if folder.is_dir():
        return str(folder), "packed"
    logs_dir = Path(directory) / game / str(run) / "replay_logs"
    if logs_dir.is_dir():
        return str(logs_dir), "dopamine"
    for name in RLDS_NAMES:
        base = f"{directory.rstrip('/')}/{name}/{game}_run_{run}"
        if versions := list_versions(base):
            return f"{base}/{versions[-1]}", "rlds"
    raise UserError(
        f"no recorded play of {game}, run {run}, in {directory}: neither {game}/{run}/replay_logs "
        f"with $store$_observation_ckpt.K.gz and five more a K, nor {RLDS_NAMES[0]}/"
        f"{game}_run_{run}/<version>/. Choose other data.games or data.runs, fetch it "
        "(launchers/get_data.sh), or collect it with `python -m cql_atari.collect`."
    )


def list_versions(path: str) -> list[str]:
    """Names of the version folders in a directory, oldest first; none where it doesn't exist."""
    if "://" in path:
        import tensorflow as tf

        names = tf.io.gfile.listdir(path) if tf.io.gfile.isdir(path) else []
        names = [name.rstrip("/") for name in names]
    else:
        names = [p.name for p in Path(path).iterdir()] if Path(path).is_dir() else []
    versions = [name for name in names if name.replace(".", "").isdigit()]
    return sorted(versions, key=lambda version: [int(part) for part in version.split(".")])


def _read_exclusions(path: str) -> dict[str, dict[int, Ranges]]:
    """{"Game/run": {suffix: ranges}} from the file that `verify --repair` writes."""
    try:
        content: Any = json.loads(Path(path).read_text())
        if content["format"] != EXCLUSIONS:
            raise ValueError(f"its format is {content['format']!r}")
        return {
            run: {int(k): [(int(a), int(b)) for a, b in ranges] for k, ranges in suffixes.items()}
            for run, suffixes in content["exclude"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"data.exclude = {path!r} is no file of exclusions ({error}); `python -m "
            "cql_atari.tools.verify DIR --repair=FILE` writes one."
        ) from error
