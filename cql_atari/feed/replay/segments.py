"""Segments: runs of up to 16 neighbouring transitions as compressed bytes, the replay's items.

Reverb's cost is per item, so an item holds several transitions. LZ4 compresses them much better
than Reverb does, and decompresses fast. Two neighbouring segments both hold the 3 + n frames that
they share.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import lz4.frame
import numpy as np

from cql_atari.core.types import FRAME_SHAPE
from cql_atari.feed.transitions import LEAD, PaddedEpisode

ROWS = 16  # transitions of a full segment
_FRAME_BYTES = FRAME_SHAPE[0] * FRAME_SHAPE[1]
_COLUMN_BYTES = 3 * 4


class Segment(NamedTuple):
    """R <= 16 transitions; row r is the window `frames[r : r + 4 + n]`.

    Attributes:
      frames: uint8 [R + 3 + n, 84, 84].
      actions: int32 [R].
      rewards: float32 [R].
      discounts: float32 [R].
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray


def pack_segments(padded: PaddedEpisode, n_step: int) -> Iterator[tuple[bytes, int]]:
    """Cuts an episode's valid rows into segments of nearly equal length: yields (bytes, rows)."""
    rows = np.flatnonzero(padded.valid)  # without gaps
    for part in np.array_split(rows, -(-len(rows) // ROWS)) if len(rows) else ():
        first, end = part[0], part[-1] + 1
        columns = (padded.actions, padded.rewards, padded.discounts)
        arrays = [column[first:end] for column in columns]
        arrays.append(padded.frames[first : end + LEAD + n_step])
        data = b"".join(array.tobytes() for array in arrays)
        yield lz4.frame.compress(data, content_checksum=True), len(part)


def unpack_segment(packed: bytes, n_step: int) -> Segment:
    """The inverse of `pack_segments`; the arrays share one read-only buffer.

    Raises:
      ValueError: if the segment was packed with another n, or the bytes are no segment.
    """
    context = LEAD + n_step
    longest = ROWS * _COLUMN_BYTES + (ROWS + context) * _FRAME_BYTES
    frame = lz4.frame.LZ4FrameDecompressor()
    try:  # a few bytes from elsewhere could grow to more than there is memory
        data = frame.decompress(packed, longest + 1)
    except RuntimeError as error:
        raise ValueError(f"{len(packed)} bytes can't be decompressed: {error}") from error
    if not frame.eof or frame.unused_data:
        raise ValueError(f"{len(packed)} bytes are no segment: cut off, too long or with a rest")
    rows, rest = divmod(len(data) - context * _FRAME_BYTES, _COLUMN_BYTES + _FRAME_BYTES)
    if rest or not 0 < rows <= ROWS:
        raise ValueError(f"a segment of {len(data)} bytes was not written with {n_step=}")
    columns = (
        np.frombuffer(data, dtype, rows, 4 * rows * i)
        for i, dtype in enumerate((np.int32, np.float32, np.float32))
    )
    frames = np.frombuffer(data, np.uint8, offset=_COLUMN_BYTES * rows)
    return Segment(frames.reshape(-1, *FRAME_SHAPE), *columns)
