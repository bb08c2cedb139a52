"""The tour, docs/tour.ipynb: its cells run in order, and it is kept without their outputs.

A small runner stands in for Jupyter's, whose packages want a newer typing_extensions than
TensorFlow 2.15 allows: cells are plain Python here, without magics.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import matplotlib
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


def test_the_cells_run_in_order(tmp_path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    made: dict = {}
    for number, source in enumerate(CODE):
        exec(compile(source, f"cell {number}", "exec"), made)
    assert made["losses"][-1] < made["losses"][0]
    there = {path.name for path in made["folder"].iterdir()}
    assert {"data", "agent", "random", "report.html", "agent.gif"} <= there
    assert made["picture"].shape[:2] == (476, 960)
