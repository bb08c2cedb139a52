"""Where the recorded play lies that a configuration selects."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

from cql_atari.config import Data
from cql_atari.types import UserError


class Source(NamedTuple):
    """One run of one game's recorded play."""

    game: str
    replay_logs: Path
    suffixes: tuple[int, ...] | None


def find(config: Data) -> list[Source]:
    """The file groups that the configuration selects, each checked to exist.

    Raises:
      UserError: naming what is missing and the layout that is expected.
    """
    if config.dir is None:
        raise UserError(
            "data.dir is not set: it is the folder with your DQN-Replay files.\n"
            "  --gin_bindings=\"data.dir='/path/to/dqn'\"\n"
            "Expected inside: <Game>/<run>/replay_logs/$store$_observation_ckpt.K.gz (and action, "
            "reward, terminal, add_count, invalid_range),\nfor example "
            "Breakout/1/replay_logs/$store$_observation_ckpt.0.gz.\n"
            "No data at hand? `make quickstart` collects its own; `python -m cql_atari.collect` "
            "collects any game."
        )
    sources = []
    for game, run in itertools.product(config.games, config.runs):
        logs_dir = Path(config.dir) / game / str(run) / "replay_logs"
        if not logs_dir.is_dir():
            raise UserError(
                f"no recorded play of {game}, run {run}: {logs_dir} is not a folder. Expected "
                "there: $store$_observation_ckpt.K.gz and five more a K; choose other data.games "
                "or data.runs, or collect it with `python -m cql_atari.collect`."
            )
        sources.append(Source(game, logs_dir, config.suffixes))
    return sources
