"""Fixtures for readers of replay files: a sound run and a copy to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dopamine_files import CAPACITY, steps_of, write_run


@pytest.fixture(scope="session")
def sound(tmp_path_factory) -> Path:
    """A run of two suffixes: a full file and a partial one. Not to be changed."""
    directory = tmp_path_factory.mktemp("sound")
    write_run(directory, steps_of(5, 10, 30), CAPACITY)
    return directory


@pytest.fixture
def run(sound, tmp_path) -> Path:
    """A copy of `sound` to damage."""
    return shutil.copytree(sound, tmp_path / "replay_logs")
