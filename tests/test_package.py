"""The wheel: built from this checkout, it works from any folder and brings its gin files."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds what a wheel of this checkout installs."""
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    source.mkdir()
    for name in ("cql_atari", "gin_configs", "setup.py", "pyproject.toml", "README.md"):
        (source / name).symlink_to(ROOT / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)],
        cwd=source, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(out / "site")
    return out / "site"


def run(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cql_atari", *words], cwd=cwd, text=True, capture_output=True,
        check=False, env={**os.environ, "PYTHONPATH": str(installed)},
    )  # fmt: skip


def test_gin_files_and_tables_travel_with_the_wheel(installed):
    gin_files = {path.relative_to(ROOT) for path in ROOT.glob("gin_configs/**/*.gin")}
    assert gin_files
    assert all((installed / "cql_atari" / path).is_file() for path in gin_files)
    assert (installed / "cql_atari" / "core" / "atari_games.csv").is_file()
    assert all(
        (installed / f"cql_atari/evaluation/page.{kind}").is_file() for kind in ("css", "js")
    )
    entry = (next(installed.glob("*.dist-info")) / "entry_points.txt").read_text()
    assert "cql-atari = cql_atari.__main__:main" in entry


def test_it_works_from_any_folder(installed, tmp_path):
    # A file that includes others, from a folder that holds none of them.
    ended = run(installed, tmp_path, "train", "--gin_files=gin_configs/quickstart.gin",
                "--gin_bindings=data.dir='nowhere'", f"--workdir={tmp_path / 'run'}")  # fmt: skip
    assert ended.returncode == 2
    assert "nowhere" in ended.stderr and "Traceback" not in ended.stderr


def test_the_commands_are_listed_and_an_unknown_one_is_refused(installed, tmp_path):
    listed = run(installed, tmp_path).stdout
    assert all(word in listed for word in ("train", "collect", "evaluate", "report", "verify"))
    ended = run(installed, tmp_path, "trian")
    assert ended.returncode == 2
    assert "no command 'trian'" in ended.stderr and "train" in ended.stderr


def test_the_dockerfiles_steps_run_in_an_empty_folder(tmp_path):
    # `make environment` takes minutes and a network: here something else makes its .venv.
    stand_in = tmp_path / "bin" / "make"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/bin/sh\nmkdir -p .venv/bin && ln -s "{sys.executable}" .venv/bin/python && ls > made\n'
    )
    stand_in.chmod(0o755)
    ended = subprocess.run(
        [ROOT / ".ci" / "container_steps.sh", tmp_path / "image"], text=True, capture_output=True,
        check=False, env={**os.environ, "PATH": f"{stand_in.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "commands: " in ended.stdout and "+ COPY . ." in ended.stdout
    # What a layer that is built before the rest of the repository is copied has to go on.
    there = (tmp_path / "image" / "made").read_text().split()
    assert {"Makefile", "requirements.lock", "setup.py", "cql_atari", "gin_configs"} <= {*there}
    assert "tests" not in there and (tmp_path / "image" / "tests").is_dir()
    assert not (tmp_path / "image" / ".git").exists()
