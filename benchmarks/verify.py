"""Verifying against `gzip -t` on the same files: seconds, their ratio, peak memory.

The files are `reading.py`'s: real play, compressed by zlib at Dopamine's level. `verify` runs as
the command, start of the interpreter included; `gzip -t` gets all files in one call.

Usage: python benchmarks/verify.py [--rounds 5] [--slots 200000]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import reading

from cql_atari.system.progress import over

SUFFIXES = 2


def write_data(data: Path, game: str, slots: int) -> list[Path]:
    """A data folder with SUFFIXES alike suffixes of one run; returns its files."""
    logs = data / game / "1" / "replay_logs"
    logs.mkdir(parents=True)
    reading.write_run(logs, game, slots)
    for path in list(logs.iterdir()):
        for suffix in range(1, SUFFIXES):
            (logs / path.name.replace("_ckpt.0.", f"_ckpt.{suffix}.")).write_bytes(
                path.read_bytes()
            )
    return list(logs.iterdir())


def verify(data: Path) -> tuple[float, float]:
    """Seconds and peak resident MB of the command."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "cql_atari.tools.verify", data],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if "VmHWM:" in status:
            peak = int(status.split("VmHWM:")[1].split()[0])
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"verify ended with {process.returncode}")
    return time.perf_counter() - start, peak * 1024 / 1e6


def gzip_test(files: list[Path]) -> float:
    """Seconds of `gzip -t`."""
    start = time.perf_counter()
    subprocess.run(["gzip", "-t", *files], check=True)
    return time.perf_counter() - start


def measure(game: str, slots: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        files = write_data(Path(name), game, slots)
        verify(Path(name))  # both then find the files in memory
        gzips, ours, peaks = [], [], []
        for _ in over(range(rounds), f"verify, {game}", "rounds"):
            gzips.append(gzip_test(files))
            seconds, peak = verify(Path(name))
            ours.append(seconds)
            peaks.append(peak)
        common.emit(
            "verify",
            game=game,
            suffixes=SUFFIXES,
            slots_per_suffix=slots,
            bytes_on_disk=sum(path.stat().st_size for path in files),
            verify_s=common.summarise(ours),
            gzip_t_s=common.summarise(gzips),
            speed_over_gzip_t=common.summarise([a / b for a, b in zip(gzips, ours)]),
            peak_mb=common.summarise(peaks),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=200_000)
    options = parser.parse_args()
    for game in reading.GAMES:
        measure(game, options.slots, options.rounds)


if __name__ == "__main__":
    main()
