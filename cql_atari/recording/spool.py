"""Episodes of one stream, a plain file each, that wait to become DQN-Replay files.

A file holds the records of an episode's steps. Its name is `<start>.<serial>`: the number of slots
of the stream before it (with three blank ones before each episode, as in Dopamine's buffer), and a
number of its own. While the episode goes on the name is `under_way.<serial>`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import FRAME_SHAPE
from cql_atari.data.dopamine.reader import PADS
from cql_atari.data.dopamine.writer import ReplayWriter
from cql_atari.system import files

UNDER_WAY = "under_way"
# Action of the full set, raw reward, whether the game is over, the run's emulator frames after the
# step, the share of random actions.
STEP = np.dtype(
    [("frame", np.uint8, FRAME_SHAPE), ("action", np.int32), ("reward", np.float32),
     ("terminal", np.bool_), ("frames", np.int64), ("epsilon", np.float32)]
)  # fmt: skip
_LAST = "invalid_range_ckpt"  # the file of a group that is moved in last


class EndedEpisode(NamedTuple):
    """An episode that has ended: the slots [start, stop) of the stream, and its file."""

    start: int
    stop: int
    path: Path

    def steps(self) -> np.ndarray:
        """Records of `STEP` [T], mapped."""
        return np.memmap(self.path, STEP, "r")


def list_ended(spool: Path, end: int) -> list[EndedEpisode]:
    """The episodes that begin before the slot `end`, in the stream's order."""
    found = []
    for path in spool.iterdir():
        if path.stem != UNDER_WAY and int(path.stem) < end:
            steps = path.stat().st_size // STEP.itemsize
            found.append(EndedEpisode(int(path.stem), int(path.stem) + PADS + steps, path))
    return sorted(found)


def count_groups(replay_logs: Path) -> int:
    """How many complete groups there are; the last one may have free slots."""
    return len(list(replay_logs.glob(f"{_LAST}.*")))


def write_groups(
    replay_logs: Path,
    game: str,
    slots_per_file: int,
    episodes: Sequence[EndedEpisode],
    *,
    done: int,
    end: int | None,
) -> None:
    """Writes the groups from number `done` on; it can be repeated with the same result.

    Args:
      replay_logs: where they go; a group is complete once its last file is there.
      game: CamelCase name.
      slots_per_file: as `ReplayWriter`'s.
      episodes: from the first one on that doesn't end in an earlier group.
      done: full groups that are there.
      end: the slot after the last one to be written, where a group ends; None: write all.
    """
    building = replay_logs.with_name("building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    if end is None and not done and episodes:  # all of it: no more memory than it takes
        slots_per_file = min(slots_per_file, episodes[-1].stop + 2)
    writer = ReplayWriter(building, slots_per_file)
    if done and episodes:
        writer.go_on(replay_logs, done, episodes[0].start)
    index = {action: k for k, action in enumerate(games.spec(game).actions)}
    for episode in episodes:
        steps = episode.steps()
        for k, step in enumerate(steps):
            if end is not None and writer.add_count >= end:
                break
            reward = np.clip(step["reward"], -1, 1)
            writer.add(step["frame"], index[int(step["action"])], reward, k == len(steps) - 1)
    if end is None and episodes:
        writer.finish()

    def order(path: Path) -> tuple[int, bool]:
        return int(path.name.split(".")[-2]), path.name.startswith(_LAST)

    for path in sorted(building.iterdir(), key=order):
        files.sync(path)
        files.move(path, replay_logs / path.name)
    building.rmdir()
