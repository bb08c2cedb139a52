"""Dopamine's `.gz` files, as a format."""

from __future__ import annotations

from pathlib import Path

from cql_atari.core import games
from cql_atari.data.dopamine import check, files, reader
from cql_atari.data.format import Format
from cql_atari.data.shared import Recording, find_runs

_LOGS = "replay_logs"


def locate(directory: str, game: str, run: int) -> str | None:
    """The `replay_logs` of one run below a data folder, if there are any."""
    logs = Path(directory) / game / str(run) / _LOGS
    return str(logs) if logs.is_dir() else None


def find_recordings(folder: Path) -> list[Recording]:
    """The `replay_logs` in a data folder, a game's or a run's, or the one that is given."""
    return find_runs(folder, _LOGS, games.table())


DOPAMINE = Format(
    name="dopamine",
    layout="<Game>/<run>/replay_logs/$store$_observation_ckpt.K.gz, and action, reward, terminal, "
    "add_count, invalid_range beside it: DQN-Replay as Dopamine writes it",
    locate=locate,
    find_recordings=find_recordings,
    list_suffixes=files.list_suffixes,
    read_episodes=reader.read_episodes,
    survey=reader.survey,
    count=reader.survey,
    fingerprints=files.fingerprints,
    total_bytes=check.total_bytes,
    check_suffix=check.check_suffix,
)
