"""Learning curves over seeds: who is grouped, by what name, and every number by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cql_atari.core import games
from cql_atari.core.types import EpisodeScore, UserError
from cql_atari.evaluation import (
    configurations,
    curves,
    groups,
    intervals,
    run_logs,
    score_files,
)

T2 = 4.302653  # 97.5 % quantile of Student's t with 2 degrees of freedom
START = {"encoder_from": None, "whole_network": False}
PRETRAINED = {"start": {**START, "encoder_from": "runs/quickstart/agent"}}


def write_run(workdir, seed, scores, frames=(), *, game="Freeway", mode=0, protocol=(), **sections):
    """scores: {step: [score of each episode]}; protocol: {step: {name: value}} where it matters."""
    config = {"train": {"seed": seed, "steps": 10}, "start": START, **sections}
    for step, values in scores.items():
        episodes = [
            EpisodeScore(game, float(value), 1, False, 0, i, mode, 0, "md5", (0,) * 18)
            for i, value in enumerate(values)
        ]
        for path in (workdir / f"scores/{step:010d}.json", workdir / "scores.json"):
            run = {"label": "agent", "config": config}
            score_files.write(path, episodes, dict(protocol).get(step, {}), run)
    rows = [json.dumps({"step": step, "online/frames": count}) for step, count in frames]
    if rows:
        (workdir / "metrics.jsonl").write_text("\n".join(rows))


def summary_of(*folders):
    return curves.summarise(groups.make(score_files.find_scores(folders), []))


def test_numbers_by_hand(tmp_path):
    for seed, final in enumerate((20, 22, 24)):
        scores = {0: [0, 0], 4: [8, 12], 10: [final]}
        write_run(tmp_path / f"pretrained_{seed}", seed, scores, **PRETRAINED)
    for seed, final in enumerate((9, 10, 14)):
        write_run(tmp_path / f"scratch_{seed}", seed, {0: [0], 4: [0], 10: [final]})
    summary = summary_of(tmp_path)
    mine, theirs = summary["variants"]["Freeway"]["groups"]
    assert (mine["name"], mine["n"], mine["seeds"]) == ("agent (pretrained)", 3, [0, 1, 2])
    assert mine["folders"] == [str(tmp_path / f"pretrained_{seed}") for seed in range(3)]
    assert (mine["steps"], mine["frames"], mine["mean"]) == ([0, 4, 10], None, [0, 10, 22])
    assert mine["scores"][2] == [0, 10, 24]
    half = T2 * 2 / 3**0.5
    assert mine["ci95"][1] == (10, 10)
    assert mine["ci95"][2] == pytest.approx((22 - half, 22 + half), rel=1e-5)
    # Area of seed 0: 4 steps at 5 and 6 steps at 15, of 10; of seed 2, 6 steps at 17.
    assert mine["mean_over_curve"]["raw"]["by_seed"] == [11.0, 11.6, 12.2]
    assert (theirs["name"], theirs["mean"]) == ("agent (scratch)", [0, 0, 11])
    (difference,) = summary["variants"]["Freeway"]["differences"]
    assert difference["name"] == "agent (pretrained) - agent (scratch)"
    assert difference["n"] == [3, 3]
    raw, normalised = difference["final"]["raw"], difference["final"]["dqn_normalised"]
    assert raw == {
        "value": 11, "ci95": intervals.difference((20, 22, 24), (9, 10, 14))
    }  # fmt: skip
    scale = games.dqn_normalised("Freeway", 1) - games.dqn_normalised("Freeway", 0)
    assert normalised["value"] == pytest.approx(11 * scale)
    assert normalised["ci95"] == pytest.approx([scale * end for end in raw["ci95"]])
    assert mine["final"]["dqn_normalised"]["value"] == games.dqn_normalised("Freeway", 22)
    assert summary["unfinished"] == {}


def test_frames_of_a_variant_and_no_normalised_score(tmp_path):
    for seed, late in ((0, 100), (1, 140)):
        write_run(tmp_path / str(seed), seed, {0: [1], 10: [3]}, [(0, 0), (10, late)], mode=1)
    (name,) = variants = summary_of(tmp_path)["variants"]
    (group,) = variants[name]["groups"]
    assert name == "Freeway (mode 1, difficulty 0)"
    assert group["frames"] == [0, 120] and group["final"]["dqn_normalised"] is None


def test_a_game_whose_dqn_is_no_scale_has_no_normalised_score(tmp_path):
    write_run(tmp_path / "a", 0, {0: [1], 10: [3]}, game="PrivateEye")
    (group,) = summary_of(tmp_path)["variants"]["PrivateEye"]["groups"]
    assert group["final"]["raw"]["value"] == 3 and group["final"]["dqn_normalised"] is None


def test_one_seed_has_no_interval(tmp_path):
    write_run(tmp_path / "a", 0, {0: [1], 10: [3]}, **PRETRAINED)
    write_run(tmp_path / "b", 0, {0: [1], 10: [2]})
    entry = summary_of(tmp_path)["variants"]["Freeway"]
    assert entry["groups"][0]["ci95"] == [None, None]
    assert entry["differences"][0]["final"]["raw"] == {"value": 1, "ci95": None}


def test_unfinished_runs_are_said_and_cut_their_group(tmp_path):
    write_run(tmp_path / "a_0", 0, {0: [1], 5: [3], 10: [9]}, **PRETRAINED)
    write_run(tmp_path / "a_1", 1, {0: [1], 5: [3]}, **PRETRAINED)
    write_run(tmp_path / "b_0", 0, {0: [1], 5: [2], 10: [2]})
    summary = summary_of(tmp_path)
    entry = summary["variants"]["Freeway"]
    assert [group["steps"] for group in entry["groups"]] == [[0, 5], [0, 5, 10]]
    assert summary["unfinished"] == {str(tmp_path / "a_1"): [5, 10]} and entry["differences"] == []


def test_seeds_without_a_second_common_step_have_no_curve(tmp_path):
    write_run(tmp_path / "a", 0, {0: [1], 2: [1]})
    write_run(tmp_path / "b", 1, {2: [1], 5: [1]})
    assert summary_of(tmp_path)["variants"] == {}


def test_a_curve_does_not_mix_protocols(tmp_path):
    """Neither within a run, nor within the seeds of a group, nor in a difference."""
    sticky, plain = {"sticky": 0.25, "episodes": 4}, {"sticky": 0.0}
    write_run(tmp_path / "a", 0, {0: [1], 5: [2], 10: [3]},
              protocol={0: sticky, 5: {**sticky, "episodes": 16}, 10: plain})  # fmt: skip
    with pytest.raises(UserError, match=r"(?s)curve would mix .*00.json: .*sticky 0.25.*10.json"):
        summary_of(tmp_path)
    for name, how in (("0", sticky), ("1", plain)):
        steps = dict.fromkeys((0, 10), how)
        write_run(tmp_path / "b" / name, int(name), {0: [1], 10: [2]}, protocol=steps)
    with pytest.raises(UserError, match="mean over seeds would mix"):
        summary_of(tmp_path / "b")
    write_run(tmp_path / "b/1", 1, {0: [1], 10: [2]}, protocol=steps, **PRETRAINED)
    assert summary_of(tmp_path / "b")["variants"]["Freeway"]["differences"] == []


def test_what_evaluate_wrote_elsewhere_has_no_curve(tmp_path):
    write_run(tmp_path / "a", 0, {0: [1], 10: [2]})
    for path in (tmp_path / "a/scores").iterdir():
        path.unlink()
    assert summary_of(tmp_path)["variants"] == {}


def test_mean_over_a_curve():
    assert curves.mean_over_curve([0, 1, 4], [0.0, 2.0, 4.0]) == (1 * 1 + 3 * 3) / 4


def test_single_runs_from_scratch_are_not_worth_printing(tmp_path):
    both = {0: [1], 5: [1]}
    write_run(tmp_path / "a", 0, both)
    write_run(tmp_path / "b", 0, both, loss={"cql_alpha": 0.2})
    assert not curves.worth_printing(summary_of(tmp_path))
    write_run(tmp_path / "c", 1, both)
    assert curves.worth_printing(summary_of(tmp_path))
    write_run(tmp_path / "d" / "e", 0, both, **PRETRAINED)
    assert curves.worth_printing(summary_of(tmp_path / "d"))


def test_log_with_a_resume_and_cut_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "time": 0, "a": 1}, {"step": 3, "a": 3}, {"step": 2, "a": 2}]
    cut = ['{"step": 9, "a"{"step": 10, "a": 1}', "[1]", '{"a": 1}', '{"step": 1e999}']
    rows.append({"step": 3, "a": 4, "b": 5})
    lines = [*map(json.dumps, rows[:2]), *cut, *map(json.dumps, rows[2:]), '{"step": 9, "a"']
    path.write_bytes("\n".join(lines).encode() + b"\n\0\xff")  # as a power cut may leave it
    assert run_logs.read_times(tmp_path) == [0.0]
    assert run_logs.read_metrics(tmp_path) == {"a": [(1, 1.0), (2, 2.0), (3, 4.0)], "b": [(3, 5.0)]}


@pytest.mark.parametrize(
    "path, seed, parts",
    [
        ("runs/3/agent", 3, ["runs", "agent"]),
        ("runs/agent_3", 3, ["runs", "agent"]),
        ("runs/agent/train.seed=3", 3, ["runs", "agent"]),
        ("runs/loss.kind=mse,train.seed=13", 13, ["runs", "loss.kind=mse"]),
        ("v_0/agent/0", 0, ["v_0", "agent"]),
        ("runs/resnet34", 4, ["runs", "resnet34"]),
        ("runs/1/alpha=0.1", 1, ["runs", "alpha=0.1"]),
        ("runs/rate=1e-4", 4, ["runs", "rate=1e-4"]),
        ("runs/agent-4", 4, ["runs", "agent"]),
        ("runs/agent.4", 4, ["runs", "agent"]),
        ("runs/3/agent", None, ["runs", "3", "agent"]),
    ],
)
def test_a_path_without_its_seed(path, seed, parts):
    assert list(configurations.without_seed(Path(path), seed)) == parts


def test_a_seed_in_a_path_is_no_difference_and_a_share_is_one(tmp_path):
    """Five runs: two seeds each with play of its own, in two shares, and one on the same play."""
    places = ["share_0/1/data", "share_0/2/data", "share_9/1/data", "share_9/2/data"]
    settings = [{"data.dir": place, "train.seed": 7} for place in places]
    alike = configurations.same_but_seed([1, 2, 1, 2], settings)
    assert alike == [[0, 1], [2, 3]]
    same = [{"data.dir": "v_1/data"}] * 2
    assert configurations.same_but_seed([1, 2], same) == [[0, 1]]


def test_a_setting_that_an_older_version_lacks_counts_as_its_default():
    old, new = {"train.steps": 9}, {"train.steps": 9, "augmentation.shift": 0}
    other = {"train.steps": 9, "augmentation.shift": 4}
    assert configurations.same_but_seed([1, 2, 3], [old, new, other]) == [[0, 1], [2]]
