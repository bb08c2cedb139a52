"""Pictures: what is drawn where, and how a run's log is read."""

from __future__ import annotations

import pytest

from cql_atari.evaluation import figures
from cql_atari.report import Cell

COLUMNS = {
    "random": {"Pong": Cell(-20.0, (-21.0, -19.0), 3), "Breakout": Cell(1.0, None, 1)},
    "agent": {"Pong": Cell(5.0, (2.0, 8.0), 3)},
}


def test_bars_hold_means_and_intervals():
    figure = figures.score_bars(COLUMNS)
    pong, breakout = figure.axes
    assert [bar.get_height() for bar in pong.patches] == [-20.0, 5.0]
    assert [bar.get_height() for bar in breakout.patches] == [1.0]
    segments = pong.collections[0].get_segments()
    assert [segment[:, 1].tolist() for segment in segments] == [[-21.0, -19.0], [2.0, 8.0]]


def test_score_curves_show_the_baselines():
    figure = figures.score_curves({"evaluation/score/Pong": [(0, -21.0), (10, 3.0)]}, COLUMNS)
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
    figure = figures.training_curves(curves)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "speed/a", "speed/b"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["td", "cql"]


def group(name, scores, steps, frames=None, ci95=None):
    mean = [sum(column) / len(scores) for column in zip(*scores)]
    return {"name": name, "n": len(scores), "steps": steps, "frames": frames, "scores": scores,
            "mean": mean, "ci95": ci95 or [None] * len(steps)}  # fmt: skip


def test_learning_curves_show_means_seeds_and_intervals():
    seeds = group("pre-trained encoder", [[0, 2], [2, 6]], [0, 9], ci95=[(-1, 3), (1, 7)])
    alone = group("from scratch", [[0, 1]], [0, 9])
    figure = figures.learning_curves({"Pong": {"groups": [seeds, alone]}}, COLUMNS)
    (panel,) = figure.axes
    mean, first, second, other, random = panel.lines
    assert mean.get_xydata().tolist() == [[0, 1], [9, 4]]
    assert mean.get_label() == "pre-trained encoder (n = 2)"
    assert (list(first.get_ydata()), list(second.get_ydata())) == ([0, 2], [2, 6])
    assert other.get_label() == "from scratch (n = 1)" and random.get_label() == "random"
    (band,) = panel.collections  # one seed has none
    assert {tuple(point) for point in band.get_paths()[0].vertices} == {
        (0, -1), (0, 3), (9, 1), (9, 7),
    }  # fmt: skip
    assert panel.get_xlabel() == "gradient steps"


def test_wide_intervals_leave_the_axis_to_the_scores():
    wide = group("a", [[0, 2], [2, 6]], [0, 9], ci95=[(-1000, 1000), (1, 7)])
    (panel,) = figures.learning_curves({"Pong": {"groups": [wide]}}, {}).axes
    assert panel.get_ylim() == (-1.5, 7.5)  # a quarter of 0 to 6 on either side


@pytest.mark.parametrize(
    "second, label, x",
    [([0, 50], "environment frames", [0, 40]), (None, "gradient steps", [0, 9])],
)
def test_frames_on_the_axis_where_all_count_them(second, label, x):
    groups = [group("a", [[0, 1]], [0, 9], [0, 40]), group("b", [[0, 1]], [0, 9], second)]
    (panel,) = figures.learning_curves({"Pong": {"groups": groups}}, {}).axes
    assert panel.get_xlabel() == label and list(panel.lines[0].get_xdata()) == x


@pytest.mark.parametrize("count, shape", [(1, (1, 1)), (3, (2, 2)), (6, (2, 3)), (40, (6, 7))])
def test_grids_are_near_square(count, shape):
    figure, panels = figures._grid(count)
    assert len(panels) == count == len(figure.axes)
    assert panels[0].get_gridspec().get_geometry() == shape
