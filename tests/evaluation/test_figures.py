"""Pictures: what is drawn where, and how a run's log is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cql_atari.core.types import UserError
from cql_atari.evaluation import charts, figures
from cql_atari.evaluation.tables import Estimate

COLUMNS = {
    "random": {"Pong": Estimate(-20.0, (-21.0, -19.0)), "Breakout": Estimate(1.0)},
    "agent": {"Pong": Estimate(5.0, (2.0, 8.0))},
}


STYLES = figures.styles_of(COLUMNS)


def test_bars_hold_means_and_intervals_where_there_are_any():
    figure = figures.whole(charts.score_bars(COLUMNS, STYLES))
    pong, breakout = figure.axes
    assert [bar.get_width() for bar in pong.patches] == [-20.0, 5.0]
    assert [bar.get_width() for bar in breakout.patches] == [1.0]
    zero, *intervals = (list(line.get_xdata()) for line in [pong.lines[-1], *pong.lines[:-1]])
    assert zero == [0, 0] and intervals == [[-21.0, -19.0], [2.0, 8.0]]
    assert len(breakout.lines) == 1  # a single episode has no interval, nor one of zero width


def test_a_method_has_one_colour_whoever_else_is_there():
    """Cloning is purple and the data are blue, with or without the others; agents differ."""
    few = figures.styles_of(["cloning", "agent"])
    many = figures.styles_of(["random", "best_fixed", "data", "cloning (b)", "agent", "other"])
    assert few["cloning"] == many["cloning (b)"] and few["agent"] == many["agent"]
    assert len({style.colour for style in many.values()}) == len(many)


def test_methods_beyond_the_colours_differ_by_their_marks():
    styles = figures.styles_of([f"agent {i}" for i in range(20)] + ["cloning", "cloning (b)"])
    assert len(set(styles.values())) == len(styles)
    assert styles["cloning"].colour == styles["cloning (b)"].colour


def test_score_curves_show_the_baselines():
    chart = charts.score_curves("c", {"Pong": [(0, -21.0), (10, 3.0)]}, "agent", COLUMNS, STYLES)
    run, random = figures.whole(chart).axes[0].lines
    assert run.get_xydata().tolist() == [[0, -21], [10, 3]]
    assert list(random.get_ydata()) == [-20.0, -20.0]
    assert run.get_color() == STYLES["agent"].colour
    assert random.get_color() == STYLES["random"].colour
    assert list(chart.key) == ["agent", "random"]


def test_recorded_play_has_each_episode_and_the_means_of_tenths():
    curves = {"Pong": {"1": [[(10, 1.0), (100, 5.0)], [(95, 3.0)]], "2": [[(50, 2.0)]]}}
    chart = charts.recorded_play(curves)
    lines = [line.get_xydata().tolist() for line in figures.whole(chart).axes[0].lines]
    assert lines == [
        [[10, 1], [100, 5], [95, 3]], [[15, 1], [95, 4]], [[50, 2]], [[47.5, 2]]
    ]  # fmt: skip
    assert list(chart.key) == ["run 1", "run 2"]
    empty = charts.recorded_play({"Pong": {"1": [[(0, 1.0)]]}})
    assert not empty.key
    assert figures.whole(empty).axes[0].lines[1].get_ydata().tolist() == [1]


def test_two_clones_have_lines_of_their_own_in_the_panel_and_in_the_key():
    columns = {
        label: {"Pong": Estimate(score, None)}
        for label, score in (("cloning", 1.0), ("cloning (best ten percent)", 2.0))
    }
    chart = charts.score_curves(
        "c", {"Pong": [(0, 0.0)]}, "agent", columns, figures.styles_of(columns)
    )
    (panel,) = figures.whole(chart).axes
    first, second = (line.get_linestyle() for line in panel.get_lines()[1:])
    assert first != second
    assert [chart.key[label].dashes for label in columns] == [first, second]


def test_training_curves_are_grouped_by_prefix():
    curves = {
        "loss/td": [(1, 2.0)],
        "loss/cql": [(1, 3.0)],
        "speed/a": [(1, 9.0)],
        "speed/b": [(1, 0.1)],
        "online/frames": [(1, 4_000.0)],
        "online/epsilon": [(1, 0.5)],
    }
    chart = charts.training_curves("training", curves)
    figure = figures.whole(chart)
    assert [axes.get_title() for axes in figure.axes] == [
        "loss",
        "speed/a",
        "speed/b",
        "online/frames",
        "online/epsilon",
    ]
    assert list(chart.key) == ["td", "cql"]
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert colours == [style.colour for style in chart.key.values()]
    assert figure.axes[0].lines[0].get_marker() == "o"  # a single point would be invisible


def test_tick_labels_do_not_overlap():
    """Steps in the millions and scores in the hundred thousands, drawn, label by label."""
    curves = {f"loss/{i}/td": [(k * 1_234_567, 1e5 * k) for k in range(40)] for i in range(6)}
    columns = {
        f"agent (a folder of a long name {i})": {"Pong": Estimate(123_456.0 * i, (-1e5, 1e6)),
                                                 "Boxing": Estimate(-3.0)}
        for i in range(7)
    }  # fmt: skip
    drawn = {
        "training": figures.whole(charts.training_curves("a", curves)),
        "bars": figures.whole(charts.score_bars(columns, figures.styles_of(columns))),
    }
    for figure in drawn.values():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        labels = [
            tick.label1.get_window_extent(renderer)
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
            for tick in axis.get_major_ticks()
            if min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        ]
        assert len(labels) > 12
        for i, label in enumerate(labels):
            assert not any(label.overlaps(other) for other in labels[:i])


def test_figures_that_cannot_be_written_are_a_users_error(tmp_path):
    for out in ("/proc/x", tmp_path / "file" / "below"):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="can't write figures to"):
            figures.save([charts.training_curves("a", {"loss/td": [(1, 2.0)]})], Path(out))


def test_runs_of_one_name_do_not_overwrite_each_others_pictures(tmp_path):
    """Everything below the one folder that was named is drawn, each run under a name of its own."""
    for place, value in (("a/agent", 1), ("b/agent", 2), ("b/cloning", 3)):
        (tmp_path / place).mkdir(parents=True)
        row = {"step": 1, "loss/td": value, "evaluation/score/Pong": value}
        (tmp_path / place / "metrics.jsonl").write_text(json.dumps(row))
    drawn = charts.of_folders(COLUMNS, {}, [tmp_path, tmp_path / "b"], {})
    paths = figures.save(drawn, tmp_path / "figures")
    assert sorted(path.stem for path in paths) == sorted(
        ["scores"]
        + [f"{run}_{what}" for run in ("a_agent", "b_agent", "b_cloning")
           for what in ("scores_by_step", "training")]
    )  # fmt: skip
    assert all(path.is_file() for path in paths)


def group(name, scores, steps, frames=None, ci95=None):
    mean = [sum(column) / len(scores) for column in zip(*scores)]
    return {"name": name, "n": len(scores), "steps": steps, "frames": frames,
            "scores": scores, "mean": mean, "ci95": ci95 or [None] * len(steps)}  # fmt: skip


def learning_curves(groups, columns):
    labels = [*columns, *(group["name"] for group in groups)]
    return charts.learning_curves({"Pong": {"groups": groups}}, columns, figures.styles_of(labels))


def test_learning_curves_show_means_seeds_and_intervals():
    seeds = group("pre-trained encoder", [[0, 2], [2, 6]], [0, 9], ci95=[(-1, 3), (1, 7)])
    alone = group("from scratch", [[0, 1]], [0, 9])
    chart = learning_curves([seeds, alone], COLUMNS)
    (panel,) = figures.whole(chart).axes
    mean, first, second, other, random = panel.lines
    assert mean.get_xydata().tolist() == [[0, 1], [9, 4]]
    assert list(chart.key) == ["pre-trained encoder", "from scratch", "random"]
    assert (list(first.get_ydata()), list(second.get_ydata())) == ([0, 2], [2, 6])
    assert list(other.get_ydata()) == [0, 1] and list(random.get_ydata()) == [-20, -20]
    (band,) = panel.collections  # one seed has none
    assert {tuple(point) for point in band.get_paths()[0].vertices} == {
        (0, -1), (0, 3), (9, 1), (9, 7),
    }  # fmt: skip
    assert chart.x == "gradient steps"


def test_wide_intervals_leave_the_axis_to_the_scores():
    wide = group("a", [[0, 2], [2, 6]], [0, 9], ci95=[(-1000, 1000), (1, 7)])
    (panel,) = figures.whole(learning_curves([wide], {})).axes
    assert panel.get_ylim() == (-1.5, 7.5)  # a quarter of 0 to 6 on either side


@pytest.mark.parametrize(
    "second, label, x",
    [([0, 50], "environment frames", [0, 40]), (None, "gradient steps", [0, 9])],
)
def test_frames_on_the_axis_where_all_count_them(second, label, x):
    groups = [group("a", [[0, 1]], [0, 9], [0, 40]), group("b", [[0, 1]], [0, 9], second)]
    chart = learning_curves(groups, {})
    (panel,) = figures.whole(chart).axes
    assert chart.x == label and list(panel.lines[0].get_xdata()) == x


@pytest.mark.parametrize("count, shape", [(1, (1, 1)), (3, (2, 2)), (6, (2, 3)), (40, (6, 7))])
def test_grids_are_near_square(count, shape):
    chart = figures.Chart("a", "", [str(i) for i in range(count)], lambda panel, title: None)
    panels = figures.whole(chart).axes
    assert len(panels) == count
    assert panels[0].get_gridspec().get_geometry() == shape
