"""The real command in real processes: errors, resuming, signals, two on one folder."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
import tiny

from cql_atari.methods import build
from cql_atari.runs import checkpoint, recorded_config
from cql_atari.runs import folder as workdir
from cql_atari.system import signals
from cql_atari.training import run as experiment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Real play of two games, 600 steps each, in the DQN-Replay format."""
    folder = tmp_path_factory.mktemp("data")
    command = [sys.executable, "-m", "cql_atari.collect", f"--data_dir={folder}",
               f"--games={','.join(tiny.GAMES)}", "--steps_per_game=600", "--behaviour=random",
               "--slots_per_file=400"]  # fmt: skip
    assert processes.run(command).returncode == 0
    return folder


def command(folder, data, *bindings):
    all_bindings = (*tiny.BINDINGS, f"data.dir = '{data}'", "data.suffixes = None", *bindings)
    return [sys.executable, "-m", "cql_atari.train", f"--workdir={folder}",
            *(f"--gin_bindings={binding}" for binding in all_bindings)]  # fmt: skip


def run(*args, **kwargs):
    return processes.run(command(*args, **kwargs))


def start(folder, data, *bindings) -> processes.Popen:
    return processes.Popen(command(folder, data, *LONG, *bindings))


def wait_for(path: Path, process: processes.Popen, pattern: str = "*") -> None:
    until = time.time() + 200
    while time.time() < until:
        if list(path.glob(pattern)):
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        time.sleep(0.02)
    raise AssertionError(f"no {path}/{pattern}")


LONG = ("train.steps = 400", "train.save_every = 20", "train.log_every = 20")


def test_a_signal_saves_and_exits_with_its_own_code(tmp_path, data):
    """SIGTERM; the others by their handler (tests/system/test_signals.py), SIGHUP below, too.

    That it goes on from there bit for bit: test_faults.py.
    """
    folder = tmp_path / "run"
    process = start(folder, data)
    wait_for(folder / "checkpoints", process, f"*{20:010d}")
    second = run(folder, data, *LONG)  # while the first one holds the folder
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    if process.returncode == 0:  # it was faster than the second process's refusal
        pytest.fail("the run ended before the signal; make it longer")
    assert process.returncode == signals.EXIT_INTERRUPTED, errors
    assert "Traceback" not in errors
    assert second.returncode == 2
    assert f"in use by process {process.pid}" in second.stderr
    saved = max(checkpoint.steps(folder / "checkpoints"))
    assert 20 <= saved < 400


UNDER_A_TERMINAL = """
import fcntl, os, runpy, sys, termios
os.setsid()
terminal = os.open(sys.argv.pop(1), os.O_RDWR)
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
for number in range(3):
    os.dup2(terminal, number)
runpy.run_module("cql_atari.train", run_name="__main__")
"""


def test_the_end_of_its_terminal_is_a_request_to_stop(tmp_path, data):
    folder, (ours, theirs) = tmp_path / "run", os.openpty()
    _, _, _, *flags = command(folder, data, *LONG, "train.steps = 100000")
    process = processes.Popen([sys.executable, "-c", UNDER_A_TERMINAL, os.ttyname(theirs), *flags])
    until = time.time() + 200
    while not checkpoint.steps(folder / "checkpoints"):
        assert time.time() < until and process.poll() is None
        if select.select([ours], [], [], 0.1)[0]:  # else it would wait for us to read
            os.read(ours, 10_000)
    os.close(theirs)
    os.close(ours)
    assert process.wait(120) == signals.EXIT_INTERRUPTED
    assert checkpoint.steps(folder / "checkpoints")[-1] < 100_000


def test_a_signal_in_an_evaluation_saves_and_the_evaluation_is_made_up_for(tmp_path, data):
    folder = tmp_path / "run"
    endless = ("evaluation.every = 8", "evaluation.curve_episodes = 2000")
    process = start(folder, data, *endless, "evaluation.max_frames = 108000")
    wait_for(folder / "tensorboard", process)
    time.sleep(2)  # it plays
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == signals.EXIT_INTERRUPTED, errors
    assert "Traceback" not in errors
    assert checkpoint.steps(folder / "checkpoints") == [0]
    assert all(".unfinished" in path.name for path in (folder / "scores").iterdir())
    assert not (folder / "scores.json").exists()

    command_line = command(folder, data, *LONG, "evaluation.every = 8", "train.steps = 8")
    ended = processes.run([*command_line, "--accept_config_change"])
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.stem for path in (folder / "scores").iterdir()) == [f"{0:010d}", f"{8:010d}"]


def test_scores_are_made_once_and_a_stop_leaves_none(tmp_path):
    config = tiny.config()
    stop = []
    evaluate = experiment.make_evaluate(
        config, build.build(config), tmp_path, 4, lambda: bool(stop)
    )
    assert "evaluation/score/Breakout" in evaluate(4, 1)
    written = workdir.scores_of(tmp_path, 4)
    before = written.stat().st_mtime_ns
    assert evaluate(4, 1) == {}  # the run goes on at step 4 and has them
    assert written.stat().st_mtime_ns == before
    assert evaluate(6, 1) and evaluate(6, 1)  # not where it goes on: another life's may lie there
    stop.append(True)
    assert evaluate(8, 1) is None
    assert not workdir.scores_of(tmp_path, 8).exists()


def test_a_run_leaves_scores_logs_and_its_configuration(tmp_path, data):
    folder = tmp_path / "run"
    result = run(folder, data, "feed.kind = 'replay'", "evaluation.every = 4")
    assert result.returncode == 0, result.stderr
    scores = json.loads((folder / "scores.json").read_text())
    assert len(scores["episodes"]) == 2 * len(tiny.GAMES)
    assert min(scores["run"]["parameters"].values()) > 0
    (start,) = json.loads((folder / "system.json").read_text())["starts"]
    assert start["hardware"]["hosts"] == 1
    assert (folder / "scores" / f"{4:010d}.json").exists()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = set().union(*lines)
    assert {"loss/td", "speed/data_wait_share", "evaluation/score/Breakout",
            "evaluation/human_normalised/iqm"} <= names  # fmt: skip
    assert list((folder / "tensorboard").glob("events*"))
    assert recorded_config.read_config(folder).data.games == tiny.GAMES
    # The page about a run's folder lists all that lies there.
    listed = {line.strip().split("  ")[0] for line in workdir.__doc__.splitlines()}
    assert {path.name for path in folder.iterdir()} <= {path.split("/")[0] for path in listed}
    changed = ("evaluation.every = 4", "train.seed = 5", "online.mode = 1")
    again = run(folder, data, "feed.kind = 'replay'", *changed)
    assert again.returncode == 2
    assert "online.mode has no effect with train.phase = 'offline'" in again.stderr
    assert "-train.seed = 0" in again.stderr
    assert "+train.seed = 5" in again.stderr


def test_a_run_does_not_go_on_with_other_data(tmp_path, data):
    folder, mine = tmp_path / "run", tmp_path / "data"
    shutil.copytree(data, mine)
    short = ("data.fraction = 0.5", "train.steps = 2", "train.save_every = 2")
    first = run(folder, mine, *short)
    assert first.returncode == 0, first.stderr
    assert "transitions" in first.stderr  # the table
    made = json.loads((folder / "manifest.json").read_text())
    assert [entry["game"] for entry in made["sources"]] == list(tiny.GAMES)
    recorded = (folder / "config.json").read_bytes()
    larger = processes.run([*command(folder, mine, *short, "network.feed_forward = (32,)"),
                            "--accept_config_change"])  # fmt: skip
    assert larger.returncode == 2 and "doesn't fit this network" in larger.stderr
    assert (folder / "config.json").read_bytes() == recorded  # the run can still be evaluated
    turned = processes.run([*command(folder, mine, *short, f"data.games = {tiny.GAMES[::-1]}"),
                            "--accept_config_change"])  # fmt: skip
    assert turned.returncode == 2  # each game would have the other's head
    assert "has heads for Breakout, Freeway, in this order" in turned.stderr
    other = mine / "Freeway" / "1" / "replay_logs" / "$store$_reward_ckpt.0.gz"
    shutil.copy(mine / "Breakout" / "1" / "replay_logs" / other.name, other)
    second = run(folder, mine, *short)
    assert second.returncode == 2 and "Traceback" not in second.stderr
    assert "Freeway, run 1, suffix 0, $store$_reward_ckpt.0.gz" in second.stderr


@pytest.mark.parametrize(
    "flags, words",
    [
        ((), ["data.dir is not set", "replay_logs", "make quickstart"]),
        (("--gin_bindings=data.dir='/nowhere'",), ["/nowhere", "Amidar", "collect"]),
        (("--gin_files=gin_configs/multgame.gin",), ["did you mean 'gin_configs/multigame.gin'"]),
        (("--gin_bindings=data.games=('Breakuot',)",), ["Breakuot", "Breakout"]),
        (("--gin_bindings=los.kind='mse'",), ["los", "loss"]),
        (("--gin_bindings=train.method='clonin'",), ["nearest: 'cloning'"]),
        (("surplus",), ["surplus"]),
        (("--workdir=",), ["--workdir=: give the path of a folder"]),
        (("--workdir=gs://bucket/run",), ["--workdir=gs://bucket/run: give the path of a folder"]),
        (("--gin_files=" + "x" * 300,), ["File name too long", "correct the path"]),
        (
            (
                "--gin_bindings=train.phase='online'",
                "--gin_bindings=data.games=('Freeway',)",
                "--gin_bindings=evaluation.mode=9",
                "--gin_bindings=evaluation.every=0",
            ),
            ["Freeway has no mode 9; it offers 0, 1"],
        ),
    ],
)
def test_mistakes_end_at_once_without_a_traceback(tmp_path, flags, words):
    start = time.time()
    result = subprocess.run(
        [sys.executable, "-m", "cql_atari.train", f"--workdir={tmp_path / 'run'}", *flags],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert not (tmp_path / "run").exists()
    assert time.time() - start < 20  # 2 s on an idle machine: TensorFlow is not imported


def test_print_config_counts_parameters_and_does_not_train(tmp_path):
    result = processes.run(
        [sys.executable, "-m", "cql_atari.train", "--print_config", f"--workdir={tmp_path / 'r'}",
         "--gin_files=gin_configs/multigame.gin",
         "--gin_files=gin_configs/networks/resnet_small.gin"]
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert any(
        line.startswith("network.widths = (16, 32)  # gin_configs/networks/resnet_small.gin, line ")
        for line in lines
    )
    assert "network.depths = (1, 1) (gin_configs/networks" not in result.stderr  # laid over it
    assert lines[-1] == f"head parameters: {40 * (512 * 18 * 51 + 18 * 51)}"
    assert lines[-2].startswith("trunk parameters: ")
    assert not (tmp_path / "r").exists()


@pytest.mark.proof  # with a process that only holds the folder: tests/evaluation/test_evaluate.py
def test_an_evaluation_that_follows_scores_every_checkpoint_once(tmp_path, data):
    folder = tmp_path / "run"
    often = ("train.save_every = 100", "train.keep = 9", "evaluation.max_frames = 80")
    trainer = start(folder, data, *often)
    wait_for(folder, trainer, "config.json")
    follow = [sys.executable, "-m", "cql_atari.evaluate", f"--run={folder}", "--follow"]
    ended = processes.run(follow)
    output, errors = trainer.communicate(timeout=120)
    assert trainer.returncode == 0, errors
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr
    scored = [100, 200, 300, 400]
    assert checkpoint.steps(folder / "checkpoints") == scored
    assert [int(path.stem) for path in sorted((folder / "scores").iterdir())] == scored
    for step in scored[:-1]:
        assert ended.stderr.count(f"step {step} of") == 1
    assert f"step {scored[-1]} of" not in ended.stderr  # the trainer's own
    assert "next: python -m cql_atari.report" in output and "Freeway" in output
