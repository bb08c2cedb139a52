"""What every benchmark shares: repeated measures and one JSON line that says where it ran."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def repeat(measure: Callable[[], float], n: int) -> dict[str, float]:
    """Calls `measure` n times; summarises what it returned.

    For a ratio let `measure` return the ratio itself, so that both sides see the same machine.
    """
    return summarise([measure() for _ in range(n)])


def summarise(results: Sequence[float]) -> dict[str, float]:
    """Median, extremes and number of repeated measures."""
    return {
        "median": statistics.median(results),
        "min": min(results),
        "max": max(results),
        "repeats": len(results),
    }


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns that is called in a new process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def emit(name: str, **values: Any) -> None:
    """Prints one line of JSON: the measure's name, its values, machine, versions, date, commit.

    Floats, also inside the values of `repeat`, are rounded to four significant digits.
    """
    line = {"benchmark": name, **_rounded(values), **_surroundings()}
    print(json.dumps(line), flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _surroundings() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "python": platform.python_version(),
        "numpy": importlib.metadata.version("numpy"),
        "tensorflow": importlib.metadata.version("tensorflow"),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
    }


def _cpu_model() -> str:
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    numbers = "/".join(fields.get(key, "?") for key in ("cpu family", "model", "stepping"))
    return f"{fields.get('model name', platform.processor())} (family/model/stepping {numbers})"


def _commit() -> str:
    """The commit, with `+` where files that belong to it have changed since."""
    command = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    found = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"
