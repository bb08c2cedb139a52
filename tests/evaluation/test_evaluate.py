"""Evaluation by its real command: a run, a policy without a run, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import tensorflow as tf
import tiny

from cql_atari import evaluate
from cql_atari.core.types import UserError
from cql_atari.methods import build
from cql_atari.runs import checkpoint
from cql_atari.runs import folder as workdir

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
    workdir.record_config(folder, config, accept_change=False)
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

    # Another protocol, or a step that isn't there, in place of the run's own scores.
    ended = run(f"--run={trained}", bindings=("evaluation.sticky = 0.5",))
    assert ended.returncode == 2 and len(played(trained)) == 4
    assert "evaluation.sticky = 0.5, recorded with 0.0" in ended.stderr and "--out" in ended.stderr
    ended = run(f"--run={trained}", "--step=4")
    assert ended.returncode == 2 and "no checkpoint of step 4; there are 8" in ended.stderr


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


@pytest.mark.parametrize("policy", ["random", "best_fixed"])
def test_a_policy_plays_the_configured_variant(tmp_path, policy):
    config = tiny.config("data.games = ('Freeway',)", "evaluation.mode = 1",
                         "evaluation.difficulty = 1")  # fmt: skip
    evaluate.evaluate_policy(policy, config, tmp_path)
    scores = json.loads((tmp_path / "scores.json").read_text())
    variants = {(episode["mode"], episode["difficulty"]) for episode in scores["episodes"]}
    assert variants == {(1, 1)}
    assert (scores["protocol"]["mode"], scores["protocol"]["difficulty"]) == (1, 1)


def test_a_policy_through_the_command(tmp_path):
    bindings = (*tiny.BINDINGS, "data.games = ('Freeway',)", "evaluation.mode = 1")
    ended = run("--policy=random", f"--out={tmp_path}", bindings=bindings)
    assert ended.returncode == 0, ended.stderr
    assert played(tmp_path) == [("Freeway", 1, seed) for seed in (1000, 1001)]


@pytest.mark.parametrize(
    "flags, words",
    [
        ((), "either --run=DIR or --policy"),
        (("--policy=random",), "--policy needs --out"),
        (("--run=/nowhere",), "/nowhere holds no run"),
        (("--run=/nowhere", "--gin_files=gin_configs/multigame.gin"), "goes with --policy"),
    ],
)
def test_mistakes_end_without_a_traceback(flags, words):
    ended = run(*flags)
    assert ended.returncode == 2 and words in ended.stderr and "Traceback" not in ended.stderr
