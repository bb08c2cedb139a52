"""The `packed` feed: draws from packed play on disk, uniform over all of it, however much it is.

In memory are the indices (16 bytes per segment of 8 steps, and a few more per episode) and the
next batches. The play itself stays in its files, of which the kernel caches what it can; all cores
decompress it, ahead of the learner.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cql_atari.core.types import Extent, UserError
from cql_atari.data.format import Source
from cql_atari.data.packed import reader
from cql_atari.data.packed.files import FIX, SEGMENT_STEPS, Index, count_segments, decompress
from cql_atari.data.shared import EVERYTHING
from cql_atari.data.steps import Steps
from cql_atari.feed import positions
from cql_atari.feed.positions import Episodes

_OTHER_FILES = 256  # that a process may have open beside the segments


class PackedStore(NamedTuple):
    """An open store of packed play; see `drawing.Store`.

    Attributes:
      episodes: the table of what is selected.
      descriptors: of the segments' open files.
      indices: what is in these files.
      file: int32 [E], the file of each episode.
      first: int64 [E], the number in its file of each episode's first segment.
      whole: int64 [E], steps of each episode as it was packed, where `episodes` has only the first.
    """

    episodes: Episodes
    descriptors: list[int]
    indices: list[Index]
    file: np.ndarray
    first: np.ndarray
    whole: np.ndarray

    @property
    def shared(self) -> None:
        """As `drawing.Store`: nothing is decompressed before it is drawn."""

    def read(self, episode: np.ndarray, first: np.ndarray, out: Steps) -> None:
        """As `drawing.Store`.

        Raises:
          UserError: naming the file, if a segment is damaged.
        """
        count = out.frames.shape[1]
        table = self.episodes
        begins = np.clip(-first, 0, count)
        ends = np.clip(table.steps[episode] - first, 0, count)
        for row, (each, start, begin, end) in enumerate(
            zip(episode.tolist(), first.tolist(), begins.tolist(), ends.tolist())
        ):
            if begin > 0 or end < count:
                for column in out:
                    column[row] = 0
            at = begin
            while at < end:
                number, skip = divmod(start + at, SEGMENT_STEPS)
                stop = min(end, at + SEGMENT_STEPS - skip)
                for column, values in zip(out, self._segment(each, number)):
                    column[row, at:stop] = values[skip : skip + stop - at]
                at = stop

    def _segment(self, episode: int, number: int) -> Steps:
        """An episode's segment of that number."""
        file = self.file[episode]
        index, at = self.indices[file], self.first[episode] + number
        steps = min(SEGMENT_STEPS, self.whole[episode] - number * SEGMENT_STEPS)
        try:
            packed = os.pread(self.descriptors[file], index.lengths[at], index.offsets[at])
        except OSError as error:
            raise UserError(f"{index.segments} can't be read: {error.strerror}. {FIX}") from error
        return decompress(packed, index.checksums[at], int(steps), index.segments)

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


def open_packed(games: Sequence[str], found: Sequence[Source]) -> PackedStore:
    """Opens what is selected of packed play.

    Args:
      games: in the order of `Batch.games`.
      found: the sources, as `sources.find_sources`; each must be packed.

    Raises:
      UserError: if one isn't packed, or a file is missing or damaged.
    """
    if others := [source for source in found if source.format != "packed"]:
        raise UserError(
            f"feed.kind = 'packed', but {others[0].path} isn't packed. Pack it (python -m "
            "cql_atari.tools.pack --data_dir=... --out_dir=OUT) and set data.dir to OUT, or set "
            "feed.kind to 'replay' or 'memory'."
        )
    indices: list[Index] = []
    extents: dict[str, list[Extent]] = {game: [] for game in games}
    columns: list[list[np.ndarray]] = [[np.zeros(0, np.int32)] for _ in range(3)]
    file, first, whole = columns
    for source in sorted(found, key=lambda source: games.index(source.game)):
        for suffix in source.suffixes:
            gaps = source.left_out.get(suffix, ())
            if EVERYTHING in gaps:  # as `verify` leaves out a damaged suffix
                continue
            index, kept = reader.select(source.path, suffix, source.fraction, gaps)
            steps = np.array([extent.steps for extent in index.extents], np.int64)
            segments = count_segments(steps)
            chosen = list(range(len(kept))) if source.best is None else source.best[suffix]
            extents[source.game] += [kept[position] for position in chosen]
            file.append(np.full(len(chosen), len(indices), np.int32))
            first.append((np.cumsum(segments) - segments)[chosen])
            whole.append(steps[chosen])
            indices.append(index._replace(extents=[]))
    return PackedStore(
        positions.episodes(extents),
        _open(indices),
        indices,
        *map(np.concatenate, columns),
    )


def _open(indices: Sequence[Index]) -> list[int]:
    """Descriptors of all files; asks the kernel for more where the usual 1,024 are too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < len(indices) + _OTHER_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opened: list[int] = []
    for index in indices:
        try:
            opened.append(os.open(index.segments, os.O_RDONLY))
            os.posix_fadvise(opened[-1], 0, 0, os.POSIX_FADV_RANDOM)
        except OSError as error:
            for descriptor in opened:
                os.close(descriptor)
            raise UserError(f"{index.segments} can't be opened: {error.strerror}.") from error
    return opened
