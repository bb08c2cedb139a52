"""The `memory` feed's store: every frame once, in RAM or in mapped files.

A step takes its frame (7,056 bytes) and 9 bytes of columns. The total is known from the extents of
the episodes, before any is read; reading needs one episode more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from cql_atari.core.types import FRAME_SHAPE, Episode, UserError
from cql_atari.data.steps import Steps, returns_to_go
from cql_atari.feed.positions import Episodes
from cql_atari.feed.transitions import empty_frames
from cql_atari.system.progress import Progress

Write = Callable[[str, int, np.ndarray], None]  # column of a `MemoryStore`, first step, values
COLUMNS: dict[str, tuple[tuple[int, ...], type]] = {  # shape of a step, dtype
    "frames": (FRAME_SHAPE, np.uint8),
    "actions": ((), np.uint8),
    "rewards": ((), np.float32),
    "returns": ((), np.float32),
}


class MemoryStore(NamedTuple):
    """Whole episodes in memory, one behind the other; see `drawing.Store`.

    Attributes:
      episodes: their table.
      firsts: int64 [E], where each begins in the columns.
      frames: uint8 [N, 84, 84]; in RAM one more, zeros.
      actions: uint8 [N], of the full 18.
      rewards: float32 [N].
      returns: float32 [N], the sum of the rewards from each step to the episode's last.
      let_go: drops the resident pages of mapped files, which the kernel maps again when they are
        used; None in RAM. Linux may map 2 MB around each page that is read, so each read calls it.
    """

    episodes: Episodes
    firsts: np.ndarray
    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    returns: np.ndarray
    let_go: Callable[[], None] | None = None

    @property
    def shared(self) -> np.ndarray | None:
        """As `drawing.Store`: the frames in RAM."""
        return self.frames if self.let_go is None else None

    def read(self, episode: np.ndarray, first: np.ndarray, out: Steps) -> None:
        """As `drawing.Store`."""
        if self.let_go is not None:
            self.let_go()
        step = first[:, None] + np.arange(out.actions.shape[1])
        inside = (step >= 0) & (step < self.episodes.steps[episode][:, None])
        at = np.where(inside, self.firsts[episode][:, None] + step, 0)
        columns = [self.actions, self.rewards, self.returns]
        if self.shared is not None:
            out.frames[:] = np.where(inside, at, len(self.frames) - 1)
        else:
            columns.insert(0, self.frames)
        for mine, column in zip(columns, out[-len(columns) :]):
            np.take(mine, at, axis=0, out=column, mode="clip")  # "raise" would copy it once more
            if not inside.all():
                column[~inside] = 0


def num_bytes(episodes: Episodes) -> int:
    """Bytes of the columns of a store of these episodes."""
    steps = int(episodes.steps.sum())
    return sum(
        steps * int(np.prod(shape, initial=1)) * np.dtype(dtype).itemsize
        for shape, dtype in COLUMNS.values()
    )


def load(played: Iterable[Episode], episodes: Episodes) -> MemoryStore:
    """Reads all episodes into RAM; arguments and errors as `fill`."""
    steps = int(episodes.steps.sum())
    columns: dict[str, Any] = {
        name: np.empty((steps, *shape), dtype)
        for name, (shape, dtype) in COLUMNS.items()
        if name != "frames"
    }
    columns["frames"] = empty_frames(steps + 1)
    columns["frames"][steps] = 0

    def write(name: str, start: int, values: np.ndarray) -> None:
        columns[name][start : start + len(values)] = values

    fill(write, played, episodes)
    return MemoryStore(episodes, episodes.firsts, **columns)


def fill(write: Write, played: Iterable[Episode], episodes: Episodes) -> None:
    """Writes every element of a store's columns.

    Args:
      write: stores values.
      played: the episodes of the table: each game's in order, the games in any.
      episodes: the table.

    Raises:
      UserError: if the episodes don't match the table.
    """
    after = np.cumsum(episodes.counts).tolist()
    waiting: dict[str, Iterator[int]] = {
        game: iter(range(end - count, end))
        for game, end, count in zip(episodes.games, after, episodes.counts.tolist())
    }
    steps, terminal = episodes.steps.tolist(), episodes.terminal.tolist()
    starts, firsts = episodes.starts.tolist(), episodes.firsts.tolist()

    def add(episode: Episode) -> int:
        number = next(waiting[episode.game], None)
        found = (len(episode.frames), episode.terminal, episode.starts)
        if number is None or found != (steps[number], terminal[number], starts[number]):
            raise UserError(_CHANGED)
        for name, values in (
            ("frames", episode.frames),
            ("actions", episode.actions),
            ("rewards", episode.rewards),
            ("returns", returns_to_go(episode.rewards)),
        ):
            write(name, firsts[number], values)
        return len(episode.frames)

    total = int(episodes.steps.sum())
    with Progress("loading", "frames", total) as line:
        # Not a loop over episodes: its variable would keep one while the next is read.
        for added in map(add, played):
            line.add(added)
    if any(next(left, None) is not None for left in waiting.values()):
        raise UserError(_CHANGED)


_CHANGED = (
    "the data changed while they were read: other episodes than were counted before. Run the same "
    "command once nothing writes to them any more."
)


def check_budget(episodes: Episodes, limit: float, source: str) -> None:
    """Refuses what wouldn't fit, before anything is read.

    Args:
      episodes: the table.
      limit: bytes that the store may take.
      source: where the limit comes from.

    Raises:
      UserError: with the bytes that it would take.
    """
    needed = num_bytes(episodes)
    if needed > limit:
        raise UserError(
            f"feed.kind = 'memory' would take {needed / 1e9:.3g} GB for "
            f"{int(episodes.steps.sum()):,} steps; it may take {limit / 1e9:.3g} GB "
            f"({source}). Pack the data (python -m cql_atari.tools.pack) and set feed.kind = "
            "'packed', which takes little memory whatever the data; or set feed.kind = 'replay'; "
            f"or data.fraction to {limit / needed:.2g} of what it is or less; or feed.cache_dir to "
            "a folder for memory-mapped files; or feed.memory_gb, if there is more."
        )
