"""An online agent's whole experience as DQN-Replay files, in step with the run's checkpoints.

The files are one stream of episodes. With several environments, whole episodes go into it in the
order in which they end, so suffixes are in the order of time.

Each episode's steps go into a file of its own in `spool/` as they are played. A checkpoint of the
run holds a mark: how many slots of the stream the ended episodes take, and how many steps the
unfinished ones have. A run that goes on from a checkpoint deletes what is newer than its mark: that
is played again, and the checkpoint doesn't count its frames. The episodes that were unfinished at
the mark can't go on, as their consoles are gone. Their steps up to the mark are kept, stored as
ended like games that the frame cap cuts (`"terminal": false` in `episodes.jsonl`). So the log holds
each step that the checkpoint counts, once.

`replay_logs/` and `episodes.jsonl` are written up to the mark of the oldest checkpoint that is
kept, as the run may go back to any; the rest waits in the spool, 7.1 KB per step. Memory is that of
one file group while it is written (7.1 KB per slot).
"""

from __future__ import annotations

import collections
import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cql_atari.core.settings import Config
from cql_atari.core.types import FRAME_SKIP, UserError
from cql_atari.data.dopamine.reader import PADS
from cql_atari.envs import roms
from cql_atari.envs.vector_acting import VectorStep
from cql_atari.feed.online import pace
from cql_atari.recording import spool
from cql_atari.recording.folder import EPISODES, Job
from cql_atari.system import files


class Experience:
    """Call `go_on` once, `add` for every step, `mark` and `publish` around each checkpoint.

    `add` may be called in another thread than the rest.

    Args:
      directory: holds `spool`, `replay_logs` and `episodes.jsonl`.
      job: what is collected.
      config: the run's.
    """

    def __init__(self, directory: Path, job: Job, config: Config):
        self._directory, self._job, self._online = directory, job, config.online
        self._spool, self._replay_logs = directory / "spool", directory / "replay_logs"
        self._rom_md5 = roms.md5(job.game, job.rom_dir)
        self._lock = threading.Lock()
        self._files: dict[int, tuple[int, BinaryIO]] = {}  # of each copy's episode, with its serial
        self._unsynced: list[Path] = []
        self._frames = self._slot = self._next_serial = 0
        self._marks: collections.deque[int] = collections.deque(maxlen=config.train.keep)

    def go_on(self, extra: Mapping[str, Any]) -> None:
        """Sets the log back to the mark of a checkpoint.

        Args:
          extra: what `mark` gave to the checkpoint; {}: the run is new.

        Raises:
          UserError: where the log lacks steps.
        """
        self.close()
        if not extra:
            for folder in (self._spool, self._replay_logs):
                shutil.rmtree(folder, ignore_errors=True)
            (self._directory / EPISODES).unlink(missing_ok=True)
        for folder in (self._spool, self._replay_logs):
            folder.mkdir(exist_ok=True)
        self._frames = extra.get("frames", 0)
        mark = extra.get("experience", {"slot": 0, "under_way": []})
        self._slot, under_way = mark["slot"], dict(mark["under_way"])
        self._marks.clear()
        if extra:
            self._marks.append(self._slot)
        for path in sorted(self._spool.iterdir(), key=lambda path: path.suffix):
            start, serial = path.stem, int(path.suffix[1:])
            self._next_serial = max(self._next_serial, serial + 1)
            if start != spool.UNDER_WAY and int(start) < mark["slot"]:
                continue
            steps = under_way.pop(serial, 0)
            if not steps:
                path.unlink()
                continue
            if path.stat().st_size < steps * spool.STEP.itemsize:
                raise self._damaged(path)
            os.truncate(path, steps * spool.STEP.itemsize)
            self._append(path, serial, steps)
        if under_way:
            raise self._damaged(self._spool / f"*.{min(under_way):08d}")
        self._logged = self._read_logged()

    def add(self, step: VectorStep) -> None:
        """Takes a step of all copies."""
        with self._lock:
            rows = np.zeros(len(step.live), spool.STEP)
            rows["epsilon"] = pace.epsilon(self._online, self._frames)
            self._frames += FRAME_SKIP * int(step.live.sum())
            rows["frame"], rows["action"], rows["reward"] = step.frames, step.actions, step.rewards
            rows["terminal"], rows["frames"] = step.terminals, self._frames
            for copy in np.flatnonzero(step.live).tolist():
                if copy not in self._files:
                    path = self._spool / f"{spool.UNDER_WAY}.{self._next_serial:08d}"
                    self._files[copy] = self._next_serial, open(path, "wb")  # noqa: SIM115
                    self._next_serial += 1
                serial, file = self._files[copy]
                file.write(rows[copy].tobytes())
                if step.terminals[copy] or step.truncations[copy]:
                    steps = file.tell() // spool.STEP.itemsize
                    file.close()
                    del self._files[copy]
                    self._append(Path(file.name), serial, steps)

    def mark(self) -> dict[str, Any]:
        """The mark for the next checkpoint; all steps up to it are on disk then.

        Returns:
          `frames`: emulator frames acted so far, 4 a step; `experience`: for `go_on`.
        """
        with self._lock:
            under_way = []
            for serial, file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
                under_way.append([serial, file.tell() // spool.STEP.itemsize])
            for path in self._unsynced:
                files.sync(path)
            self._unsynced.clear()
            self._marks.append(self._slot)
            return {
                "frames": self._frames,
                "experience": {"slot": self._slot, "under_way": sorted(under_way)},
            }

    def publish(self) -> None:
        """Writes the steps that all kept checkpoints have; call it once the newest one is saved."""
        if len(self._marks) == self._marks.maxlen:
            self._publish(self._marks[0])

    def finish(self, extra: Mapping[str, Any]) -> None:
        """Writes all steps of the run's last checkpoint; then the spool isn't needed any more."""
        self.go_on(extra)
        self._publish(self._slot, last=True)

    def close(self) -> None:
        """Closes the files of episodes under way."""
        for _, file in self._files.values():
            file.close()
        self._files.clear()

    def _append(self, path: Path, serial: int, steps: int) -> None:
        """Makes a file's episode the last of the stream."""
        final = self._spool / f"{self._slot:012d}.{serial:08d}"
        path.rename(final)
        self._unsynced.append(final)
        self._slot += PADS + steps

    def _publish(self, end: int, last: bool = False) -> None:
        """Writes the groups and lines of the episodes that begin before the slot `end`.

        It can be repeated, also after it was interrupted, with the same result.
        """
        size = self._job.slots_per_file
        full = (end + 1) // size
        done = min(spool.count_groups(self._replay_logs), full)
        episodes = spool.list_ended(self._spool, end)
        written = max(done * size - 1, 0)  # slots
        starts = [*(episode.start for episode in episodes), end]
        stops = [min(starts[0], written), *(episode.stop for episode in episodes)]
        for start, stop in zip(starts, stops):
            if start != stop:
                raise self._damaged(self._spool / f"{stop:012d}.*")
        self._log(episodes)
        if done < full or last:
            spool.write_groups(
                self._replay_logs, self._job.game, size, episodes,
                done=done, end=None if last else full * size - 1,
            )  # fmt: skip
        for episode in episodes:
            if episode.stop < full * size and not last:
                episode.path.unlink()

    def _log(self, episodes: list[spool.EndedEpisode]) -> None:
        """Appends the lines that `episodes.jsonl` lacks."""
        with open(self._directory / EPISODES, "a") as file:
            for episode in episodes:
                if episode.start < self._logged:
                    continue
                if episode.start > self._logged:
                    raise self._damaged(self._directory / EPISODES)
                file.write(json.dumps(self._describe(episode)) + "\n")
                self._logged = episode.stop
            file.flush()
            os.fsync(file.fileno())

    def _describe(self, episode: spool.EndedEpisode) -> dict[str, Any]:
        steps = episode.steps()
        return {
            "game": self._job.game,
            "run": self._job.run,
            "score": float(steps["reward"].sum(dtype=float)),
            "clipped_return": float(np.clip(steps["reward"], -1, 1).sum()),
            "length": len(steps),
            "behaviour": self._job.behaviour,
            "epsilon": round(float(steps["epsilon"].mean()), 6),
            "seed": self._job.seed,
            "terminal": bool(steps["terminal"][-1]),
            "rom_md5": self._rom_md5,
            "frames": int(steps["frames"][-1]),
            "slot": episode.start,
        }

    def _read_logged(self) -> int:
        """The slot after the last episode in `episodes.jsonl`; cuts off an incomplete last line."""
        path = self._directory / EPISODES
        if not path.exists():
            return 0
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        os.truncate(path, whole)
        if not whole:
            return 0
        last = json.loads(data[:whole].splitlines()[-1])
        return last["slot"] + PADS + last["length"]

    def _damaged(self, path: Path) -> UserError:
        return UserError(
            f"{path} is missing or damaged, so the log can't go on without a gap. Restore it, or "
            f"remove {self._directory} to begin again."
        )
