"""CI's own script: it tells what the tests took, and fails where they took too much memory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "took, tests_end_with, code, said",
    [
        ("9.1 minutes, 3.40 GB", 0, 0, ""),
        ("15.2 minutes, 3.40 GB", 0, 0, "WARNING: THE TESTS TOOK 15.2 MINUTES"),
        ("9.1 minutes, 6.01 GB", 0, 1, "FAILURE: THE TESTS HELD 6.01 GB"),
        ("9.1 minutes, 3.40 GB", 2, 2, ""),
    ],
)
def test_too_long_is_told_and_too_much_memory_fails(tmp_path, took, tests_end_with, code, said):
    usage = f"{took} of memory at most over all processes"
    stand_in = tmp_path / "make"
    stand_in.write_text(
        f'#!/bin/sh\n[ "$1" = test ] || exit 0\necho "{usage}"\necho 7 passed\n'
        f"exit {tests_end_with}\n"
    )
    stand_in.chmod(0o755)
    ended = subprocess.run(
        [ROOT / ".ci" / "run"], env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    assert ended.stdout.splitlines()[-1] == usage
    told = [line for line in ended.stdout.splitlines() if line.startswith(("WARNING", "FAILURE"))]
    assert [line.startswith(said) for line in told] == ([True] if said else [])
