"""Runs that differ by seed as one player, and differences between players, by hand."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from made_up import PROTOCOL, episode, write_data, write_scores

from cql_atari.core.types import UserError
from cql_atari.evaluation import comparison, groups, intervals, score_files, text_report
from cql_atari.evaluation.comparison import Comparison, Difference


@pytest.fixture
def runs(tmp_path):
    """Three seeds of an agent and of cloning, each with its own play; the best fixed action."""
    for seed, (agent, cloning, data) in enumerate([(10, 1, 6), (12, 1, 6), (5, 4, 6)], 1):
        folder = tmp_path / "x=1" / str(seed)
        write_scores(folder / "agent", "agent", {"Breakout": [agent, agent + 2], "Freeway": [0]},
                     seed)  # fmt: skip
        write_scores(folder / "cloning", "cloning", {"Breakout": [cloning], "Freeway": [21]}, seed)
        write_data(folder, "Breakout", data)
    write_scores(tmp_path / "x=1/best_fixed", "best_fixed", {"Breakout": [2], "Freeway": [22]})
    return tmp_path


def groups_of(folder, against=None):
    return groups.make(score_files.find_scores([folder]), [folder], against)


def by_name(folder, against=None):
    return {group.name: group for group in groups_of(folder, against)}


def test_runs_that_differ_by_seed_and_by_their_own_play_are_one(runs):
    found = by_name(runs)
    assert list(found) == ["best_fixed", "data", "cloning", "agent"]
    assert {name: group.seeds for name, group in found.items()} == {
        "best_fixed": [], "data": [1, 2, 3], "cloning": [1, 2, 3], "agent": [1, 2, 3],
    }  # fmt: skip
    assert groups.means(found["agent"])["Breakout"] == [11, 13, 6]
    cell = groups.cells(found["agent"])["Breakout"]
    assert (cell.value, cell.ci95) == (10, intervals.mean([11, 13, 6]))


def test_differences_are_paired_by_seed_and_counted(runs):
    found = by_name(runs)
    breakout, freeway = comparison.differences(found["agent"], found["cloning"])
    values = [10, 12, 2]
    assert breakout == Difference(
        "Breakout", 8.0, intervals.mean(values), (3, 3), intervals.p_paired(values)
    )
    assert (freeway.value, freeway.ci95, freeway.above, freeway.p) == (
        -21,
        (-21, -21),
        (0, 3),
        0.25,
    )
    other = found["cloning"]._replace(seeds=[7, 8, 9])
    assert comparison.differences(found["agent"], other) == []
    # The seeds that both have, whichever these are.
    first = found["cloning"]._replace(seeds=[1, 2], players=found["cloning"].players[:2])
    assert comparison.differences(found["agent"], first)[0].value == 11
    (fixed, _) = comparison.differences(found["agent"], found["best_fixed"])
    assert (fixed.value, fixed.ci95) == (8, intervals.mean([9, 11, 4]))
    (other_way, _) = comparison.differences(found["best_fixed"], found["agent"])
    assert (other_way.value, other_way.above) == (-8, (0, 3))
    assert other_way.ci95 == intervals.mean([-9, -11, -4])


def test_groups_without_a_common_seed_are_said_not_to_be_compared(tmp_path):
    for label, seeds in (("agent", (1, 2)), ("cloning", (3, 4)), ("third", (2, 5))):
        for seed in seeds:
            write_scores(tmp_path / str(seed) / label, label, {"Pong": [seed]}, seed)
    write_scores(tmp_path / "random", "random", {"Freeway": [0]})  # another game: no word of it
    found = groups_of(tmp_path)
    compared = {one.theirs: one for one in comparison.compare(found)}
    assert list(compared) == ["third", "cloning"] and len(compared["third"].rows) == 1
    said = "The agent isn't compared with cloning: no seed is in both."
    assert comparison.sentence(compared["cloning"]) == said
    assert text_report.report(found, None, False).endswith(f"\n\n{said}")


def test_play_of_one_seed_is_not_taken_for_play_that_all_seeds_share(tmp_path):
    """Folders of the same place without the seed; the shared one comes first."""
    for seed, score in ((1, 10), (2, 20)):
        write_scores(tmp_path / f"seed_{seed}" / "agent", "agent", {"Pong": [score]}, seed)
    write_data(tmp_path, "Pong", 3)
    write_data(tmp_path / "seed_1", "Pong", 9)
    data = [group for group in groups_of(tmp_path) if group.players[0].label == "data"]
    assert [(g.seeds, groups.means(g)["Pong"]) for g in data] == [([], [3]), ([1], [9])]


def test_single_runs_are_compared_over_their_episodes(runs):
    write_scores(runs / "one", "a", {"Breakout": [1, 2, 4]})
    write_scores(runs / "two", "b", {"Breakout": [2, 3]})
    found = by_name(runs)
    (row,) = comparison.differences(found["a"], found["b"])
    assert row.value == pytest.approx(7 / 3 - 2.5) and row.above is None
    assert row.ci95 == intervals.difference([1, 2, 4], [2, 3])
    assert row.p == intervals.p_welch([1, 2, 4], [2, 3])


def test_what_is_clear_is_corrected_for_all_rows(runs):
    """p of 0.03 is below 0.05, but not twice it."""
    rows = [Difference("a", 1.0, p=0.001), Difference("b", 1.0, p=0.03), Difference("c", 1.0),
            Difference("d", 1.0, p=0.04)]  # fmt: skip
    assert [row.clear for row in comparison._corrected(rows)] == [True, False, False, False]
    assert [row.clear for row in comparison._corrected(rows[1:3])] == [True, False]
    # A single run beside others over seeds isn't tested, and doesn't count.
    mixed = [Difference("a", 1.0, p=0.001), Difference("b", 1.0, above=(2, 2), p=0.03)]
    assert [row.clear for row in comparison._corrected(mixed)] == [False, True]


def test_a_clear_loss_is_said():
    rows = [Difference("a", 1.0, p=0.001, clear=True), Difference("b", -2.0, p=0.001, clear=True)]
    said = comparison.sentence(comparison.Comparison("agent", "cloning", rows))
    assert "in 1 of 2 games, clearly in 1; it scores clearly lower in 1: a" in said
    assert "lower" not in comparison.sentence(comparison.Comparison("agent", "cloning", rows[:1]))


def test_the_report_ends_in_what_the_agent_is_above(runs):
    text = text_report.report(groups_of(runs), None, False)
    head, _, breakout, freeway = text.splitlines()[:4]
    assert head.split("  ")[0] == "game" and "data's mean (3 seeds)" in head
    assert breakout.split() == ["Breakout", "2.0", "NOOP", "6.0", "±", "0.0", "6.0", "2.0", "±",
                                "4.3", "10.0", "±", "9.0", "29", "%"]  # fmt: skip
    assert freeway.split()[:5] == ["Freeway", "22.0", "NOOP", "-", "-"]
    assert (
        "\n- The agent scores higher than the best fixed action in 1 of 2 games, clearly in none: "
        "Breakout +8.0 ± 9.0 (3 of 3 seeds), Freeway -22.0 ± 0.0 (0 of 3 seeds).\n"
    ) in text
    assert text.split("\n\n")[-2:] == [
        "The agent scores higher than the data's mean in 1 of 1 games, clearly in none: "
        "Breakout +4.0 ± 9.0 (2 of 3 seeds).",
        "The agent scores higher than cloning in 1 of 2 games, clearly in none: Breakout +8.0 ± "
        "13.1 (3 of 3 seeds), Freeway -21.0 ± 0.0 (0 of 3 seeds).",
    ]


def test_other_settings_are_another_player(runs):
    for seed in (1, 2):
        write_scores(runs / f"x=1/{seed}/mse", "agent", {"Breakout": [seed]}, seed, kind="mse")
    found = by_name(runs)
    assert list(found)[2:] == ["cloning", "agent", "agent (mse)"]
    assert found["agent (mse)"].seeds == [1, 2]
    compared = comparison.compare(list(found.values()))
    assert [one[:2] for one in compared] == [
        ("agent", other) for other in ("best_fixed", "agent (mse)", "data", "cloning")
    ]


def test_each_agent_is_compared_with_the_baselines_nearest_to_it(tmp_path):
    for place in ("a", "b"):
        for label in ("agent", "cloning"):
            write_scores(tmp_path / place / label, label, {"Freeway": [1, 2]})
    write_scores(tmp_path / "random", "random", {"Freeway": [0, 1]})
    compared = comparison.compare(groups_of(tmp_path))
    assert [one[:2] for one in compared] == [
        ("agent (a)", "random"), ("agent (b)", "random"),
        ("agent (a)", "cloning (a)"), ("agent (b)", "cloning (b)"),
    ]  # fmt: skip


def test_another_player_may_be_the_one_that_all_are_compared_with(runs):
    """By its name, or as tables have it; where there is an agent, too."""
    for seed, score in ((1, 9), (2, 13), (3, 8)):
        write_scores(runs / f"x=1/{seed}/mse", "agent", {"Breakout": [score]}, seed, kind="mse")
        write_scores(runs / f"x=1/{seed}/m_s_e", "m_s_e", {"Breakout": [0]}, seed)
    found = groups_of(runs)
    assert comparison.find_player(found, "m s e") == comparison.find_player(found, "m_s_e")
    compared = comparison.compare(found, player="agent (mse)")
    assert [one[:2] for one in compared] == [
        ("agent (mse)", other) for other in ("best_fixed", "agent", "m_s_e", "data", "cloning")
    ]
    (agent,) = [one.rows[0] for one in compared if one.theirs == "agent"]
    values = [9 - 11, 13 - 13, 8 - 6]
    assert (agent.value, agent.ci95, agent.above) == (0, intervals.mean(values), (1, 3))
    fixed = {one.theirs: one for one in comparison.compare(found, player="best_fixed")}
    assert comparison.sentence(fixed["agent"]) == (
        "The best fixed action scores higher than the agent in 1 of 2 games, clearly in none: "
        "Breakout -8.0 ± 9.0 (0 of 3 seeds), Freeway +22.0 ± 0.0 (3 of 3 seeds)."
    )
    with pytest.raises(UserError, match=r"--player=dta: .* one of: best_fixed, cloning, agent, "):
        comparison.find_player(found, "dta")


def test_a_player_without_a_number_is_compared_at_each_number(tmp_path):
    for x, score in ((1, 3), (0, 7)):
        write_scores(tmp_path / f"x={x}/1/agent", "agent", {"Freeway": [score]}, 1)
    for name in ("random", "best_fixed"):
        write_scores(tmp_path / name, name, {"Freeway": [2]})
    compared = comparison.compare(groups_of(tmp_path, "x"), "x", "random")
    assert {one.theirs: [(row.at, row.value) for row in one.rows] for one in compared} == {
        "agent": [(0, -5), (1, -1)], "best_fixed": [(None, 0)]
    }  # fmt: skip
    shown = comparison.table(compared, "x")
    assert shown.header == ["x", "game", "random - agent"]
    assert [row[:2] for row in shown.rows] == [["0", "Freeway"], ["1", "Freeway"]]


def test_a_copy_of_a_run_is_another_player(runs):
    copy = runs / "x=1/1/copy"
    copy.mkdir()
    (copy / "scores.json").write_text((runs / "x=1/1/agent/scores.json").read_text())
    found = {name: group.seeds for name, group in by_name(runs).items()}
    assert found["agent"] == [1, 2, 3] and found["agent (copy)"] == [1]


@pytest.mark.parametrize("config", [None, [], {"train": 3}, {"train": {"seed": "x"}}])
def test_scores_that_do_not_say_their_seed_are_alone(tmp_path, config):
    for place in ("a", "b"):
        run = {"label": "agent", "config": config}
        score_files.write(tmp_path / place / "scores.json", [episode("Breakout", 1)], PROTOCOL, run)
    assert {name: g.seeds for name, g in by_name(tmp_path).items()} == {
        "agent (a)": [], "agent (b)": []
    }  # fmt: skip


def test_sentences_over_several_numbers_say_where_it_is_clear():
    rows = [Difference("Pong", 3.0, p=0.01, at=at, clear=at > 1) for at in (0, 10, 25)]
    rows += [Difference("Qbert", -1.0, p=0.01, at=10, clear=True)]
    assert comparison.sentence(Comparison("agent", "cloning", rows), "percent_good") == (
        "The agent scores higher than cloning in 3 of 4 comparisons (2 games at 3 values of "
        "percent good), clearly in 2 (Pong at 10 and 25); it scores clearly lower in 1 (Qbert at "
        "10)."
    )
    alone = [rows[0], Difference("Pong", 3.0, at=10)]
    assert comparison.sentence(Comparison("agent", "cloning", alone), "percent_good").endswith(
        "clearly lower in none. Not tested, for a single seed: 1."
    )


def test_a_path_without_the_number_is_a_users_error(runs):
    with pytest.raises(UserError, match=r"--against=y: .* has no y=NUMBER .*; leave the flag out"):
        groups_of(runs, against="y")


def test_the_command(runs):
    """What users type, over seeds; the JSON has each seed's means and the differences."""
    command = [sys.executable, "-m", "cql_atari.report", str(runs), f"--json={runs / 's.json'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text = text_report.report(groups_of(runs), None, False)
    assert done.stdout == f"{text}\nwrote {runs / 's.json'}\n"
    written = json.loads((runs / "s.json").read_text())
    agent = written["scores"][-1]
    assert agent["scores"][1] == {"seed": 2, "Breakout": 13, "Freeway": 0}
    (row, _) = written["differences"][-1]["rows"]
    assert row["value"] == np.mean([10, 12, 2]) and row["p"] > 0.05
    outputs = [f"--output={runs / 'p.html'}", "--player=cloning"]
    done = subprocess.run([*command, *outputs], capture_output=True, text=True, check=True)
    said = "Cloning scores higher than the agent in 1 of 2 games"
    assert f"\n- {said}" in done.stdout and said in (runs / "p.html").read_text()
    compared = json.loads((runs / "s.json").read_text())["differences"]
    assert {one["mine"] for one in compared} == {"cloning"}
