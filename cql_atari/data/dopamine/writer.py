"""Writes play in the DQN-Replay layout: Dopamine's replay buffer, saved each time it is full.

Dopamine's own `OutOfGraphReplayBuffer` lays the slots out (padding, ring, invalid range); this
subclass decides when it is saved, and saves faster. The files are
`$store$_{observation,action,reward,terminal}`, `add_count` and `invalid_range`, each
`_ckpt.K.gz`, a `.npy` stream in plain gzip, never a pickle.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from absl import logging
from dopamine.replay_memory import circular_replay_buffer
from isal import igzip

from cql_atari.core.types import FRAME_SHAPE, STACK
from cql_atari.data.dopamine.files import open_group

_GZIP_LEVEL = 2  # 20 times as fast as Dopamine's gzip 9, for files less than twice as large


class ReplayWriter(circular_replay_buffer.OutOfGraphReplayBuffer):
    """Call `add(frame, action, reward, terminal)` for each step, then `finish()`.

    Three zero slots go before each episode. File K is written the moment the number of slots
    added is -1 modulo `slots_per_file`, so its last slot is stale: not written yet in file 0, and
    in a later file what belongs between its predecessor's last slot but one and its own first.

    Args:
      directory: the existing folder to write into (`<data_dir>/<Game>/<run>/replay_logs`).
      slots_per_file: steps and padding in a file; a million in the DQN-Replay bucket. Memory is
        7.1 KB for each slot used so far, up to this many.
    """

    def __init__(self, directory: Path, slots_per_file: int):
        self._replay_capacity: int
        self._store: dict[str, np.ndarray]
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.WARNING)  # Dopamine logs a line for each argument
        super().__init__(FRAME_SHAPE, STACK, slots_per_file, batch_size=1)
        logging.set_verbosity(verbosity)
        self._directory = directory
        self._files = 0
        self._known = 0

    def go_on(self, directory: Path, files: int, begin: int) -> None:
        """Goes on after full files that an earlier writer has left.

        Args:
          directory: where they are.
          files: how many.
          begin: the place in the stream of slots at which the next `add` begins an episode, its
            padding included; what these files hold of it already is passed over.
        """
        with open_group(directory, files - 1) as group:
            for name in self._store:
                prefixed = circular_replay_buffer.STORE_FILENAME_PREFIX + name
                self._store[name] = group.files[prefixed].read_all()
        self.add_count = np.array(files * self._replay_capacity - 1)
        self._files, self._known = files, int(self.add_count) - begin

    def finish(self) -> None:
        """Writes the slots that no file holds yet.

        If they don't fill the first file, it is cut to these slots and the stale one, so that it
        reads like a full file of that size. A later file keeps its size: its slots from `add_count`
        modulo its size on are the previous file's. If only the stale slot is left, it gets no file,
        as readers drop this slot of every file.
        """
        slots = int(self.add_count)
        if slots % self._replay_capacity in (0, self._replay_capacity - 1):
            return
        if slots < self._replay_capacity:
            self._replay_capacity = slots + 1
            self._store = {name: array[: slots + 1] for name, array in self._store.items()}
            self.invalid_range = circular_replay_buffer.invalid_range(
                slots, slots + 1, STACK, self._update_horizon
            )
        self._write()

    def _create_storage(self) -> None:
        # Zeroed by the kernel on first touch: memory grows with use, and the stale slot of the
        # first file is the same in every run.
        self._store = {
            element.name: np.zeros((self._replay_capacity, *element.shape), element.type)
            for element in self.get_storage_signature()
        }

    def _add_transition(self, transition: dict[str, np.ndarray]) -> None:
        if self._known > 0:
            self._known -= 1
            return
        super()._add_transition(transition)
        if self.add_count % self._replay_capacity == self._replay_capacity - 1:
            self._write()

    def _write(self) -> None:
        prefix = circular_replay_buffer.STORE_FILENAME_PREFIX
        arrays = {prefix + name: array for name, array in self._store.items()}
        arrays |= {"add_count": self.add_count, "invalid_range": self.invalid_range}
        for name, array in arrays.items():
            path = self._directory / f"{name}_ckpt.{self._files}.gz"
            with (
                open(path, "wb") as file,
                igzip.IGzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as stream,
            ):
                np.save(stream, array, allow_pickle=False)
        self._files += 1
