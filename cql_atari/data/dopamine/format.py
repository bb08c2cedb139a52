"""Dopamine's `.gz` files, as a format."""

from __future__ import annotations

import functools

from cql_atari.data.dopamine import check, files, reader
from cql_atari.data.format import Format
from cql_atari.data.run_folders import find_runs_or_gaps, locate_run

DOPAMINE = Format(
    name="dopamine",
    layout="<Game>/<run>/replay_logs/$store$_observation_ckpt.K.gz, and action, reward, terminal, "
    "add_count, invalid_range beside it: DQN-Replay as Dopamine writes it",
    locate=functools.partial(locate_run, "replay_logs"),
    find_recordings=functools.partial(find_runs_or_gaps, "replay_logs"),
    list_suffixes=files.list_suffixes,
    read_suffix=reader.read_suffix,
    survey=reader.survey,
    count=reader.survey,
    fingerprints=files.fingerprints,
    total_bytes=check.total_bytes,
    check_suffix=check.check_suffix,
)
