"""Pictures: what is drawn where, and how a run's log is read."""

from __future__ import annotations

import json

import pytest

from cql_atari.evaluation import plots
from cql_atari.report import Cell

COLUMNS = {
    "random": {"Pong": Cell(-20.0, (-21.0, -19.0), 3), "Breakout": Cell(1.0, None, 1)},
    "agent": {"Pong": Cell(5.0, (2.0, 8.0), 3)},
}


def test_bars_hold_means_and_intervals():
    figure = plots.score_bars(COLUMNS)
    pong, breakout = figure.axes
    assert [bar.get_height() for bar in pong.patches] == [-20.0, 5.0]
    assert [bar.get_height() for bar in breakout.patches] == [1.0]
    segments = pong.collections[0].get_segments()
    assert [segment[:, 1].tolist() for segment in segments] == [[-21.0, -19.0], [2.0, 8.0]]


def test_score_curves_show_the_baselines():
    figure = plots.score_curves({"evaluation/score/Pong": [(0, -21.0), (10, 3.0)]}, COLUMNS)
    run, random = figure.axes[0].lines
    assert run.get_xydata().tolist() == [[0, -21], [10, 3]]
    assert list(random.get_ydata()) == [-20.0, -20.0] and random.get_label() == "random"


def test_training_curves_are_grouped_by_prefix():
    curves = {
        "loss/td": [(1, 2.0)],
        "loss/cql": [(1, 3.0)],
        "speed/a": [(1, 9.0)],
        "speed/b": [(1, 0.1)],
    }
    figure = plots.training_curves(curves)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "speed/a", "speed/b"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["td", "cql"]


def test_log_with_a_resume_and_cut_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "time": 0, "a": 1}, {"step": 3, "a": 3}, {"step": 2, "a": 2}]
    cut = ['{"step": 9, "a"{"step": 10, "a": 1}', "[1]", '{"a": 1}']
    rows.append({"step": 3, "a": 4, "b": 5})
    lines = [*map(json.dumps, rows[:2]), *cut, *map(json.dumps, rows[2:]), '{"step": 9, "a"']
    path.write_text("\n".join(lines))
    assert plots.read_metrics(path) == {"a": [(1, 1.0), (2, 2.0), (3, 4.0)], "b": [(3, 5.0)]}


@pytest.mark.parametrize("count, shape", [(1, (1, 1)), (3, (2, 2)), (6, (2, 3)), (40, (6, 7))])
def test_grids_are_near_square(count, shape):
    figure, panels = plots._grid(count)
    assert len(panels) == count == len(figure.axes)
    assert panels[0].get_gridspec().get_geometry() == shape
