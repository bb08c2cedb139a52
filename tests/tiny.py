"""Small but real parts for tests: episodes, a configuration, an agent of every kind of part."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from cql_atari import config as config_lib
from cql_atari.core import settings
from cql_atari.core.types import Episode, Extent
from cql_atari.feed import drawing, positions
from cql_atari.feed.memory import store as memory
from cql_atari.feed.sampling import BatchLaw
from cql_atari.methods.method import Transitions

MakeDataset = Callable[..., tf.data.Dataset]

GAMES = ("Breakout", "Freeway")
BINDINGS = (
    f"data.games = {GAMES!r}",
    "feed.kind = 'memory'",
    "feed.draws = 4",
    "feed.transitions_per_draw = 2",
    "network.block = 'basic'",
    "network.depths = (1,)",
    "network.widths = (8,)",
    "network.strides = (2,)",
    "network.stem_kernel = 8",
    "network.stem_stride = 8",
    "network.stem_pool = False",
    "network.embedding_blocks = 2",
    "network.feed_forward = (16,)",
    "loss.num_atoms = 11",
    "train.steps = 8",
    "train.steps_per_call = 2",
    "train.target_period = 4",
    "train.log_every = 4",
    "train.save_every = 4",
    "evaluation.every = 0",
    "evaluation.curve_episodes = 1",
    "evaluation.episodes = 2",
    "evaluation.envs_per_game = 2",
    "evaluation.max_frames = 80",
)


def config(*bindings: str) -> settings.Config:
    return config_lib.load((), (*BINDINGS, *bindings))


def episodes(steps: int = 60, seed: int = 0, per_game: int = 2) -> list[Episode]:
    """Random frames, actions of the game's minimal set, rewards in {-1, 0, 1}."""
    random = np.random.default_rng(seed)
    return [
        Episode(
            game,
            random.integers(0, 256, (steps, 84, 84), np.uint8),
            random.choice([0, 1], steps).astype(np.int32),
            random.integers(-1, 2, steps).astype(np.float32),
            terminal=True,
        )
        for game in GAMES
        for _ in range(per_game)
    ]


def store(config: settings.Config, played: list[Episode] | None = None) -> memory.MemoryStore:
    """The episodes in memory, as the configuration's feed keeps them."""
    played = played or episodes()
    extents = {
        game: [Extent(len(e.frames), e.terminal, e.starts) for e in played if e.game == game]
        for game in config.data.games
    }
    return memory.load(played, positions.episodes(extents))


def dataset(config: settings.Config, played: list[Episode] | None = None) -> MakeDataset:
    """Batches of the episodes in memory, as an open feed's: of rows of the global batches."""
    held, feed, k = store(config, played), config.feed, config.train.steps_per_call
    law = BatchLaw(feed.draws, feed.transitions_per_draw)
    reads = Transitions(feed.n_step, feed.discount)
    return lambda rows=slice(None): drawing.dataset(
        held, law, reads, seed=0, start_step=0, steps_per_call=k, rows=rows
    )
