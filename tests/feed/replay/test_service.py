"""The tables' limits, on a real server: first fill, window, writers that wait for the reader."""

from __future__ import annotations

import threading
import time

import reverb
from synthetic_episodes import make_episode, tags, unknown

from cql_atari.feed.replay import reader as replay_reader
from cql_atari.feed.replay import service, writer
from cql_atari.feed.sampling import BatchLaw

ROWS = 16
LAW = BatchLaw(16, 1)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def size(replay, game="Pong"):
    return reverb.Client(replay.address).server_info()[game].current_size


def test_no_batch_before_the_first_fill():
    """A window of 200 segments needs 4; the last of them comes only when we let it."""
    more = threading.Event()

    def episodes():
        for i in range(4):
            if i == 3:
                assert more.wait(60)
            yield make_episode(i, ROWS)

    with (
        service.serve(["Pong"], n_step=1, transitions_per_game=200 * ROWS) as replay,
        writer.stream(replay, {"Pong": [unknown(episodes)]}, discount=0.9, seed=0) as writers,
    ):
        assert wait_for(lambda: size(replay) == 3)
        drawn = reverb.TrajectoryDataset.from_table_signature(
            replay.address, "Pong", 1, rate_limiter_timeout_ms=300, max_samples=1
        )
        assert not list(drawn)  # the server itself refuses

        results = []

        def read():
            data = replay_reader.dataset(
                replay, LAW, seed=0, start_step=0, steps_per_call=1, check=writers.check
            )
            results.append(next(iter(data)))

        reader = threading.Thread(target=read)
        reader.start()
        reader.join(0.5)
        assert reader.is_alive() and not results
        more.set()
        reader.join(60)
        assert len(results) == 1


def test_writers_wait_for_the_reader_and_old_segments_leave():
    """40 endless segments in a table of 10: the writer waits, and goes on as they are drawn."""
    started = []

    def episodes():
        for i in range(40):
            started.append(i)
            yield make_episode(i, ROWS)

    with service.serve(["Pong"], n_step=1, transitions_per_game=10 * ROWS) as replay:
        parts = {"Pong": [unknown(episodes)]}
        with writer.stream(replay, parts, discount=0.9, seed=0) as writers:
            assert wait_for(lambda: size(replay) == 10)
            time.sleep(0.5)
            at_rest = len(started)
            assert at_rest <= 10 + 33  # the table and what a writer may be ahead

            data = replay_reader.dataset(
                replay, LAW, seed=0, start_step=0, steps_per_call=1, check=writers.check
            )
            seen: set[int] = set()
            batches = iter(data)

            def all_but_a_few_seen():
                seen.update(tags(next(batches).frames.numpy())[..., -1, 0].flat)
                return len(seen) > 35

            assert wait_for(all_but_a_few_seen)
            assert size(replay) == 10
        at_end = len(started)
        time.sleep(0.3)
        assert len(started) == at_end  # leaving the context ended the writer
