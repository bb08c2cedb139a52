"""Made-up episodes for tests."""

from __future__ import annotations

import numpy as np

from cql_atari.core.types import EpisodeScore


def episode(game, score, *, seed=0, mode=0, difficulty=0, actions=(0,), truncated=False):
    counts = np.bincount(actions, minlength=18)
    return EpisodeScore(
        game, float(score), len(actions), truncated, seed, 0, mode, difficulty, "md5",
        tuple(counts.tolist()),
    )  # fmt: skip
