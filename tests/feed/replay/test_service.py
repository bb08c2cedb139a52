"""The queues, on a real server: nothing before a window is full, writers that wait for readers."""

from __future__ import annotations

import tempfile
import threading
import time

import reverb
from synthetic_episodes import make_episode

from cql_atari.feed.replay import reader, service, writer

ROWS = 16


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def size(replay, game="Pong"):
    return reverb.Client(replay.address).server_info()[game].current_size


def test_nothing_is_drawn_before_the_window_is_full():
    """A window of 4 segments; the last of them comes only when we let it."""
    more = threading.Event()

    def episodes():
        for i in range(4):
            if i == 3:
                assert more.wait(60)
            yield make_episode(i, ROWS)

    with (
        service.serve_draws(["Pong"], n_step=1) as replay,
        writer.stream(
            replay, {"Pong": [episodes]}, discount=0.9, seed=0, transitions_per_game=4 * ROWS
        ) as writers,
    ):
        assert wait_for(lambda: writers.filled() == {"Pong": (3, 4)})
        time.sleep(0.3)
        assert size(replay) == 0
        more.set()
        assert wait_for(lambda: size(replay) == service.QUEUE)
        assert writers.filled() == {"Pong": (4, 4)}


def test_a_writer_waits_while_its_queue_is_full_and_each_segment_is_read_once():
    """400 segments, each drawn twice, in a window of 10."""
    read = []

    def episodes():
        for i in range(200):
            read.append(i)
            yield make_episode(i, ROWS)

    with service.serve_draws(["Pong"], n_step=1) as replay:
        with writer.stream(
            replay, {"Pong": [episodes]}, discount=0.9, seed=0, transitions_per_game=10 * ROWS,
            samples_per_insert=2.0,
        ):  # fmt: skip
            assert wait_for(lambda: size(replay) == service.QUEUE)
            time.sleep(0.5)
            at_rest = len(read)
            assert at_rest <= 10 + (service.QUEUE + writer._PENDING) // 2 + 2
            ended = threading.Event()
            both = [reader.arrivals(replay.address, "Pong", ended.is_set) for _ in range(2)]
            taken = [next(both[i % 2]) for i in range(200)]
            assert wait_for(lambda: size(replay) == service.QUEUE)
            rows = [draw[1:] for draw in taken]
            assert max(map(rows.count, rows)) <= 2  # no draw goes to two readers
            assert at_rest + 80 < len(read) < at_rest + 200
            ended.set()
            for stream in both:
                stream.close()
        at_end = len(read)
        time.sleep(0.3)
        assert len(read) == at_end  # leaving the context ended the writer


def test_a_server_leaves_no_folder_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with service.serve_draws(["Pong"], n_step=1):
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())
