"""The tour, docs/tour.ipynb: its cells run in order, and it is kept without their outputs.

A small runner stands in for Jupyter's, whose packages want a newer typing_extensions than
TensorFlow 2.15 allows: cells are plain Python here, without magics.
"""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import matplotlib
import processes
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = json.loads((ROOT / "docs" / "tour.ipynb").read_text())
CODE = ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]


def test_it_is_a_notebook_without_outputs():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in NOTEBOOK["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert len(CODE) == 10


@pytest.mark.parametrize("number", range(len(CODE)))
def test_a_cell_is_short_and_plain(number):
    assert len(CODE[number].splitlines()) <= 26
    ast.parse(CODE[number])  # no magics


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """What `subprocess.run` was asked for; the commands run in forked processes, in our folder."""
    asked = []

    def run(command, *, check):
        asked.append(command[2].removeprefix("cql_atari."))
        ended = processes.run(command)
        assert check and ended.returncode == 0, ended.stderr

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_the_cells_in_python_run_in_order(commands):
    """On a tenth of the play; `make proof` runs all, and the commands that follow."""
    made: dict = {}
    for number, source in enumerate(CODE[:6]):
        less = source.replace("=2100", "=200")
        exec(compile(less, f"cell {number}", "exec"), made)
    assert commands == ["collect"] and len(made["losses"]) == 20
    assert made["losses"][-1] < made["losses"][0]


@pytest.mark.proof
def test_the_cells_run_in_order(commands):
    made: dict = {}
    for number, source in enumerate(CODE):
        exec(compile(source, f"cell {number}", "exec"), made)
    assert commands == ["collect", "train", "evaluate", "report", "play"]
    assert made["losses"][-1] < made["losses"][0]
    there = {path.name for path in made["folder"].iterdir()}
    assert {"data", "agent", "random", "report.html", "agent.gif"} <= there
    assert made["picture"].shape[:2] == (476, 960)
