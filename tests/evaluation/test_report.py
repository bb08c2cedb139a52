"""The report: which files it finds, what it says of them, its text to the letter, its speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cql_atari.core.types import EpisodeScore, UserError
from cql_atari.evaluation import groups, score_files, text_report

MINIMAL = {"Breakout": (0, 1, 3, 4), "Freeway": (0, 2, 5)}
PROTOCOL = {"epsilon": 0.001, "sticky": 0.25, "max_frames": 108_000}


def write(folder, label, scores, actions=None, *, protocol=None, config=None, step=None):
    """scores: {game: [score, ...]}; actions: {game: {action: count}} of each episode."""
    episodes = []
    for game, values in scores.items():
        counts = [0] * 18
        for action, count in (actions or {}).get(game, {MINIMAL[game][0]: 1}).items():
            counts[action] = count
        episodes += [
            EpisodeScore(game, float(value), 100, False, 0, i, 0, 0, "md5", tuple(counts))
            for i, value in enumerate(values)
        ]
    run = {"label": label, "config": config, "step": step}
    score_files.write(folder / "scores.json", episodes, protocol or PROTOCOL, run)


def write_data(folder, *episodes):
    (folder / "episodes.jsonl").write_text("".join(json.dumps(e) + "\n" for e in episodes))


@pytest.fixture
def run(tmp_path):
    """A run's folder: random, best fixed action, cloning and agent in two games, and the data."""
    random = {"Breakout": [1, 2, 3], "Freeway": [0, 0, 0]}
    write(tmp_path / "run/random", "random", random)
    fixed = {"Breakout": [2, 2, 2], "Freeway": [21, 22, 23]}
    write(tmp_path / "run/fixed", "best_fixed", fixed, {"Breakout": {1: 9}, "Freeway": {2: 9}})
    cloning = {"Breakout": [8, 9, 10], "Freeway": [20, 20, 20]}
    write(tmp_path / "run/cloning", "cloning", cloning)
    agent = {"Breakout": [13, 14, 15], "Freeway": [22, 22, 22]}
    actions = {"Breakout": {0: 50, 3: 30, 4: 20}, "Freeway": {2: 999, 5: 1}}
    write(tmp_path / "run", "agent", agent, actions)
    for game, returns in {"Breakout": [6, 8], "Freeway": [10, 14], "Pong": [0]}.items():
        folder = tmp_path / "data" / game / "1"
        folder.mkdir(parents=True)
        write_data(folder, *[{"score": value, "length": 5, "terminal": True} for value in returns])
    return tmp_path


def groups_of(*folders, data=None):
    return groups.make(score_files.find_scores(folders), [data] if data else [])


def text_of(run, markdown=False):
    return text_report.report(groups_of(run / "run", data=run / "data"), None, markdown)


def test_text_to_the_letter(run):
    assert text_of(run) == (Path(__file__).parents[1] / "golden" / "report.txt").read_text().strip()


def test_markdown_has_the_same_cells(run):
    lines = text_of(run, markdown=True).splitlines()
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert cells == [
        "game", "random (3 episodes)", "best fixed action (3 episodes)", "data's mean (2 episodes)",
        "best episode of the data", "cloning (3 episodes)", "agent (3 episodes)", "agent / human",
    ]  # fmt: skip
    assert lines[1] == f"|{' --- |' * 8}"
    assert lines[2].startswith(
        "| Breakout | 2.0 ± 2.5 | 2.0 ± 0.0 FIRE | 7.0 ± 12.7 | 8.0 | 9.0 ± 2.5 |"
    )


def test_equal_is_not_above(tmp_path):
    for label in ("random", "agent"):
        write(tmp_path / label, label, {"Freeway": [22, 22]})
    text = text_report.report(groups_of(tmp_path), None, False)
    line = "- The agent scores higher than random play in 0 of 1 games: Freeway 0.0 ± 0.0."
    assert line in text.splitlines()


def test_two_agents_keep_their_folders_and_both_are_compared(run):
    write(run / "other", "agent", {"Breakout": [1, 1]})
    found = groups_of(run / "run", run / "other")
    assert [group.name for group in found][-2:] == ["agent (run)", "agent (other)"]
    text = text_report.report(found, None, False)
    assert "The agent (other) scores higher than random play in 0 of 1 games: Breakout -1.0" in text
    assert "\nFreeway" in text and " -  " in text  # not played by the second


def test_only_baselines(run):
    text = text_report.report(groups_of(run / "run" / "random"), None, False)
    assert text.startswith("game      random (3 episodes)") and "scores higher" not in text


def test_different_protocols_are_said(run):
    write(run / "run", "agent", {"Breakout": [1]}, protocol={**PROTOCOL, "sticky": 0.0})
    assert groups.protocol_lines(groups_of(run / "run")) == [
        "protocol of random, best_fixed, cloning: epsilon 0.001, sticky 0.25, max_frames 108000",
        "protocol of agent: epsilon 0.001, sticky 0.0, max_frames 108000",
    ]


def test_scores_from_before_the_end_of_training_are_said(tmp_path):
    for seed, step in enumerate((900, 300)):
        config = {"train": {"seed": seed, "steps": 900}}
        write(tmp_path / str(seed), "agent", {"Breakout": [1]}, config=config, step=step)
    assert groups.unfinished_lines(groups_of(tmp_path / "0")) == []
    said = "agent isn't trained to its end: step 900, 300 of 900"
    assert groups.unfinished_lines(groups_of(tmp_path)) == [said]
    assert f"- {said}\n" in text_report.report(groups_of(tmp_path), None, False)


def test_missing_and_malformed_inputs(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no scores\.json in .*empty"):
        score_files.find_scores([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"can't read .*nowhere"):
        score_files.find_scores([tmp_path / "nowhere"])
    assert score_files.recorded_play(tmp_path / "empty", ["Pong"]) is None
    for text, problem in (
        (b'{"terminal": true}', "score"), (b'{"retu', "Expecting|Untermin"), (b"\xff", "Decode"),
        (b'{"score": NaN, "length": 5, "terminal": true}', "the score is NaN"),
        (b'{"score": 1, "length": "5", "terminal": true}', "the length is"),
        (b'{"score": 1, "length": -5, "terminal": true}', "the length is"),
    ):  # fmt: skip
        (run / "data/Pong/1/episodes.jsonl").write_bytes(text)
        with pytest.raises(UserError, match=rf"Pong.*line 1: .*({problem})"):
            score_files.recorded_play(run / "data", ["Pong"])
    write_data(run / "data/Pong/1", {"score": 1, "length": 5, "terminal": False})
    assert score_files.recorded_play(run / "data", ["Pong"]) is None


def test_data_of_all_runs_without_cut_and_half_collected_episodes(tmp_path):
    for name, episodes in {
        "1": [(1.0, 10, True), (5.0, 27_000, False), (99.0, 7, False)],
        "2": [(6.0, 20, True)],
        ".3.partial": [(99.0, 20, True)],
    }.items():
        (tmp_path / "Pong" / name).mkdir(parents=True)
        rows = [dict(zip(("score", "length", "terminal"), episode)) for episode in episodes]
        write_data(tmp_path / "Pong" / name, *rows)
    pong = score_files.recorded_play(tmp_path, ["Pong"]).summary["games"]["Pong"]
    assert (pong["mean"], pong["n"], pong["max"]) == (4.0, 3, 6.0)
    # Where in the recording an episode ends counts what was played before it, cut or not.
    assert score_files.recorded_curves(tmp_path, ["Pong"]) == {
        "Pong": {"1": [(10, 1.0), (27_010, 5.0)], "2": [(20, 6.0)]}
    }
    assert score_files.recorded_curves(tmp_path, ["Breakout"]) == {}


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "cql_atari.report", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_command_with_figures(run, tmp_path):
    metrics = [{"step": i, "time": 0, "loss/td": 1 / (i + 1), "evaluation/score/Breakout": i}
               for i in range(3)]  # fmt: skip
    (run / "run/metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)))
    done = command(run / "run", f"--data_dir={run / 'data'}", f"--figures={tmp_path / 'figures'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(text_of(run))
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["run_scores_by_step.png", "run_training.png", "scores.png"]
    done = command(tmp_path / "run", "--figures=/proc/x")
    assert done.returncode == 2 and "can't write figures to /proc/x" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_episode_gives_no_interval(tmp_path):
    write(tmp_path / "agent", "agent", {"Breakout": [14], "Freeway": [22, 23]})
    (line,) = [line for line in command(tmp_path).stdout.splitlines() if "human-normalised" in line]
    assert line.endswith("over 2 games: IQM 59 %, mean 59 %, median 59 %, optimality gap 41 %")


def write_seeds(out):
    """Two seeds pre-trained, two from scratch, each evaluated at steps 0 and 10."""
    finals = {"pretrained_0": 20, "pretrained_1": 24, "scratch_0": 10, "scratch_1": 12}
    for name, final in finals.items():
        start = {"encoder_from": "runs/a" if name.startswith("pre") else None}
        config = {"train": {"seed": int(name[-1]), "steps": 10}, "start": start}
        for step, score in ((0, 0), (10, final)):
            write(out / name, "agent", {"Freeway": [score]}, config=config)
            (out / name / "scores").mkdir(exist_ok=True)
            text = (out / name / "scores.json").read_text()
            (out / name / f"scores/{step:010d}.json").write_text(text)


def test_command_with_seeds(tmp_path):
    write_seeds(tmp_path / "runs")
    (tmp_path / "runs" / "late").mkdir()
    (tmp_path / "runs" / "late" / "config.json").write_text("{}")
    file = tmp_path / "new" / "curves.json"
    done = command(tmp_path / "runs", f"--json={file}", f"--figures={tmp_path / 'f'}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(
        f"left out, as they have no scores: {tmp_path / 'runs' / 'late'}\n"
    )
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    numbers = "2 10 22.0 ± 25.4 84 % ± 97 % 11.0 ± 12.7 42 % ± 48 %"
    assert f"Freeway agent (pretrained) {numbers}" in rows
    assert any(
        row.startswith("Freeway agent (pretrained) - agent (scratch) 2 and 2") for row in rows
    )
    freeway = json.loads(file.read_text())["variants"]["Freeway"]
    assert [group["n"] for group in freeway["groups"]] == [2, 2]
    assert freeway["differences"][0]["final"]["raw"]["value"] == 11.0
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == [
        "learning_curves.png", "scores.png",
    ]  # fmt: skip


def test_one_run_from_scratch_is_reported_as_ever(tmp_path):
    write_seeds(tmp_path)
    text = text_report.report(groups_of(tmp_path / "scratch_0"), None, False)
    assert command(tmp_path / "scratch_0").stdout == text + "\n"


def test_command_says_what_is_wrong(tmp_path):
    write(tmp_path / "agent", "agent", {"Freeway": [1]})
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([], "usage"),
        ([tmp_path / "empty"], "no scores.json in"),
        ([tmp_path, f"--data_dir={tmp_path}"], "has no <Game>/<run>/episodes.jsonl"),
        ([tmp_path, f"--json={tmp_path / 'scores.json'}"], "choose another name"),
    ):
        done = command(*arguments)
        assert done.returncode != 0
        assert message in done.stderr and "Traceback" not in done.stderr


def test_heavy_packages_stay_out():
    code = (
        "import sys, cql_atari.report; "
        "print({'tensorflow', 'matplotlib', 'ale_py', 'gin', 'reverb'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
