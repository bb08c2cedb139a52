"""Evaluation by its real command: a run, a policy without a run, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import tensorflow as tf
import tiny
from made_up import write_scores

from cql_atari import evaluate
from cql_atari.core import settings
from cql_atari.core.types import Observation, UserError
from cql_atari.methods import build
from cql_atari.runs import checkpoint, recorded_config
from cql_atari.runs import folder as workdir
from cql_atari.system import signals
from cql_atari.training import load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def run(*flags: str, bindings: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    return processes.run(
        [sys.executable, "-m", "cql_atari.evaluate", *flags,
         *(f"--gin_bindings={binding}" for binding in bindings)]
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run whose newest checkpoint is that of step 8."""
    folder, config = tmp_path_factory.mktemp("trained"), tiny.config()
    learner = build.build(config).learner()
    recorded_config.record_config(folder, config)
    checkpoint.save(folder / "checkpoints", tf.train.Checkpoint(**learner.saved), 8, keep=1)
    return folder


def played(folder: Path) -> list[tuple]:
    episodes = json.loads((folder / "scores.json").read_text())["episodes"]
    return [(episode["game"], episode["mode"], episode["seed"]) for episode in episodes]


def test_a_run_is_played_as_it_was_recorded_and_as_bindings_of_evaluation_say(trained, tmp_path):
    ended = run(f"--run={trained}")
    assert ended.returncode == 0, ended.stderr
    assert played(trained) == [(game, 0, seed) for game in tiny.GAMES for seed in (1000, 1001)]
    scores = json.loads((trained / "scores.json").read_text())
    assert scores["run"]["step"] == 8 and scores["run"]["config"]["data"]["games"] == [*tiny.GAMES]
    bindings = ("evaluation.episodes = 1", "evaluation.seed = 5", "evaluation.mode = 4")
    ended = run(f"--run={trained}", f"--out={tmp_path}", bindings=bindings)
    assert ended.returncode == 0, ended.stderr
    assert played(tmp_path) == [(game, 4, 5) for game in tiny.GAMES]
    assert len(played(trained)) == 4  # as before

    # Another protocol, some games only, or a step that isn't there, among the run's own scores.
    for flags, word in ((["--gin_bindings=evaluation.sticky = 0.5"],
                         "evaluation.sticky = 0.5, recorded with 0.0"),
                        (["--episodes=3"], "evaluation.episodes = 3, recorded with 2"),
                        (["--games=Freeway"], "--games=Freeway only")):  # fmt: skip
        ended = run(f"--run={trained}", *flags)
        assert ended.returncode == 2 and len(played(trained)) == 4
        assert word in ended.stderr and "--out" in ended.stderr
    ended = run(f"--run={trained}", "--checkpoint=4")
    assert ended.returncode == 2 and "no checkpoint of step 4; there are 8" in ended.stderr


def test_some_games_so_many_steps_and_the_same_scores_are_not_played_again(trained, tmp_path):
    flags = (f"--run={trained}", "--games=Freeway", "--agent_steps=150", f"--out={tmp_path}",
             "--gin_bindings=evaluation.max_frames = 400")  # fmt: skip
    ended = run(*flags)
    assert ended.returncode == 0, ended.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [episode["length"] for episode in scores["episodes"]] == [100, 100]  # as in Dopamine
    assert (scores["protocol"]["agent_steps"], scores["protocol"]["episodes"]) == (150, None)
    assert "Freeway" in ended.stdout and "next: python -m cql_atari.report" in ended.stdout
    again = run(*flags)
    assert again.returncode == 0 and again.stdout == ended.stdout
    assert "the scores are there" in again.stderr and "evaluating" not in again.stderr


def test_draws_of_a_transformer_follow_the_seed_that_is_asked_for(tmp_path):
    """Without sticky actions and epsilon they are all that differs between seeds."""
    config = tiny.config(
        "train.method = 'decision_transformer'", "transformer.depth = 1", "transformer.width = 64",
        "evaluation.epsilon = 0.0",
    )  # fmt: skip
    recorded_config.record_config(tmp_path, config)
    saved = tf.train.Checkpoint(**build.build(config).learner().saved)
    checkpoint.save(tmp_path / "checkpoints", saved, 8, keep=1)
    counts = []
    for seed in (1000, 2000, 2000):
        out = tmp_path / str(len(counts))
        ended = run(f"--run={tmp_path}", f"--out={out}", "--games=Breakout", "--episodes=1",
                    f"--gin_bindings=evaluation.seed = {seed}")  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        (episode,) = json.loads((out / "scores.json").read_text())["episodes"]
        counts.append(episode["action_counts"])
    assert counts[0] != counts[1] == counts[2]
    seen = Observation.first(np.zeros((1, 4, 84, 84), np.uint8), np.zeros(1, np.int32))
    scores = [load.load(tmp_path, seed=seed).act()(seen) for seed in (None, 1000, 2000)]
    assert (scores[0] == scores[1]).all() and (scores[1] != scores[2]).any()


def test_another_game_than_the_runs_is_refused(trained, tmp_path):
    ended = run(f"--run={trained}", f"--out={tmp_path}", bindings=("data.games = ('Pong',)",))
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "data.games = ('Pong',), but the run was trained with" in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "binding, setting",
    [
        ("network.feed_forward = (3,)", "network.feed_forward = (3,)"),
        ("train.seed = 3", "train.seed = 3"),
        ("start.encoder_from = 'x'", "start.encoder_from = 'x'"),
    ],
)
def test_a_binding_beside_evaluation_is_named(binding, setting):
    with pytest.raises(UserError) as error:
        evaluate.rebind(tiny.config(), ["evaluation.episodes = 3", binding])
    for word in (setting, "`evaluation` only", "rom_dir"):
        assert word in str(error.value)


def test_bindings_of_evaluation_and_what_is_recorded_anyway_are_taken():
    config = tiny.config("evaluation.sticky = 0.25")
    again = evaluate.rebind(config, ["evaluation.episodes = 3", f"data.games = {tiny.GAMES}"])
    assert again == tiny.config("evaluation.sticky = 0.25", "evaluation.episodes = 3")


# A trial plays 6,000 frames; which action wins is seen in test_rollout.py.
SHORT_TRIALS = """
import runpy
from cql_atari.evaluation import baselines
baselines.best_fixed_action.__kwdefaults__["trial_max_frames"] = 80
runpy.run_module("cql_atari.evaluate", run_name="__main__")
"""


@pytest.mark.parametrize("policy", ["random", "best_fixed"])
def test_a_policy_plays_the_configured_variant(tmp_path, policy):
    bindings = (*tiny.BINDINGS, "evaluation.mode = 1", "evaluation.difficulty = 1")
    flags = (f"--policy={policy}", f"--out={tmp_path}", "--games=Freeway", "--episodes=3",
             *(f"--gin_bindings={binding}" for binding in bindings))  # fmt: skip
    ended = processes.run([sys.executable, "-c", SHORT_TRIALS, *flags])
    assert ended.returncode == 0, ended.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    variants = [(e["game"], e["mode"], e["difficulty"], e["seed"]) for e in scores["episodes"]]
    assert variants == [("Freeway", 1, 1, seed) for seed in (1000, 1001, 1002)]
    assert (scores["protocol"]["mode"], scores["protocol"]["difficulty"]) == (1, 1)
    assert policy != "best_fixed" or scores["run"]["actions"]["Freeway"] in ("NOOP", "UP", "DOWN")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


@pytest.mark.parametrize(
    "flags, words",
    [
        ((), "either --run=DIR or --policy"),
        (("--policy=random",), "--policy needs --out"),
        (("--run=/nowhere",), "/nowhere holds no run"),
        (("--run=/nowhere", "--gin_files=gin_configs/multigame.gin"), "goes with --policy"),
        (("--policy=random", "--out=x", "--follow"), "go with --run"),
        (("--run=/nowhere", "--follow", "--checkpoint=all"), "every checkpoint"),
        (("--run=/nowhere", "--episodes=3", "--agent_steps=9"), "--episodes or --agent_steps"),
    ],
)
def test_mistakes_end_without_a_traceback(flags, words):
    ended = run(*flags)
    assert ended.returncode == 2 and words in ended.stderr and "Traceback" not in ended.stderr


def test_the_scores_of_another_run_or_player_are_not_replaced(trained, tmp_path):
    write_scores(tmp_path, "random", {"Freeway": [1]})
    for words, whose in (
        ((f"--run={trained}", f"--out={tmp_path}"), "'random'"),
        (("--policy=best_fixed", f"--out={tmp_path}"), "'random'"),
        (("--policy=random", f"--out={trained}"), ""),  # the run's label, once it has scores
    ):
        before = sorted(trained.rglob("*"))
        ended = run(*words)
        assert ended.returncode == 2 and f"is the folder of {whose}" in ended.stderr
        assert sorted(trained.rglob("*")) == before
    assert '"label": "random"' in (tmp_path / "scores.json").read_text()
    write_scores(tmp_path / "seed_7", "agent", {"Freeway": [1]}, seed=7)
    ended = run(f"--run={trained}", f"--out={tmp_path / 'seed_7'}")
    assert ended.returncode == 2 and "is the folder of another run" in ended.stderr


def test_a_run_is_told_from_others_by_how_it_was_trained():
    recorded = tiny.config()
    scored = json.loads(json.dumps(settings.to_dict(recorded)))
    scored["evaluation"]["episodes"] += 1
    scored["train"]["steps"] += 1
    del scored["loss"]["cql_alpha"]  # as if it were newer than the scores
    for known in (scored, {}, None, [], {"train": 3}):
        assert not evaluate._differs(known, recorded)
    scored["train"]["seed"] += 1
    assert evaluate._differs(scored, recorded)


def test_games_and_steps_that_the_run_does_not_have(trained):
    ended = run(f"--run={trained}", "--games=Pong")
    assert ended.returncode == 2 and "doesn't know Pong; it knows Breakout, Freeway" in ended.stderr
    ended = run(f"--run={trained}", "--checkpoint=last")
    assert ended.returncode == 2 and "newest, all, a step" in ended.stderr


# Several checkpoints, interruptions, a run that is still training.


def checkpoints(folder: Path, *steps: int, **change: float) -> None:
    """Saves checkpoints with other weights each; `change={step: value}` sets the first weight."""
    for step in steps:
        config = tiny.config(f"train.seed = {step}")
        learner = build.build(config).learner()
        variable = learner.saved["network"].trainable_variables[0]
        if (value := change.get(f"step_{step}")) is not None:
            variable.assign(tf.fill(variable.shape, value))
        state = tf.train.Checkpoint(**learner.saved)
        checkpoint.save(folder / "checkpoints", state, step, keep=9)


def test_all_checkpoints_and_one_that_diverged_is_named(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    recorded_config.record_config(folder, tiny.config())
    ended = run(f"--run={folder}", "--checkpoint=all")
    assert ended.returncode == 2 and "has no checkpoint yet; train first" in ended.stderr
    checkpoints(folder, 2, 4, 6, step_4=float("nan"))
    ended = run(f"--run={folder}", "--checkpoint=all")
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "diverged by step 4" in ended.stderr and "kernel:0 among them" in ended.stderr
    assert sorted(path.name for path in (folder / "scores").iterdir()) == [
        f"{step:010d}.json" for step in (2, 6)
    ]
    assert json.loads((folder / "scores.json").read_text())["run"]["step"] == 6
    assert list((folder / "tensorboard" / "evaluation").glob("events*"))
    before = (folder / "scores.json").read_text()
    ended = run(f"--run={folder}", "--checkpoint=2")  # an older one is no newest
    assert ended.returncode == 0 and (folder / "scores.json").read_text() == before
    for step in (4, 6):  # now it is the newest; what scores.json has is of weights that are gone
        shutil.rmtree(folder / "checkpoints" / f"{step:010d}")
    assert run(f"--run={folder}", "--checkpoint=2").returncode == 0
    assert json.loads((folder / "scores.json").read_text())["run"]["step"] == 2


def test_an_evaluation_that_was_stopped_goes_on_and_scores_the_same(trained, tmp_path):
    """Killed, then asked to stop, then left alone."""
    how = ("evaluation.epsilon = 0.2", "evaluation.sticky = 0.25", "evaluation.envs_per_game = 3")
    flags = [f"--run={trained}", "--games=Breakout", "--episodes=15"]
    bindings = [f"--gin_bindings={binding}" for binding in how]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(*flags, *bindings, f"--out={whole}").returncode == 0
    command = [sys.executable, "-m", "cql_atari.evaluate", *flags, *bindings, f"--out={cut}"]
    journal, lines = cut / "scores" / f"{8:010d}.unfinished.jsonl", 1
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = processes.Popen(command)
        until = time.time() + 120
        while not journal.exists() or len(journal.read_text().splitlines()) < lines + 3:
            assert time.time() < until and process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        lines = len(journal.read_text().splitlines())
        assert lines < 1 + 15 and not (cut / "scores.json").exists()
        if number == signal.SIGTERM:
            assert process.returncode == signals.EXIT_INTERRUPTED and "go on" in errors
        with open(journal, "a") as file:
            file.write('{"game": "Break')  # as a kill in the middle of a line leaves it
    ended = run(*flags, *bindings, f"--out={cut}")
    assert ended.returncode == 0, ended.stderr
    scores = [json.loads((folder / "scores.json").read_text()) for folder in (whole, cut)]
    assert scores[0] == scores[1] and len(scores[0]["episodes"]) == 15
    assert not journal.exists()


def test_it_follows_a_run_that_is_training_until_it_ends(tmp_path):
    """The trainer here: a process that holds the folder, and then is killed."""
    folder = tmp_path / "run"
    folder.mkdir()
    recorded_config.record_config(folder, tiny.config("train.steps = 6"))
    checkpoints(folder, 2)
    hold = f"import time; from pathlib import Path; from cql_atari.runs import folder\n" \
           f"with folder.lock_workdir(Path({str(folder)!r})): time.sleep(600)"  # fmt: skip
    trainer = processes.Popen([sys.executable, "-c", hold])
    while not workdir.is_held(folder):
        time.sleep(0.02)
    follower = processes.Popen(
        [sys.executable, "-m", "cql_atari.evaluate", f"--run={folder}", "--follow"]
    )

    def wait_for(step: int) -> None:
        until = time.time() + 120
        while not workdir.scores_of(folder, step).exists():
            assert time.time() < until and follower.poll() is None, follower.communicate()
            time.sleep(0.02)

    wait_for(2)
    first = workdir.scores_of(folder, 2).read_text()
    checkpoints(folder, 4)
    wait_for(4)
    checkpoints(folder, 6)  # the last one is the trainer's own to evaluate, but it is killed
    time.sleep(2.5)
    assert not workdir.scores_of(folder, 6).exists()
    trainer.kill()
    trainer.wait()
    _, errors = follower.communicate(timeout=120)
    assert follower.returncode == 0, errors
    assert workdir.scores_of(folder, 6).exists()
    assert workdir.scores_of(folder, 2).read_text() == first  # once
    assert json.loads((folder / "scores.json").read_text())["run"]["step"] == 6


def test_following_says_when_nobody_trains_an_unfinished_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    recorded_config.record_config(folder, tiny.config("train.steps = 8"))
    ended = run(f"--run={folder}", "--follow")
    assert ended.returncode == 2 and "no process trains there" in ended.stderr
    checkpoints(folder, 4)
    ended = run(f"--run={folder}", "--follow")
    assert ended.returncode == signals.EXIT_INTERRUPTED and "isn't finished" in ended.stderr
    assert workdir.scores_of(folder, 4).exists()
