"""Compares what is installed with what this version needs. Imports the standard library only."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import NamedTuple

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"
BREAKS = {
    "absl-py": "every command",
    "av": "videos of episodes",
    "ale-py": "play: other ROMs, other frames",
    "dm-reverb": "the replay feed: each version loads with one TensorFlow only, 0.14 with 2.15",
    "dopamine-rl": "comparison with Dopamine's own buffers",
    "gin-config": "every command",
    "gymnasium": "play",
    "isal": "reading .gz files",
    "lz4": "packed play and the replay's segments",
    "numpy": "everything; TensorFlow 2.15 refuses 2.x",
    "opencv-python-headless": "play (opencv-python in its place needs a desktop's libGL)",
    "pillow": "videos of episodes",
    "protobuf": "TensorFlow 2.15, which refuses 5",
    "psutil": "replays: who can reach their port",
    "safetensors": "exports",
    "scipy": "evaluation and reports",
    "tensorflow": "training: TF-Agents 0.19 and Reverb 0.14 load with 2.15 only",
    "tensorflow-datasets": "RLDS data",
    "tensorflow-metadata": "RLDS data: from 1.17 on it wants protobuf 5",
    "tensorflow-probability": "TF-Agents",
    "tf-agents": "training",
}


class Finding(NamedTuple):
    """One line: state ("ok", "note" or "wrong"), what was checked, what was found, the fix."""

    state: str
    about: str
    text: str
    fix: str = ""


def check_python() -> list[Finding]:
    """CPython 3.10 or 3.11 on x86-64 Linux: what Reverb and ale-py have wheels for."""
    seen = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        text = f"{seen}; Reverb has wheels for x86-64 Linux only"
        return [Finding("wrong", "Python", text, "run it on such a machine or in its container")]
    if not (3, 10) <= sys.version_info[:2] <= (3, 11):
        fix = "apt install python3.11 python3.11-venv && make environment"
        return [Finding("wrong", "Python", f"{seen}; 3.10 or 3.11 is needed", fix)]
    return [Finding("ok", "Python", seen)]


def check_packages(lock: Path = LOCK) -> list[Finding]:
    """Compares installed versions with requirements.lock or, without a checkout, the metadata."""
    if lock.exists():
        lines, all_at_once = lock.read_text().splitlines(), f"-r {lock}"
        pins = [line.split(";")[0] for line in lines if _applies(line)]
    else:
        pins = [pin.split(";")[0] for pin in _requires() if "extra ==" not in pin]
        all_at_once = "cql_atari"
    pip = f"{sys.executable} -m pip install --no-deps"
    wanted = [pin.split("==") for pin in pins if "==" in pin and not pin.startswith("#")]
    if not wanted:
        text = "not compared: neither requirements.lock nor cql_atari's own metadata are here"
        return [Finding("note", "packages", text, "python -m pip install -e . in a checkout")]
    findings, others = [], []
    for name, version in ((name.split("[")[0], version.strip()) for name, version in wanted):
        if (installed := _version(name)) == version:
            continue
        text = f"{name} is {installed}, wanted {version}"
        if broken := BREAKS.get(name.lower().replace("_", "-")):
            fix = f"{pip} {name}=={version}"
            findings.append(Finding("wrong", "packages", f"{text}; breaks {broken}", fix))
        else:
            others.append(text)
    if others:
        text = "; ".join(others[:4]) + (f"; {len(others) - 4} more" if len(others) > 4 else "")
        findings.append(Finding("note", "packages", text, f"{pip} {all_at_once}"))
    return findings or [Finding("ok", "packages", f"{len(wanted)} as wanted")]


def _applies(pin: str) -> bool:
    """Whether a line of the lock is for this Python: it may end in `python_version < "3.11"`."""
    _, _, marker = pin.partition("; python_version ")
    if not marker:
        return True
    comparison, version = marker.split()
    wanted = tuple(int(part) for part in version.strip('"').split("."))
    return (sys.version_info[:2] < wanted) == (comparison == "<")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _requires() -> list[str]:
    try:
        return importlib.metadata.requires("cql_atari") or []
    except importlib.metadata.PackageNotFoundError:
        return []
