"""Returns to go, which the decision transformer is conditioned on."""

from __future__ import annotations

import numpy as np


def returns_to_go(rewards: np.ndarray) -> np.ndarray:
    """float32 [T]: the sum of an episode's rewards [T] from each step to the last, undiscounted."""
    return np.cumsum(rewards[::-1], dtype=np.float64)[::-1].astype(np.float32)
