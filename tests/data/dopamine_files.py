"""Writes DQN-Replay files with Dopamine's own buffer, for the tests of their readers."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from dopamine.replay_memory.circular_replay_buffer import OutOfGraphReplayBuffer

from cql_atari.core.types import STACK, Episode, UserError
from cql_atari.data.dopamine.format import DOPAMINE

GAME = "Breakout"
CAPACITY = 40
DISCOUNT = 0.5  # exact in float32, so sums may be compared for equality


class Step(NamedTuple):
    """One step to write; `end` is "", "terminal" or "unmarked" (a time-out without a terminal)."""

    end: str = ""
    black: bool = False


class _Collector(OutOfGraphReplayBuffer):
    """Saves as DQN-Replay's collector did: at cursor N - 1, then goes on."""

    def __init__(self, directory: Path, capacity: int, n_step: int) -> None:
        super().__init__((84, 84), STACK, capacity, 1, n_step, DISCOUNT, checkpoint_duration=10**6)
        for array in self._store.values():
            array.view(np.uint8)[:] = 0xFF  # as uninitialised memory may be: NaN, action -1
        self._directory = directory
        self._padding = np.zeros(capacity, bool)
        self._pads = False
        self._paddings: list[np.ndarray] = []

    def _add_zero_transition(self) -> None:
        self._pads = True
        super()._add_zero_transition()
        self._pads = False

    def _add(self, *args) -> None:
        self._padding[self.cursor()] = self._pads
        super()._add(*args)
        if self.cursor() == self._replay_capacity - 1:
            self.flush()

    def flush(self) -> list[np.ndarray]:
        self.save(str(self._directory), len(self._paddings))
        self._paddings.append(self._padding.copy())
        return self._paddings


def write_run(
    directory: Path, steps: list[Step], capacity: int, n_step: int = 1
) -> list[np.ndarray]:
    """Writes full files of `capacity` slots, and a last one with the rest.

    Step i's frame carries i in its first bytes. Returns, for each suffix, which slots are padding.
    """
    buffer = _Collector(directory, capacity, n_step)
    for index, step in enumerate(steps):
        frame = np.zeros((84, 84), np.uint8)
        if not step.black:
            frame[:] = 1 + index % 255
            frame[0, :4] = np.frombuffer(np.uint32(index).tobytes(), np.uint8)
        action, reward = (0, 0.0) if step.black else (index % 4, float(index % 3 - 1))
        buffer.add(
            frame, action, reward, step.end == "terminal", episode_end=step.end == "unmarked"
        )
    return buffer.flush()


def steps_of(*numbers: int) -> list[Step]:
    """Episodes of these lengths, each with a terminal."""
    return [step for n in numbers for step in [Step()] * (n - 1) + [Step("terminal")]]


def file_of(run: Path, name: str, suffix: int = 0) -> Path:
    return run / f"{name}_ckpt.{suffix}.gz"


def read_all(run: Path, suffixes: list[int] | None = None) -> list[Episode]:
    return list(DOPAMINE.read_episodes(run, GAME, suffixes))


def load(path: Path) -> np.ndarray:
    with gzip.open(path) as file:
        return np.load(file)


def store(path: Path, array: np.ndarray, **options) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        np.save(file, array, **options)


def check_error(run: Path, *words: str) -> None:
    """Reading must raise a UserError that holds all these words."""
    with pytest.raises(UserError) as info:
        read_all(run)
    for word in words:
        assert word in str(info.value)
