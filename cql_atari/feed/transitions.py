"""One episode as the replay takes it: padded frames, n-step returns, discounts, valid steps.

The same semantics as dopamine-rl's `OutOfGraphReplayBuffer`: the state of step t is the stack
of frames t-3..t, where frames before the game's start are zeros and such states are valid; the
n-step return is cut at a terminal.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cql_atari.core.types import FRAME_SHAPE, STACK, Episode, Extent

LEAD = STACK - 1  # zero frames before an episode's first frame
_ALIGNMENT = 64  # TensorFlow shares NumPy memory that starts on a cache line


class PaddedEpisode(NamedTuple):
    """One episode of T steps, ready to be cut into transitions.

    Row t is the window `frames[t : t + 4 + n]`: the states of steps t and t + n.

    Attributes:
      frames: uint8 [3 + T + n, 84, 84], zeros before the first frame and after the last.
      actions: int32 [T].
      rewards: float32 [T], sum of gamma^k r_{t+k} over k < n, cut at the episode's end.
      discounts: float32 [T], gamma^n, or 0 where the game ends within the n steps.
      valid: bool [T], which rows are transitions. If the recording was cut, step t + n must have
        been recorded; if it began in mid-game, steps 0..2 have no complete stack.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray
    valid: np.ndarray


def pad(episode: Episode, n_step: int, discount: float) -> PaddedEpisode:
    """Pads an episode and computes its n-step targets. Pure NumPy; copies the frames once."""
    length = len(episode.frames)
    frames = np.zeros((LEAD + length + n_step, *FRAME_SHAPE), np.uint8)
    frames[LEAD : LEAD + length] = episode.frames

    rewards = np.zeros(length, np.float32)
    for k in range(min(n_step, length)):
        rewards[: length - k] += np.float32(discount**k) * episode.rewards[k:]

    discounts = np.full(length, discount**n_step, np.float32)
    valid = np.ones(length, bool)
    within_n_of_end = slice(max(length - n_step, 0), None)
    if episode.terminal:
        discounts[within_n_of_end] = 0
    else:
        valid[within_n_of_end] = False
    if not episode.starts:
        valid[:LEAD] = False
    return PaddedEpisode(frames, np.asarray(episode.actions, np.int32), rewards, discounts, valid)


def count_transitions(extent: Extent, n_step: int) -> int:
    """Transitions of an episode: the valid rows of `pad`."""
    lost = (0 if extent.starts else LEAD) + (0 if extent.terminal else n_step)
    return max(extent.steps - lost, 0)


def empty_frames(*leading: int) -> np.ndarray:
    """Uninitialised uint8 [*leading, 84, 84] that TensorFlow takes without a copy."""
    shape = (*leading, *FRAME_SHAPE)
    size = math.prod(shape)
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % _ALIGNMENT
    return raw[skip : skip + size].reshape(shape)
