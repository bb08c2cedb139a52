"""The files of packed play: their layout, and how they are read and checked.

One suffix K of `<dir>/<Game>/<run>/packed/` is two files. `K.segments` is the play: each episode is
cut into segments of 8 steps (the last one may be shorter), each compressed to an LZ4 block, one
after the other. `K.index` describes them: 8 hexadecimal digits, the CRC-32 of everything after the
blank that follows them; a line of JSON; then arrays, little-endian,

    steps      uint32 [episodes]   of each episode
    flags      uint8 [episodes]    1: the game ended after its last step; 2: it begins at the start
    lengths    uint32 [segments]   bytes of each segment
    checksums  uint32 [segments]   CRC-32 of those bytes

A segment of R steps holds uint8 [R] actions (of the full 18), float32 [R] rewards, float32
[R] sums of the rewards from each step to the episode's last, uint8 [R, 84, 84] frames.

So the index has checksums of itself and of all segments. It is written last and renamed into place:
a suffix whose index exists is complete.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import lz4.block
import numpy as np
from isal import isal_zlib

from cql_atari.core.types import FRAME_SHAPE, Extent, UserError
from cql_atari.data.shared import list_folder
from cql_atari.data.steps import Steps
from cql_atari.data.untrusted import blaming
from cql_atari.system.files import parse_json

FOLDER = "packed"
VERSION = "cql_atari packed 2"
SEGMENT_STEPS = 8  # a draw reads whole segments: shorter ones waste less, longer ones are smaller
FIX = "Delete the suffix's two files and pack it again (python -m cql_atari.tools.pack)."
_FRAME_BYTES = math.prod(FRAME_SHAPE)
_COLUMN_BYTES = 1 + 4 + 4
_LONGEST_HEADER = 1 << 20
_TERMINAL, _STARTS = 1, 2
_DAMAGE = (ValueError, cast(type[Exception], lz4.block.LZ4BlockError))
_NAME = re.compile(r"(0|[1-9][0-9]*)\.index")


class Index(NamedTuple):
    """The index of one suffix.

    Attributes:
      segments: path of the segments.
      extents: of the episodes, in order.
      offsets: int64 [segments], the byte at which each begins.
      lengths: uint32 [segments].
      checksums: uint32 [segments].
      source: what was packed: its `format`, the `files` with their sizes and checksums, and
        `left_out`, the ranges that were passed over.
    """

    segments: Path
    extents: list[Extent]
    offsets: np.ndarray
    lengths: np.ndarray
    checksums: np.ndarray
    source: dict[str, Any]


def folder(directory: str | os.PathLike[str], game: str, run: int) -> Path:
    """The folder of the packed play of a run in a data folder."""
    return Path(directory) / game / str(run) / FOLDER


def paths(directory: str | os.PathLike[str], suffix: int) -> tuple[Path, Path]:
    """(index, segments) of a suffix."""
    return Path(directory) / f"{suffix}.index", Path(directory) / f"{suffix}.segments"


def list_suffixes(directory: str | os.PathLike[str]) -> list[int]:
    """The suffixes that are packed, in numerical order.

    Raises:
      UserError: if the folder can't be listed or holds none.
    """
    matches = map(_NAME.fullmatch, list_folder(Path(directory)))
    if not (found := sorted(int(match[1]) for match in matches if match)):
        raise UserError(
            f"nothing is packed in {directory}: no K.index. Run the command that packs it again: "
            "python -m cql_atari.tools.pack."
        )
    return found


def fingerprints(directory: str | os.PathLike[str], suffix: int) -> dict[str, list[int | str]]:
    """Size and CRC-32 (hexadecimal) of a suffix's index, which has the segments' checksums."""
    path, _ = paths(directory, suffix)
    content = _read(path)
    return {path.name: [len(content), f"{isal_zlib.crc32(content):08x}"]}


def read_index(directory: str | os.PathLike[str], suffix: int) -> Index:
    """Reads and checks an index; of the segments only the file's size.

    Raises:
      UserError: naming the file that is missing, damaged, or of another version.
    """
    path, segments = paths(directory, suffix)
    content = _read(path)
    try:
        if int(content[:8], 16) != isal_zlib.crc32(content[9:]):
            raise ValueError("its checksum is wrong")
        line, _, body = content[9:].partition(b"\n")
        header = parse_json(line[:_LONGEST_HEADER])
        if header["version"] != VERSION:
            raise ValueError(f"its version is {header['version']!r}, not {VERSION!r}")
        arrays, at = [], 0
        for count, dtype in (
            (header["episodes"], "<u4"),
            (header["episodes"], "u1"),
            (header["segments"], "<u4"),
            (header["segments"], "<u4"),
        ):
            arrays.append(np.frombuffer(body, dtype, count, at))
            at += arrays[-1].nbytes
        steps, flags, lengths, checksums = arrays
        if len(lengths) != count_segments(steps.astype(np.int64)).sum() or at != len(body):
            raise ValueError("its parts don't fit each other")
        source = dict(header["source"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}. {FIX}") from error
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    with blaming(segments, fix=FIX):
        size = segments.stat().st_size
    if size != total:
        raise UserError(f"{segments} has {size:,} bytes, its index says {total:,}. {FIX}")
    extents = [
        Extent(length, bool(flag & _TERMINAL), bool(flag & _STARTS))
        for length, flag in zip(steps.tolist(), flags.tolist())
    ]
    return Index(segments, extents, ends - lengths, lengths, checksums, source)


def make_index(
    extents: Sequence[Extent],
    lengths: Sequence[int],
    checksums: Sequence[int],
    source: dict[str, Any],
) -> bytes:
    """The bytes of an index; see the module's docstring."""
    flags = [_TERMINAL * e.terminal + _STARTS * e.starts for e in extents]
    body = b"".join(
        np.asarray(values, dtype).tobytes()
        for values, dtype in (
            ([extent.steps for extent in extents], "<u4"),
            (flags, "u1"),
            (lengths, "<u4"),
            (checksums, "<u4"),
        )
    )
    header = {
        "version": VERSION,
        "episodes": len(extents),
        "segments": len(lengths),
        "source": source,
    }
    content = json.dumps(header).encode() + b"\n" + body
    return b"%08x " % isal_zlib.crc32(content) + content


def count_segments(steps: np.ndarray) -> np.ndarray:
    """How many segments episodes of that many steps take."""
    return -(-steps // SEGMENT_STEPS)


def compress(steps: Steps) -> bytes:
    """A segment's bytes."""
    columns = (
        steps.actions.astype(np.uint8),
        steps.rewards.astype("<f4"),
        steps.returns.astype("<f4"),
        steps.frames,
    )
    # Not LZ4's high compression: 16 % smaller, but packing took three times as long.
    data = b"".join(column.tobytes() for column in columns)
    return lz4.block.compress(data, store_size=False)


def decompress(packed: bytes, checksum: int, steps: int, path: Path) -> Steps:
    """A segment's `steps` steps, which share one read-only buffer.

    Lets other threads run while it decompresses.

    Raises:
      UserError: naming the file, if the bytes aren't those that were written.
    """
    size = (_COLUMN_BYTES + _FRAME_BYTES) * steps
    try:
        if isal_zlib.crc32(packed) != checksum:
            raise ValueError("a segment's checksum is wrong")
        data = lz4.block.decompress(packed, uncompressed_size=size)
        if len(data) != size:
            raise ValueError(f"a segment holds {len(data):,} bytes, not {size:,}")
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged: {error}. {FIX}") from error
    return Steps(
        np.frombuffer(data, np.uint8, offset=_COLUMN_BYTES * steps).reshape(-1, *FRAME_SHAPE),
        np.frombuffer(data, np.uint8, steps),
        np.frombuffer(data, "<f4", steps, steps),
        np.frombuffer(data, "<f4", steps, 5 * steps),
    )


def _read(path: Path) -> bytes:
    with blaming(path, fix=FIX):
        return path.read_bytes()
