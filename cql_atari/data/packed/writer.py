"""Packs the episodes of one suffix; it is there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from isal import isal_zlib

from cql_atari.core.types import Episode, Extent
from cql_atari.data.packed.files import (
    SEGMENT_STEPS,
    compress,
    make_index,
    paths,
)
from cql_atari.data.shared import Report
from cql_atari.data.steps import Steps, returns_to_go
from cql_atari.system.files import move, write_whole, writing


def write_suffix(
    directory: Path,
    suffix: int,
    episodes: Iterable[Episode],
    source: dict[str, Any],
    report: Report = lambda steps: None,
) -> None:
    """Writes the two files of a suffix, in place of older ones.

    Args:
      directory: that of the packed files; only one process may write there at a time.
      suffix: its number.
      episodes: in order; held one at a time.
      source: as `Index.source`; JSON-ready.
      report: called with the steps that were written since its last call.

    Raises:
      UserError: as reading the episodes does, or where the disk can't be written; the suffix is
        then absent.
    """
    index, segments = paths(directory, suffix)
    partial = segments.with_suffix(".partial")
    extents: list[Extent] = []
    lengths: list[int] = []
    checksums: list[int] = []
    advice = (
        "free some space or choose another --out_dir; the same command goes on at the suffixes "
        "that aren't packed."
    )
    try:
        with writing(f"to {directory}", advice):
            index.unlink(missing_ok=True)
            with open(partial, "wb") as file:

                def write(episode: Episode) -> None:
                    extents.append(Extent(len(episode.frames), episode.terminal, episode.starts))
                    for steps in _cut(episode):
                        packed = compress(steps)
                        file.write(packed)
                        lengths.append(len(packed))
                        checksums.append(isal_zlib.crc32(packed))
                    report(len(episode.frames))

                # Not a loop over episodes: its variable would keep one while the next is read.
                for _ in map(write, episodes):
                    pass
                file.flush()
                os.fsync(file.fileno())
            move(partial, segments)
            write_whole(index, make_index(extents, lengths, checksums, source))
    finally:
        partial.unlink(missing_ok=True)


def _cut(episode: Episode) -> Iterable[Steps]:
    returns = returns_to_go(episode.rewards)
    for begin in range(0, len(episode.frames), SEGMENT_STEPS):
        here = slice(begin, begin + SEGMENT_STEPS)
        yield Steps(
            episode.frames[here], episode.actions[here], episode.rewards[here], returns[here]
        )
