"""Reading replay files: frames/s against `gzip -dc`, time to the first episode, peak memory.

The files hold real play (uniformly random, sticky actions), compressed by zlib at the level that
Dopamine uses; a stretch of play is compressed once and its bytes repeated, so that a million slots
take seconds to write. Nothing stays behind.

Usage: python benchmarks/reading.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
from isal import isal_zlib

from cql_atari.core import games
from cql_atari.core.types import FRAME_SHAPE
from cql_atari.data.dopamine.files import open_group
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.shared import PADS
from cql_atari.envs.atari import AtariEnv
from cql_atari.system.progress import over

GAMES = ("Seaquest", "Breakout")  # one that compresses poorly, one that does well
STRETCH = 5_000  # slots of real play, repeated
SLOTS = 100_000  # of the files that speed is measured on
MANY_SLOTS = 1_000_000  # of the files that memory and the first episode are measured on
OBSERVATION = "$store$_observation_ckpt.0.gz"


def write_run(directory: Path, game: str, slots: int) -> None:
    """Writes one full suffix of random play in DQN-Replay's layout.

    Args:
      directory: an existing empty one.
      game: CamelCase name.
      slots: rounded up to whole stretches.
    """
    stretch = _play(game)
    repeats = math.ceil(slots / len(stretch["terminal"]))
    slots = repeats * len(stretch["terminal"])
    for name, array in stretch.items():
        _write_repeated(directory / f"$store$_{name}_ckpt.0.gz", array, repeats)
    _write_repeated(directory / "add_count_ckpt.0.gz", np.array(slots - 1), 1)
    _write_repeated(directory / "invalid_range_ckpt.0.gz", np.arange(-2, 3) % slots, 1)


def _play(game: str) -> dict[str, np.ndarray]:
    """Whole games of random play with their padding, at least STRETCH slots."""
    env, rng, full = AtariEnv(game, seed=0), np.random.default_rng(0), games.to_full_actions(game)
    slots: list[tuple[np.ndarray, int, float, bool]] = []
    while len(slots) < STRETCH:
        slots += [(np.zeros(FRAME_SHAPE, np.uint8), 0, 0.0, False)] * PADS
        frame, ended = env.reset(), False
        while not ended:
            action = int(rng.integers(len(full)))
            successor, reward, terminal, truncated = env.step(int(full[action]))
            ended = terminal or truncated
            slots.append((frame, action, float(np.clip(reward, -1, 1)), ended))
            frame = successor
    names = ("observation", "action", "reward", "terminal")
    dtypes = (np.uint8, np.int32, np.float32, np.uint8)
    return {n: np.array(x, d) for n, x, d in zip(names, zip(*slots), dtypes)}


def _write_repeated(path: Path, array: np.ndarray, repeats: int) -> None:
    """Writes `array`, laid end to end, as one gzip member over one `.npy` stream."""
    shape = (repeats * array.shape[0], *array.shape[1:]) if array.shape else ()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
    )
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)

    def compress(data: bytes) -> bytes:
        # A full flush ends on a byte and forgets the past, so the bytes may stand anywhere.
        return compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH)

    body = array.tobytes()
    opening, middle = compress(header.getvalue()), compress(body)
    checksum = isal_zlib.crc32(header.getvalue())
    for _ in range(repeats):
        checksum = isal_zlib.crc32(body, checksum)
    size = len(header.getvalue()) + repeats * len(body)
    with open(path, "wb") as file:
        file.write(b"\x1f\x8b\x08\0\0\0\0\0\x02\xff" + opening)
        for _ in range(repeats):
            file.write(middle)
        file.write(compressor.flush(zlib.Z_FINISH))
        file.write(checksum.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little"))
        os.fsync(file.fileno())


@contextlib.contextmanager
def files(game: str, slots: int) -> Iterator[Path]:
    """A temporary directory with `write_run`'s files."""
    with tempfile.TemporaryDirectory() as name:
        write_run(Path(name), game, slots)
        yield Path(name)


def forget(directory: Path) -> None:
    """Drops the files from the page cache, so that reading them is cold."""
    for path in directory.iterdir():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def count_frames(directory: Path) -> int:
    """Valid slots of the only suffix."""
    with open_group(directory, 0) as group:
        return group.valid


def frames_per_second(game: str, directory: Path) -> float:
    """Slots that `read_episodes` passes in a second, everything checked."""
    start = time.perf_counter()
    for episode in DOPAMINE.read_episodes(directory, game):
        del episode  # a consumer that keeps it doubles the peak
    return count_frames(directory) / (time.perf_counter() - start)


def gzip_seconds(path: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["gzip", "-dc", path], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def read_apart(game: str, directory: Path, started: float) -> tuple[float, float, float]:
    """For a process of its own: seconds to the first episode, peak MB before and after reading.

    Args:
      game: CamelCase name.
      directory: the files.
      started: `time.monotonic()` before this process was started.
    """
    before = peak_mb()
    next(DOPAMINE.read_episodes(directory, game))
    first = time.monotonic() - started
    frames_per_second(game, directory)
    return first, before, peak_mb()


def peak_mb() -> float:
    """Peak resident memory since the interpreter started (ru_maxrss inherits the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def measure_speed(game: str, rounds: int) -> None:
    with files(game, SLOTS) as directory:
        observations = directory / OBSERVATION
        ours, gzips = [], []
        for _ in over(range(rounds), f"speed, {game}", "rounds"):
            gzips.append(count_frames(directory) / gzip_seconds(observations))
            ours.append(frames_per_second(game, directory))
        common.emit(
            "reading",
            game=game,
            frames=count_frames(directory),
            bytes_per_frame_on_disk=observations.stat().st_size / count_frames(directory),
            frames_per_s=common.summarise(ours),
            gzip_dc_frames_per_s=common.summarise(gzips),
            ratio_to_gzip_dc=common.summarise([a / b for a, b in zip(ours, gzips)]),
        )


def measure_memory(game: str, rounds: int) -> None:
    with files(game, MANY_SLOTS) as directory:
        results = []
        for _ in over(range(rounds), f"memory, {game}", "rounds"):
            forget(directory)
            results.append(common.apart(read_apart, game, directory, time.monotonic()))
        first, before, after = (common.summarise(values) for values in zip(*results))
        common.emit(
            "reading_memory",
            game=game,
            frames=count_frames(directory),
            array_mb=count_frames(directory) * math.prod(FRAME_SHAPE) / 1e6,
            longest_episode_mb=max(e.frames.nbytes for e in DOPAMINE.read_episodes(directory, game))
            / 1e6,
            first_episode_s_from_process_start=first,
            peak_mb_before_reading=before,
            peak_mb=after,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for game in GAMES:
        measure_speed(game, rounds)
    measure_memory(GAMES[0], 3)


if __name__ == "__main__":
    main()
