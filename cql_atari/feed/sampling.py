"""The batch law: which games and which transitions make up the batch of one step.

Paper, appendix B.3 (composition reconstructed): 128 games are drawn uniformly with replacement,
then 4 transitions uniformly from each draw's game. Everything here is a pure function of
(seed, step), so a restarted run draws the same batches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class BatchLaw(NamedTuple):
    """`draws` games with replacement, `transitions_per_draw` consecutive rows from each."""

    draws: int
    transitions_per_draw: int

    @property
    def batch_size(self) -> int:
        return self.draws * self.transitions_per_draw


def draw_games(law: BatchLaw, num_games: int, seed: int, step: int) -> np.ndarray:
    """int32 [draws]: the game of each draw, uniform, independent, with replacement."""
    return _random(seed, step, stream=0).integers(num_games, size=law.draws, dtype=np.int32)


def draw_transitions(
    law: BatchLaw, sizes: np.ndarray, seed: int, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of one batch.

    Args:
      law: the batch law.
      sizes: int64 [num_games], how many transitions each game has (none may be 0).
      seed: non-negative, below 2^64.
      step: learner step.

    Returns:
      games int32 [B], the same for each run of `transitions_per_draw` rows and equal to
      `draw_games`; rows int64 [B], uniform below `sizes[games]`, independent, with replacement.
    """
    games = np.repeat(draw_games(law, len(sizes), seed, step), law.transitions_per_draw)
    return games, _random(seed, step, stream=1).integers(sizes[games])


def _random(seed: int, step: int, stream: int) -> np.random.Generator:
    """Philox is counter-based: the key names (seed, step), the counter's high word the stream."""
    key = np.array([seed, step], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=stream << 192))
