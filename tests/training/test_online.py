"""The online phase through the real command: signals, kill -9, each frame counted once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time

import numpy as np
import processes
import pytest
import tensorflow as tf
import tiny

from cql_atari.core.types import UserError
from cql_atari.feed.feed import Feed
from cql_atari.feed.online import exchange, feed, replay
from cql_atari.feed.online.actor import Tally
from cql_atari.feed.online.complete import complete
from cql_atari.feed.online.limits import Pace
from cql_atari.methods import build
from cql_atari.recording import scripted
from cql_atari.recording.folder import Job
from cql_atari.runs import checkpoint
from cql_atari.system import signals

pytestmark = pytest.mark.slow

FRAMES = 1600
BINDINGS = (
    *tiny.BINDINGS,
    "data.games = ('Freeway',)",
    "train.phase = 'online'",
    "loss.cql_alpha = 0.0",
    f"online.frames = {FRAMES}",
    "online.num_envs = 4",
    "online.mode = 1",
    "online.first_fill = 100",
    "online.epsilon_decay_frames = 1000",
    "evaluation.mode = 1",
    "train.save_every = 20",
    "train.log_every = 20",
)


def command(folder, *bindings):
    return [sys.executable, "-m", "cql_atari.train", f"--workdir={folder}",
            *(f"--gin_bindings={binding}" for binding in (*BINDINGS, *bindings))]  # fmt: skip


def start(folder, *bindings, err=None) -> processes.Popen:
    return processes.Popen(command(folder, *bindings), stderr=err)


def wait_for(condition, process, seconds=300.0):
    until = time.time() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.time() < until
        time.sleep(0.02)


def frames_of(folder, step):
    return checkpoint.read_extra(folder / "checkpoints", step)["frames"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """300 steps of Freeway, recorded."""
    folder = tmp_path_factory.mktemp("recorded")
    job = Job(game="Freeway", run=1, steps=300, behaviour="random", epsilons=(1.0,),
                      slots_per_file=400, seed=0, rom_dir=None)  # fmt: skip
    scripted.collect_game(folder, job, lambda steps: None)
    return folder


def test_killed_it_refills_its_replay_and_counts_no_frame_twice(tmp_path, recorded):
    folder = tmp_path / "run"
    mixed = ("online.offline_share = 0.25", f"data.dir = '{recorded}'", "data.suffixes = None")
    process = start(folder, *mixed)
    wait_for(lambda: max(checkpoint.steps(folder / "checkpoints"), default=0) >= 40, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed_at = max(checkpoint.steps(folder / "checkpoints"))
    before = frames_of(folder, killed_at)
    assert 400 + 4 * killed_at * 8 / 8 - 600 < before < FRAMES
    logged = len((folder / "metrics.jsonl").read_text().splitlines())

    process = start(folder, *mixed)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert f"({before} frames, step {killed_at}) is gone: refilling it with 100" in errors
    # (1600 / 4 - 100) transitions of which each is worth a batch of 8; 8 draws each.
    assert max(checkpoint.steps(folder / "checkpoints")) == 300
    assert frames_of(folder, 300) == FRAMES
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    frames = [line["online/frames"] for line in lines[logged:]]
    assert frames == sorted(frames)
    assert frames[0] >= before + 400  # the refill counts
    assert frames[-1] == FRAMES
    assert lines[-2]["online/epsilon"] == pytest.approx(0.01)
    scores = json.loads((folder / "scores.json").read_text())
    assert {episode["mode"] for episode in scores["episodes"]} == {1}


def test_a_signal_in_the_first_fill_saves_what_was_acted(tmp_path):
    folder, said = tmp_path / "run", ""
    ours, theirs = os.openpty()  # a terminal, on which progress is shown twice a second
    with os.fdopen(theirs, "w") as file:
        process = start(folder, "online.first_fill = 200000", "online.frames = 4000000", err=file)
    while not re.search(r"filling the replay: [1-9][\d,]* of 200,000", said):
        said += os.read(ours, 1_000).decode()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == signals.EXIT_INTERRUPTED, said
    said += os.read(ours, 10_000).decode()
    os.close(ours)
    assert "Traceback" not in said
    assert checkpoint.steps(folder / "checkpoints") == [0]
    assert frames_of(folder, 0) > 0
    assert frames_of(folder, 0) % 16 == 0  # 4 copies, no game has ended yet


def test_it_finishes_while_the_server_of_recorded_play_is_down():
    """The thread that draws waits for recorded rows; leaving the feed ends that wait."""
    waiting = threading.Event()

    @contextlib.contextmanager
    def open_recorded(config, start_step, *, should_stop, **_):
        def rows():
            while not should_stop():
                waiting.set()
                time.sleep(0.01)
            yield from ()

        yield Feed(lambda _: rows())

    bindings = (*BINDINGS[len(tiny.BINDINGS) :], "online.offline_share = 0.5")
    config = complete(tiny.config(*bindings))
    method = build.build(config)
    with feed.open_feed(
        config, open_recorded, method, 0, state={}, should_stop=lambda: False
    ) as online:
        assert online.batches(slice(None)) is not None
        assert waiting.wait(60)
        left = time.monotonic()
    assert time.monotonic() - left < 15


def test_an_error_of_recorded_play_is_the_feeds_error():
    def damaged():
        raise UserError("0.segments is damaged")

    @contextlib.contextmanager
    def open_recorded(*_, **__):
        yield Feed(lambda _: iter(()), check=damaged)

    bindings = (*BINDINGS[len(tiny.BINDINGS) :], "online.offline_share = 0.5")
    config = complete(tiny.config(*bindings))
    with (
        feed.open_feed(
            config, open_recorded, build.build(config), 0, state={}, should_stop=lambda: False
        ) as online,
        pytest.raises(UserError, match=r"0.segments is damaged"),
    ):
        online.check()


def test_it_says_so_while_no_actor_is_connected(monkeypatch, caplog):
    monkeypatch.setattr(feed, "_SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(feed, "_GOODBYE_SECONDS", 0)
    config = complete(tiny.config(*BINDINGS[len(tiny.BINDINGS) :]))
    method, tally = build.build(config), Tally(1000)
    with replay.serve_play(
        3, 100, Pace(1.0, 1, (-1e9, 1e9)), more=exchange.make_tables()
    ) as address:
        with feed._remote_actors(config, address, method, tally, lambda: False) as tick:
            for _ in range(8):
                tick(True)
                time.sleep(0.2)
            said = [
                record.getMessage() for record in caplog.records if "no actor" in record.message
            ]
            assert 2 <= len(said) <= 3
            assert "python -m cql_atari.tools.act --learner=" in said[0]
            port = address.split(":")[1]
            assert said[0].endswith(f":{port}")

            actor = exchange.ActorEnd(address)
            assert actor.config() == config
            frames, weights = actor.weights()
            assert frames == 1000
            for variable, array in zip(method.network.variables, weights):
                np.testing.assert_array_equal(variable.numpy(), array)
            actor.report([3.0, 4.0])
            tick(True)
            assert tally.take_scores() == [3.0, 4.0]
            assert tally.frames == 1000
        assert actor.weights() is None  # a learner that leaves without being stopped says so


def test_the_learner_goes_on_while_weights_are_sent(monkeypatch):
    monkeypatch.setattr(feed, "_GOODBYE_SECONDS", 0)
    config = complete(tiny.config(*BINDINGS[len(tiny.BINDINGS) :]))
    method, tally = build.build(config), Tally(0)
    before = [variable.numpy() for variable in method.network.variables]
    go, publish = threading.Event(), exchange.LearnerEnd.publish

    def slow(*arguments):
        assert go.wait(60)
        publish(*arguments)

    monkeypatch.setattr(exchange.LearnerEnd, "publish", slow)
    with (
        replay.serve_play(
            3, 100, Pace(1.0, 1, (-1e9, 1e9)), more=exchange.make_tables()
        ) as address,
        feed._remote_actors(config, address, method, tally, lambda: False) as tick,
    ):
        for variable in method.network.variables:  # the learner's next step
            variable.assign_add(tf.ones_like(variable))
        tick(False)
        go.set()
        _, weights = exchange.ActorEnd(address).weights()
        for value, array in zip(before, weights):  # whole, from between two steps
            np.testing.assert_array_equal(value, array)
