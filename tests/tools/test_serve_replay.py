"""The replay as a service, by its real command: games, metrics, stops, kills on both sides."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import sys
import time
from types import SimpleNamespace

import processes
import pytest
import tiny
from dopamine_files import steps_of, write_run

from cql_atari.core.types import UserError
from cql_atari.feed.replay.interleave import START
from cql_atari.feed.replay.writer import Place, read_place
from cql_atari.runs import checkpoint
from cql_atari.runs import folder as workdir
from cql_atari.system import cli, signals
from cql_atari.tools import serve_replay

pytestmark = pytest.mark.slow

GAMES = ("Breakout", "Pong")
BINDINGS = (
    *tiny.BINDINGS,
    f"data.games = {GAMES}",
    "data.suffixes = None",
    "feed.kind = 'replay'",
    "feed.transitions_per_game = 160",
    "train.steps = 100_000",
    "train.save_every = 20",
    "train.log_every = 20",
)

SERVE = "cql_atari.tools.serve_replay"


@contextlib.contextmanager
def run(module, log, *arguments):
    """A command of ours; its stderr goes to the file."""
    bindings = [f"--gin_bindings={binding}" for binding in BINDINGS]
    with open(log, "w") as file:
        process = processes.Popen(
            [sys.executable, "-m", module, *bindings, *arguments], stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition, *processes_and_logs):
    """Waits while all processes live; each is followed by its log."""
    until = time.monotonic() + 500
    while not condition():
        for process, log in zip(processes_and_logs[::2], processes_and_logs[1::2]):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.05)


def some_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def newest(folder):
    return max(checkpoint.steps(folder / "checkpoints"), default=0)


def stopped(process):
    process.send_signal(signal.SIGTERM)
    return process.wait(120)


def test_servers_and_learner_outlive_each_other(tmp_path):
    """One story: the learner is there first; the server is killed and started again; the learner
    is killed and started again; each is stopped while the other is gone.
    """
    data, folder = tmp_path / "data", tmp_path / "run"
    for game in GAMES:
        (data / game / "1" / "replay_logs").mkdir(parents=True)
        write_run(data / game / "1" / "replay_logs", steps_of(*[50] * 16), 400)
    port = some_port()
    serving = ("cql_atari.tools.serve_replay", tmp_path / "server",
               f"--gin_bindings=data.dir = '{data}'",
               f"--port={port}", f"--workdir={tmp_path / 'served'}")  # fmt: skip
    learning = ("cql_atari.train", tmp_path / "learner",
                f"--workdir={folder}",
                f"--gin_bindings=feed.servers = ('localhost:{port}',)")  # fmt: skip
    server_log, log = serving[1], learning[1]

    with run(*learning) as learner:
        wait_for(lambda: f"no replay server answers at localhost:{port}" in log.read_text(),
                 learner, log)  # fmt: skip
        with run(*serving) as server:
            wait_for(lambda: newest(folder) >= 20, learner, log, server, server_log)
            assert re.search(rf"{GAMES[0]} +\d+ of 10 ", server_log.read_text())
            server.kill()
            server.wait()
        before = log.read_text().count("no replay server")
        wait_for(lambda: log.read_text().count("no replay server") > before, learner, log)
        reached = newest(folder)
        with run(*serving) as server:
            wait_for(lambda: newest(folder) >= reached + 20, learner, log, server, server_log)
            learner.kill()
            learner.wait()
            reached = newest(folder)
            with run(*learning) as second:
                wait_for(lambda: newest(folder) >= reached + 20, second, log)
                assert server.poll() is None
                assert stopped(server) == signals.EXIT_INTERRUPTED
                wait_for(lambda: "no replay server" in log.read_text(), second, log)
                asked = time.monotonic()
                assert stopped(second) == signals.EXIT_INTERRUPTED
                assert time.monotonic() - asked < 15  # the server is gone: once 46 s
    text = log.read_text() + server_log.read_text()
    assert "Traceback" not in text and newest(folder) >= reached + 20
    places = serve_replay.read_places(tmp_path / "served")
    assert places.keys() == set(GAMES)
    assert all(read_place(place, 16).period > 0 for place in places.values())
    selection = json.loads((folder / "manifest.json").read_text())
    assert [source["game"] for source in selection["sources"]] == list(GAMES)


def test_games_are_shared_in_the_order_of_the_run():
    config = tiny.config("feed.kind = 'replay'", "feed.servers = ('a:1',)")
    shared = serve_replay.choose_games(config, list(tiny.GAMES[::-1]))
    assert shared.data.games == tiny.GAMES and not shared.feed.servers
    assert serve_replay.choose_games(config, [tiny.GAMES[1]]).data.games == tiny.GAMES[1:]
    with pytest.raises(UserError, match=r"--games=Pong: .* choose among Breakout, Freeway\."):
        serve_replay.choose_games(config, ["Pong"])
    with pytest.raises(UserError, match=r"'memory': .*served; set it to 'replay'"):
        serve_replay.choose_games(tiny.config(), [])


def test_metrics_by_hand():
    """A writer waits while its queue of 64 is full, a learner while it is empty."""

    def info(queued, taken):
        stats = SimpleNamespace(sample_stats=SimpleNamespace(completed=taken))
        return SimpleNamespace(current_size=queued, max_size=64, rate_limiter_info=stats)

    first, taken = serve_replay.show_traffic(
        {"Pong": info(0, 0), "Boxing": info(9, 40), "record": info(1, 3)},
        {"Pong": (1, 10), "Boxing": (10, 10)}, {}, 1.0,
    )  # fmt: skip
    second, taken = serve_replay.show_traffic(
        {"Pong": info(64, 168), "Boxing": info(10, 80)},
        {"Pong": (10, 10), "Boxing": (10, 10)}, taken, 10.0,
    )  # fmt: skip
    assert taken == {"Pong": 168, "Boxing": 80}
    assert [line.split() for line in first.splitlines()[1:]] == [
        ["Pong", "1", "of", "10", "0", "0.0", "learner"],
        ["Boxing", "10", "of", "10", "9", "0.0", "-"],
    ]
    assert [line.split() for line in second.splitlines()[1:]] == [
        ["Pong", "10", "of", "10", "64", "16.8", "writer"],
        ["Boxing", "10", "of", "10", "10", "4.0", "-"],
    ]


def test_places_are_kept_and_damage_is_told(tmp_path):
    assert serve_replay.read_places(tmp_path) == {}
    places = {"Pong": Place(1, START, 3), "Boxing": Place()}
    writers = SimpleNamespace(filled=lambda: places, place=lambda game, drawn: places[game])
    serve_replay.write_places(tmp_path, writers)
    found = serve_replay.read_places(tmp_path)
    assert {game: read_place(place, 6) for game, place in found.items()} == places
    for damaged in ("[1]", '{"Pong": 1', "[" * 100_000):
        (tmp_path / workdir.PLACES).write_text(damaged)
        with pytest.raises(UserError, match=r"places\.json is damaged"):
            serve_replay.read_places(tmp_path)


# Before it serves.


@pytest.fixture
def data(tmp_path):
    """Three groups of one game, and the flags that serve them."""
    logs = tmp_path / "data" / "Pong" / "1" / "replay_logs"
    logs.mkdir(parents=True)
    write_run(logs, steps_of(*[50] * 12), 250)
    return tmp_path / "data"


def flags(data, folder, port, *bindings):
    mine = (f"data.dir = '{data}'", "data.games = ('Pong',)", *bindings)
    return (f"--port={port}", f"--workdir={folder}",
            *(f"--gin_bindings={binding}" for binding in mine))  # fmt: skip


def test_a_server_does_not_go_on_with_other_data(data, tmp_path):
    """Its writers' places are episodes of the data that it began with."""
    folder, log, port = tmp_path / "served", tmp_path / "log", some_port()
    with run("cql_atari.tools.serve_replay", log, *flags(data, folder, port)) as server:
        wait_for((folder / workdir.PLACES).exists, server, log)
        assert stopped(server) == signals.EXIT_INTERRUPTED
    before = (folder / "manifest.json").read_bytes()
    other = flags(data, folder, port, "data.suffixes = (1,)")
    with run("cql_atari.tools.serve_replay", log, *other) as server:
        assert server.wait(120) == 2
    assert "was started on other data:\n  Pong, run 1, suffix 0" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert (folder / "manifest.json").read_bytes() == before
    with run("cql_atari.tools.serve_replay", log, *flags(data, folder, port)) as server:
        wait_for(lambda: "serving Pong" in log.read_text(), server, log)


def test_a_taken_port_is_told_before_the_survey(data, tmp_path):
    folder, log = tmp_path / "served", tmp_path / "log"
    with (
        socket.create_server(("", 0)) as taken,
        run(
            "cql_atari.tools.serve_replay", log, *flags(data, folder, taken.getsockname()[1])
        ) as server,
    ):
        assert server.wait(120) == 2
    assert "can't listen on port" in log.read_text() and "Traceback" not in log.read_text()
    assert not (folder / "manifest.json").exists()


SLOW = """
import runpy, sys, time
from cql_atari.data import sources
def survey(*args, **kwargs):
    print("surveying", file=sys.stderr, flush=True)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        time.sleep(0.05)
    return []
sources.survey = survey
runpy.run_module("cql_atari.tools.serve_replay", run_name="__main__")
"""


@pytest.mark.parametrize("number", [1, 2])
def test_a_signal_ends_the_survey(data, tmp_path, number):
    """One: after the group that is surveyed, 3 s each. Two: at once."""
    folder, log = tmp_path / "served", tmp_path / "log"
    arguments = [f"--gin_bindings={binding}" for binding in BINDINGS]
    with open(log, "w") as file:
        server = processes.Popen(
            [sys.executable, "-c", SLOW, *arguments, *flags(data, folder, some_port())],
            stdout=file, stderr=file,
        )  # fmt: skip
    try:
        wait_for(lambda: "surveying" in log.read_text(), server, log)
        for _ in range(number):
            server.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        code, told = {
            1: (signals.EXIT_INTERRUPTED, "run the same command to go on"),
            2: (cli.EXIT_CTRL_C, "ended at once by a second signal"),
        }[number]
        assert server.wait(60) == code
    finally:
        server.kill()
        server.wait()
    assert told in log.read_text()
    assert "Traceback" not in log.read_text()
    assert log.read_text().count("surveying\n") == 1
    assert not (folder / "manifest.json").exists()
