"""Steps of episodes with their returns to go, which the decision transformer is conditioned on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Steps(NamedTuple):
    """Consecutive steps of an episode, [R], or of an episode per row, [..., R].

    Attributes:
      frames: uint8 [..., R, 84, 84].
      actions: uint8 [..., R], of the full 18.
      rewards: float32 [..., R].
      returns: float32 [..., R], the sum of the rewards from each step to the episode's last.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    returns: np.ndarray


def returns_to_go(rewards: np.ndarray) -> np.ndarray:
    """float32 [T]: the sum of an episode's rewards [T] from each step to the last, undiscounted."""
    return np.cumsum(rewards[::-1], dtype=np.float64)[::-1].astype(np.float32)
