"""Scores over seeds by hand, and the report of runs that differ by seed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cql_atari.core.types import UserError
from cql_atari.evaluation import (
    charts,
    comparison,
    figures,
    intervals,
    over_seeds,
    players,
    score_files,
)
from tests.evaluation.made_up import episode

PROTOCOL = {"epsilon": 0.001, "sticky": 0.25, "max_frames": 27_000}


def write(folder, label, scores, seed=None, **settings):
    """One episode a score; a training run where there is a seed."""
    episodes = [episode(game, score) for game, values in scores.items() for score in values]
    run = {"label": label}
    if seed is not None:
        data = {"dir": str(folder.parent / "data")}
        run["config"] = {"data": data, "train": {"seed": seed, "steps": 9}, "loss": settings}
    score_files.write(folder / "scores.json", episodes, PROTOCOL, run)


def write_data(folder, game, score):
    place = folder / "data" / game / "1"
    place.mkdir(parents=True)
    (place / "episodes.jsonl").write_text(
        json.dumps({"score": score, "length": 9, "terminal": True}) + "\n"
    )


@pytest.fixture
def runs(tmp_path):
    """Three seeds of an agent and of cloning, each with its own play; the best fixed action."""
    for seed, (agent, cloning, data) in enumerate([(10, 1, 6), (12, 1, 6), (5, 4, 6)], 1):
        folder = tmp_path / "x=1" / str(seed)
        write(folder / "agent", "agent", {"Breakout": [agent, agent + 2], "Freeway": [0]}, seed)
        write(folder / "cloning", "cloning", {"Breakout": [cloning], "Freeway": [21]}, seed)
        write_data(folder, "Breakout", data)
    write(tmp_path / "x=1" / "best_fixed", "best_fixed", {"Breakout": [2], "Freeway": [22]})
    return tmp_path


def groups_of(folder, **options):
    found = players.find_players([folder])
    return over_seeds.find_groups(found.values(), **options), {
        label: player for label, player in found.items() if not over_seeds.is_trained(player)
    }


def test_runs_that_differ_by_seed_and_by_their_own_play_are_one(runs):
    groups, fixed = groups_of(runs)
    assert [group.name for group in groups] == ["cloning", "agent"] and list(fixed) == [
        "best_fixed"
    ]
    agent = groups[1]
    assert {seed: row["Breakout"] for seed, row in agent.scores.items()} == {1: 11, 2: 13, 3: 6}
    assert agent.data == {seed: {"Breakout": 6} for seed in (1, 2, 3)}
    cell = over_seeds.make_columns(groups, fixed)["agent"]["Breakout"]
    assert (cell.mean, cell.ci95, cell.n) == (10, intervals.mean([11, 13, 6]), 3)


def test_differences_are_paired_by_seed_and_counted(runs):
    groups, _ = groups_of(runs)
    breakout, freeway = over_seeds.differences(groups[1].scores, groups[0].scores)
    assert breakout == comparison.Difference("Breakout", 8.0, intervals.mean([10, 12, 2]), (3, 3))
    assert (freeway.value, freeway.ci95, freeway.above) == (-21, (-21, -21), (0, 3))
    assert over_seeds.differences(groups[1].scores, {9: {"Breakout": 1.0}}) == []


def test_the_report_says_what_the_agent_is_above(runs):
    text = over_seeds.report(*groups_of(runs), None, False)
    head, _, breakout, freeway = text.splitlines()[:4]
    assert head.split("  ")[0] == "game" and "data (3 seeds)" in head and "best fixed  " in head
    assert breakout.split() == ["Breakout", "2.0", "6.0", "±", "0.0", "2.0", "±", "4.3",
                                "10.0", "±", "9.0"]  # fmt: skip
    assert freeway.split()[:3] == ["Freeway", "22.0", "-"]
    assert "- agent above the data's mean in 1 of 1 games, in 0 with an interval above 0: " \
        "Breakout +4.0 ± 9.0 (2 of 3 seeds)" in text  # fmt: skip
    assert "agent above cloning in 1 of 2 games, in 0 with an interval above 0: Breakout +8.0 ± " \
        "13.1 (3 of 3 seeds), Freeway -21.0 ± 0.0 (0 of 3 seeds)" in text  # fmt: skip
    assert "agent above the best fixed action in 1 of 2 games" in text


def test_other_settings_are_another_player(runs):
    for seed in (1, 2):
        write(runs / f"x=1/{seed}/mse", "agent", {"Breakout": [seed]}, seed, kind="mse")
    groups, _ = groups_of(runs)
    assert [group.name for group in groups] == ["cloning", "agent", "agent (mse)"]
    assert list(groups[2].scores) == [1, 2]


def test_a_copy_of_a_run_is_another_player(runs):
    copy = runs / "x=1/1/copy"
    copy.mkdir()
    (copy / "scores.json").write_text((runs / "x=1/1/agent/scores.json").read_text())
    names = {group.name: list(group.scores) for group in groups_of(runs)[0]}
    assert names == {"cloning": [1, 2, 3], "agent": [1, 2, 3], f"agent ({copy})": [1]}


@pytest.mark.parametrize("config", [None, [], {"train": 3}, {"train": {"seed": "x"}}])
def test_scores_that_do_not_say_their_seed_are_left_out(tmp_path, config):
    run = {"label": "agent", "config": config}
    score_files.write(tmp_path / "scores.json", [episode("Breakout", 1)], PROTOCOL, run)
    groups, others = groups_of(tmp_path)
    assert groups == [] and list(others) == ["agent"]


def test_scores_against_a_number_in_the_path(runs):
    write(runs / "x=0.5/1/agent", "agent", {"Breakout": [3]}, 1)
    groups, fixed = groups_of(runs, against="x")
    points = over_seeds.curves_against(groups)
    assert [(x, cell.mean, cell.n) for x, cell in points["agent"]["Breakout"]] == [
        (0.5, 3, 1), (1, 10, 3)
    ]  # fmt: skip
    assert list(points) == ["data", "cloning", "agent"]
    text = over_seeds.report(groups, fixed, "x", False)
    assert text.index("x = 0.5") < text.index("x = 1")
    chart = charts.score_against("x", points)
    panels = figures.whole(chart).axes
    assert [panel.get_title() for panel in panels] == ["Breakout", "Freeway"]
    colour = chart.key["agent"].colour
    lines = [list(line.get_xdata()) for line in panels[0].lines if line.get_color() == colour]
    assert lines == [[0.5, 1], [1, 1]]  # the means, and the interval where there are three seeds
    with pytest.raises(UserError, match=r"--against=y: .* has no y=NUMBER"):
        groups_of(runs, against="y")


def test_the_command(runs):
    """What users type: over seeds, and against a number, with its figure and its JSON."""
    command = [sys.executable, "-m", "cql_atari.report", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == over_seeds.report(*groups_of(runs), None, False) + "\n"
    options = ["--against=x", f"--figures={runs / 'f'}", f"--json={runs / 'scores.json'}"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("x = 1\n")
    assert [path.name for path in (runs / "f").iterdir()] == ["scores_against_x.png"]
    _, agent = json.loads((runs / "scores.json").read_text())["scores"]
    assert agent["at"] == 1 and agent["scores"]["2"] == {"Breakout": 13, "Freeway": 0}
