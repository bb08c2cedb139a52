"""Replay servers as a learner sees them: found, refused, killed, back again."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import signal
import socket
import sys
import threading
import time

import numpy as np
import processes
import pytest
import reverb
import tensorflow as tf
import tiny
from synthetic_episodes import make_episode, tags

from cql_atari.core.types import UserError
from cql_atari.feed.replay import reader, remote, service, writer
from cql_atari.feed.sampling import BatchLaw, draw_games

pytestmark = pytest.mark.slow

GAMES = tiny.GAMES
OTHER: dict = {"sources": []}
DATA = {"sources": [{"game": game, "run": 1} for game in GAMES]}


def config(*servers, n_step=3):
    made = tiny.config("feed.kind = 'replay'", "train.seed = 7", f"feed.n_step = {n_step}")
    return dataclasses.replace(made, feed=dataclasses.replace(made.feed, servers=servers))


def some_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def server(games=GAMES, *, n_step=3, manifest=DATA, port=None):
    """A server with two episodes a game; yields its address."""
    port = port or some_port()
    mine = dataclasses.replace(tiny.config().data, games=tuple(games))
    record = remote.make_record(dataclasses.replace(config(n_step=n_step), data=mine), manifest)
    parts = {
        game: [lambda game=game: iter([make_episode(GAMES.index(game), 40, game=game)])]
        for game in games
    }
    with (
        service.serve_draws(games, n_step=n_step, port=port, record=record) as replay,
        writer.stream(replay, parts, discount=0.99, seed=0, transitions_per_game=160),
    ):
        yield replay.address


@contextlib.contextmanager
def server_process(port, manifest):
    """A process that serves (see below): Reverb takes shortcuts within one process."""
    command = [sys.executable, "-m", "test_remote", port, json.dumps(manifest)]
    process = processes.Popen(command)
    try:
        until = time.monotonic() + 60
        while process.said()[0] != "serving\n":
            assert process.poll() is None and time.monotonic() < until, process.said()
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def never():
    return False


def test_each_game_is_found_on_its_server_and_the_manifest_is_put_together():
    with server(GAMES[1:]) as one, server(GAMES[:1]) as other:
        found = remote.ask_servers(config(one, other), never)
    assert list(found.addresses.items()) == [(GAMES[0], other), (GAMES[1], one)]
    assert found.manifest == {"n_step": 3, **DATA}


def test_what_does_not_fit_is_refused():
    with server(GAMES[:1]) as one, server(GAMES) as both, server(GAMES, n_step=1) as short:
        for servers, message in (
            ((one,), f"{GAMES[1]} is served by none of feed.servers"),
            ((one, both), f"{GAMES[0]} is served by {one} and {both}"),
            ((short,), "n_step 1 there, 3 here"),
        ):
            with pytest.raises(UserError, match=message):
                remote.ask_servers(config(*servers), never)
    with (
        service.serve_draws(["Pong"], n_step=3) as replay,
        pytest.raises(UserError, match="serves Pong: no replay of"),
    ):
        remote.ask_servers(config(replay.address), never)
    with pytest.raises(UserError, match=r"set feed\.kind to 'replay'"):
        tiny.config("feed.servers = ('a:1',)")


def test_a_taken_port_is_refused():
    with (
        server() as address,
        pytest.raises(UserError, match="can't listen on port"),
        server(port=int(address.split(":")[1])),
    ):
        pass


def test_waiting_for_a_server_ends_when_told_to_stop(caplog):
    with pytest.raises(KeyboardInterrupt):
        remote.ask_servers(config(f"localhost:{some_port()}"), lambda: True)
    assert "no replay server answers at localhost" in caplog.text


def test_an_ipv6_address_is_asked_without_its_brackets_and_the_reason_is_told(caplog, monkeypatch):
    asked = []

    def refuse(address, _):
        asked.append(address)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "create_connection", refuse)
    for address in ("[::1]:8000", "datahots:8000"):
        with pytest.raises(KeyboardInterrupt):
            remote.ask_servers(config(address), lambda: True)
        assert f"no replay server answers at {address} (Name or service not known)" in caplog.text
    assert asked == [("::1", 8000), ("datahots", 8000)]


def test_a_name_that_is_none_is_no_answer_either():
    """An empty label: the name can't even be encoded for asking."""
    with pytest.raises(KeyboardInterrupt):
        remote.ask_servers(config("data..host:8000"), lambda: True)


def test_batches_are_those_of_a_replay_in_this_process():
    run = config()
    law = BatchLaw(run.feed.draws, run.feed.transitions_per_draw)
    with server() as address, remote.open_remote(config(address), 6, never) as make:
        data = make(slice(2, 6))
        batches = list(data.take(3).as_numpy_iterator())
        replay = service.Replay(address, GAMES, 3, contextlib.ExitStack())
        local = reader.dataset(
            replay, law, seed=7, start_step=6, steps_per_call=2, rows=slice(2, 6), private=False
        )
        assert data.element_spec == local.element_spec
    for step, games in enumerate(np.concatenate([batch.games for batch in batches]), 6):
        np.testing.assert_array_equal(games, np.repeat(draw_games(law, 2, 7, step), 2)[2:6])
    for batch in batches:  # an episode's frames hold its number + 1: rows are their own game's
        np.testing.assert_array_equal(tags(batch.frames)[..., 3, 0] - 1, batch.games)


def test_a_lost_server_is_waited_for_and_refused_with_other_data(caplog):
    """No batch is left out or given twice: their games are a function of the step."""
    run, port = config(), some_port()
    law = BatchLaw(run.feed.draws, run.feed.transitions_per_draw)
    address = f"localhost:{port}"
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(server_process(port, DATA))
        make = stack.enter_context(remote.open_remote(config(address), 0, never))
        batches = make(slice(None)).as_numpy_iterator()
        games = [next(batches).games for _ in range(3)]
        for nth, manifest in enumerate([DATA, OTHER], 1):
            process.kill()
            process.wait()
            drawing = threading.Thread(
                target=lambda: games.extend(batch.games for batch in itertools.islice(batches, 20)),
                daemon=True,
            )
            drawing.start()
            until = time.monotonic() + 60
            while caplog.text.count(f"no replay server answers at {address}") < nth:
                assert drawing.is_alive() and time.monotonic() < until
                time.sleep(0.05)
            process = stack.enter_context(server_process(port, manifest))
            drawing.join(60)
            assert not drawing.is_alive()
            assert caplog.text.count(f"the replay server at {address} answers") == nth
        assert 23 <= len(games) < 43  # with other data there is none but those drawn before
        names = rf"(?s){address} has other data .*: {GAMES[0]}, run 1; {GAMES[1]}, run 1.*Start it"
        with pytest.raises(UserError, match=names):
            stack.close()
    for step, found in enumerate(np.concatenate(games)):
        np.testing.assert_array_equal(found, np.repeat(draw_games(law, 2, 7, step), 2))


def test_a_learner_whose_server_is_gone_ends_soon_when_told_to_stop(caplog):
    """However many batches it had drawn ahead: at most 15 s from the signal to the end."""
    address, stop = f"localhost:{(port := some_port())}", threading.Event()
    with server_process(port, DATA) as process:
        with remote.open_remote(config(address), 0, stop.is_set) as make:
            batches = make(slice(None)).as_numpy_iterator()
            next(batches)
            process.kill()
            process.wait()
            drawing = threading.Thread(target=lambda: list(batches), daemon=True)
            drawing.start()
            until = time.monotonic() + 60
            while f"no replay server answers at {address}" not in caplog.text:
                assert time.monotonic() < until
                time.sleep(0.05)
            told = time.monotonic()
            stop.set()
            drawing.join(60)
        assert not drawing.is_alive() and time.monotonic() - told < 15


def insert(address, wrong):
    for game in GAMES:
        with reverb.Client(address).trajectory_writer(1) as writing:
            writing.append({"segment": np.array(wrong, object)})
            writing.create_item(game, 1.0, {"segment": writing.history["segment"][-1]})


@pytest.mark.parametrize("wrong", [b"", b"no zlib"])
def test_inserted_bytes_that_are_no_segment_end_the_learner_with_one_error(wrong):
    """Whether the replay is elsewhere or in the learner's process."""
    with service.serve_draws(GAMES, n_step=3, record=remote.make_record(config(), DATA)) as replay:
        insert(replay.address, wrong)
        with (
            pytest.raises(UserError, match=f"table {GAMES[0]}|table {GAMES[1]}"),
            remote.open_remote(config(replay.address), 0, never) as make,
        ):
            assert list(make(slice(None)).take(1)) == []
    with service.serve_draws(GAMES, n_step=3) as replay:
        insert(replay.address, wrong)
        failures: list[UserError] = []
        data = reader.dataset(
            replay, BatchLaw(4, 2), seed=0, start_step=0, steps_per_call=2, failures=failures
        )
        with pytest.raises(tf.errors.OpError):
            next(iter(data))
    assert "holds what is no segment" in str(failures[0])


if __name__ == "__main__":
    with server(port=int(sys.argv[1]), manifest=json.loads(sys.argv[2])):
        sys.stdout.write("serving\n")
        sys.stdout.flush()
        signal.pause()
