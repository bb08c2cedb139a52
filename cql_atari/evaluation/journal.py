"""Episodes of an unfinished evaluation, a JSON line each: a rerun plays only what is missing."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from absl import logging

from cql_atari.core.types import EpisodeScore, UserError
from cql_atari.evaluation import score_files
from cql_atari.system import files

FORMAT = 1


class Journal(NamedTuple):
    """Episodes that were played already, and `note`, which keeps another one."""

    finished: tuple[EpisodeScore, ...] = ()
    note: Callable[[EpisodeScore], object] = lambda score: None


@contextlib.contextmanager
def kept(path: Path, key: Mapping[str, Any], *, insist: bool = True) -> Iterator[Journal]:
    """Locks the file for this process; removes it if the block ends without an error.

    Args:
      path: the file; it may be there from an evaluation that was stopped or killed.
      key: what the episodes depend on, JSON-ready. A file with another one is begun anew.
      insist: False: where another process holds the file, nothing is kept.

    Raises:
      UserError: where another process holds it, or it can't be written.
    """
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = files.take_lock(path)
    if lock is None and insist:
        raise UserError(
            f"another process is at this evaluation (it holds {path}); wait for it, or choose "
            "another --out"
        )
    if lock is None:
        yield Journal()
        return
    try:
        with open(path, "a+b") as file:
            yield Journal(_read(file, key), lambda score: _append(file, score._asdict()))
        path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _read(file: IO[bytes], key: Mapping[str, Any]) -> tuple[EpisodeScore, ...]:
    """The episodes in the file; cuts off what follows the last valid line."""
    head = {"format": FORMAT, **json.loads(json.dumps(key))}
    episodes: list[EpisodeScore] = []
    sound = 0
    file.seek(0)
    for line in file:
        try:
            row = files.parse_json(line)
            if not line.endswith(b"\n") or (not sound and row != head):
                break
            if sound:
                episodes.append(score_files.episode(row, len(episodes)))
        except ValueError:
            break
        sound += len(line)
    if not sound and file.seek(0, os.SEEK_END):
        logging.warning("%s is of other weights, games or another protocol: begun anew", file.name)
    file.truncate(sound)
    if not sound:
        _append(file, head)
    return tuple(episodes)


def _append(file: IO[bytes], row: Mapping[str, Any]) -> None:
    """In one write, so that a kill leaves at most one line cut short."""
    file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
    file.flush()
