"""`system.json`: each start of a run with its time, code, versions and hardware, for reports."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cql_atari.runs import folder
from cql_atari.system import files

_PACKAGES = ("tensorflow", "tf-agents", "dm-reverb", "ale-py", "numpy")
_CODE = Path(__file__).resolve().parents[2]


def record(workdir: Path, devices: Sequence[str], hosts: int = 1) -> None:
    """Adds this start to those of the run. A file that can't be read is begun anew.

    Args:
      workdir: the run's folder.
      devices: names of what it computes on beside processors.
      hosts: that train in step.
    """
    path = workdir / folder.SYSTEM
    starts: list[Any] = []
    if path.is_file():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            starts = list(files.parse_json(path.read_bytes())["starts"])
    commit, changed = _commit(_CODE)
    start = {
        "time": round(time.time(), 3),
        "commit": commit,
        "changed": changed,
        "hardware": {**_hardware(), "devices": list(devices), "hosts": hosts},
        "versions": {"python": platform.python_version(), **_versions()},
    }
    files.write_whole(path, json.dumps({"starts": [*starts, start]}, indent=1) + "\n")


def _hardware() -> dict[str, Any]:
    return {
        "processor": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _first("/proc/meminfo", "MemTotal"),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit(root: Path) -> tuple[str | None, bool | None]:
    """The commit of a checkout, and whether files differ from it; None where that isn't known."""
    if not (root / ".git").exists():  # installed, perhaps in somebody else's checkout
        return None, None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, check=True,
                timeout=10,
            ).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit.strip(), bool(changes.strip())


def _first(path: str, name: str) -> str | None:
    """What follows `name:` in a file of /proc."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
