"""Small episodes whose every frame can be told from every other by its first pixels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cql_atari.core.types import FRAME_SHAPE, Episode, Extent


def make_episode(
    number: int, length: int, *, game: str = "Pong", terminal: bool = True, starts: bool = True
) -> Episode:
    """Frame t holds (number + 1, t + 1, 0, ...): no real frame is all zeros."""
    random = np.random.default_rng(number)
    frames = np.zeros((length, *FRAME_SHAPE), np.uint8)
    frames[:, 0, 0] = number + 1
    frames[:, 0, 1] = np.arange(length) + 1
    frames[:, 83, 83] = random.integers(1, 256, length)
    return Episode(
        game=game,
        frames=frames,
        actions=random.integers(18, size=length, dtype=np.int32),
        rewards=random.integers(-1, 2, size=length).astype(np.float32),
        terminal=terminal,
        starts=starts,
    )


def extent(episode: Episode) -> Extent:
    return Extent(len(episode.frames), episode.terminal, episode.starts)


def extents(episodes: Iterable[Episode], games: Iterable[str]) -> dict[str, list[Extent]]:
    """The extents of episodes of several games, by game."""
    found = {game: [] for game in games}
    for episode in episodes:
        found[episode.game].append(extent(episode))
    return found


def tags(frames: np.ndarray) -> np.ndarray:
    """uint8 [..., W, 2]: the (number + 1, t + 1) of each frame of windows [..., W, 84, 84]."""
    return np.asarray(frames)[..., 0, :2]


def keys(batch) -> list[tuple]:
    """Every transition of a batch of any leading shape as a hashable (tags, action, r, d, game)."""
    windows = tags(batch.frames).reshape(-1, batch.frames.shape[-3] * 2)
    columns = [np.asarray(c).reshape(-1).tolist() for c in batch[1:]]
    return [(bytes(window), *rest) for window, *rest in zip(windows, *columns)]
