"""Writers: what they put into the queues, places to go on from, errors, little data, memory."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from synthetic_episodes import make_episode

from cql_atari.core.types import UserError
from cql_atari.feed.replay import reader, service
from cql_atari.feed.replay import writer as replay_writer
from cql_atari.feed.replay.interleave import START, OpenPart, StreamPosition
from cql_atari.feed.replay.segments import unpack_segment
from cql_atari.feed.replay.writer import Place, read_place
from cql_atari.feed.sampling import BatchLaw

LAW = BatchLaw(8, 1)


@contextlib.contextmanager
def serve_and_stream(parts, *, n_step=1, **options):
    """Yields the replay and its writers."""
    settings = {"discount": 0.9, "seed": 0, "transitions_per_game": 1600} | options
    with (
        service.serve_draws(list(parts), n_step=n_step) as replay,
        replay_writer.stream(replay, parts, **settings) as writers,
    ):
        yield replay, writers


def dataset(replay, writers, law=LAW):
    replay_writer.wait_until_filled(writers, lambda: False)
    return reader.dataset(replay, law, seed=0, start_step=0, steps_per_call=2, check=writers.check)


def arrivals(replay, count, game="Pong"):
    """The numbers of the episodes of the next segments of a queue."""
    ended = threading.Event()
    segments = reader.arrivals(replay.address, game, ended.is_set)
    numbers = [int(unpack_segment(p[1:], replay.n_step).frames[3, 0, 0]) - 1
               for p in itertools.islice(segments, count)]  # fmt: skip
    segments.close()
    return numbers


def make_parts(num_parts):
    """Parts of three episodes of one segment each; episode e of part p has the number 10p + e."""

    def make(part):
        return lambda: (make_episode(10 * part + nth, 16) for nth in range(3))

    return [make(part) for part in range(num_parts)]


@pytest.mark.parametrize("drawn", [0, 5, 8, 37, 200])
def test_draws_go_on_at_any_place(drawn):
    """18 episodes, a window of 8 that each is drawn from 4 times; the place goes through JSON."""
    options = {"transitions_per_game": 8 * 16, "samples_per_insert": 4.0, "parts_at_once": 2}
    with serve_and_stream({"Pong": make_parts(6)}, **options) as (replay, writers):
        whole = arrivals(replay, 260)
        place = writers.place("Pong", drawn)
    again = {"Pong": read_place(json.loads(json.dumps(place)), 6)}
    with serve_and_stream({"Pong": make_parts(6)}, places=again, **options) as (replay, writers):
        assert arrivals(replay, 260 - drawn) == whole[drawn:]


def test_a_place_after_a_periods_last_draw_is_its_end():
    """Until the next period is noted nobody knows where that begins."""
    progress = replay_writer._Progress(Place(), 4)
    progress.note(0, 4, StreamPosition(0))
    for progress.drawn in range(5):
        assert progress.place(None) == Place(0, StreamPosition(0), progress.drawn)
    progress.note(1, 4, StreamPosition(2))
    assert progress.place(None) == Place(1, StreamPosition(2), 0)


def test_a_place_before_the_window_is_full_is_where_it_began():
    gate, begun = threading.Event(), Place(3, StreamPosition(4), 2, 1, 1)

    def wait():
        gate.wait()
        yield make_episode(0, 16)

    with serve_and_stream({"Pong": [wait]}, places={"Pong": begun}) as (_, writers):
        assert writers.place("Pong", None) == begun
        gate.set()


@pytest.mark.parametrize(
    "saved, place",
    [
        ([0, 0, 0], Place()),
        ([2, 1, 0], Place(start=StreamPosition(13))),
        ([2, 6, 0], Place(start=StreamPosition(18))),
        ([1, 4, 9], Place(start=StreamPosition(11, (OpenPart(10, 9),)))),
        ([5, [13, [[10, 2, 4]], 1, 90], 7, 3, 2],
         Place(5, StreamPosition(13, (OpenPart(10, 2, 4),), 1, 90), 7, 3, 2)),
        ([0, [0, [], 0], 7, 3, 2], Place(0, START, 7, 3, 2)),
        ([5, [13, [[10, 2, 4]], 1], 7, 3, 2],
         Place(5, StreamPosition(13, (OpenPart(10, 2, 4),), 1, sys.maxsize), 7, 3, 2)),
    ],
)  # fmt: skip
def test_places_are_read_also_as_they_once_were(saved, place):
    """(passes, parts of this one, episodes of the next part), of data of six parts; later without
    the number of segments given: more than enough, if the window had moved at all.
    """
    assert read_place(saved, 6) == place


@pytest.mark.parametrize("segments", [1, 3, 40])
def test_data_that_fit_are_the_window(segments):
    """Once, a game with fewer transitions than the first fill was written until it had enough."""
    parts = {"Pong": [lambda: [make_episode(i, 16) for i in range(segments)]]}
    with serve_and_stream(parts, transitions_per_game=3200) as (replay, writers):
        numbers = arrivals(replay, 3 * segments)
        assert writers.filled() == {"Pong": (segments, segments)}
        assert writers.place("Pong", 2 * segments) == Place(2, START, 0)
    assert sorted(numbers) == sorted(3 * list(range(segments)))
    assert sorted(numbers[:segments]) == list(range(segments))


def test_draws_are_equal_however_fast_the_learner_is():
    """A window of a quarter of the data: all are drawn equally often over whole passes."""
    parts = {"Pong": make_parts(8)}  # 24 segments
    with serve_and_stream(parts, transitions_per_game=6 * 16, samples_per_insert=3.0) as (
        replay,
        _,
    ):
        numbers = np.array(arrivals(replay, 24 * 3 * 20))
    counts = np.bincount(numbers)[np.unique(numbers)]
    assert counts.sum() == 24 * 3 * 20
    assert counts.max() - counts.min() <= 6  # 3 in the first window, 3 in the last


def test_frames_of_few_games_are_in_memory_at_a_time():
    """12 games read at once; their frames are counted."""
    lock, now, counts = threading.Lock(), 0, []

    class Frames(np.ndarray):
        """Counts those that exist."""

        def __array_finalize__(self, _parent):
            count(1)

        def __del__(self):
            count(-1)

    def count(change):
        nonlocal now
        with lock:
            now += change
            counts.append(now)

    def read():
        for i in range(20):
            episode = make_episode(i, 16)
            time.sleep(0.002)
            yield episode._replace(frames=episode.frames.view(Frames))
            del episode

    with serve_and_stream({f"game{i}": [read] for i in range(12)}) as (_, writers):
        replay_writer.wait_until_filled(writers, lambda: False)
        assert writers.filled() == {f"game{i}": (20, 20) for i in range(12)}
    assert 2 <= max(counts) <= replay_writer._DECODERS


def test_an_error_before_the_first_fill_is_raised_as_it_is():
    def damaged():
        yield make_episode(0, 5)
        raise UserError("observation.3.gz is cut short")

    parts = {"Pong": [lambda: [make_episode(0, 40)]], "Breakout": [damaged]}
    with (
        pytest.raises(UserError, match="cut short"),
        serve_and_stream(parts) as (replay, writers),
    ):
        dataset(replay, writers)
        pytest.fail("a batch without Breakout's data")


def test_an_error_while_learning_reaches_the_learner():
    """TensorFlow wraps it; leaving the context puts the writer's own error in its place."""

    def cut_short():
        yield from (make_episode(i, 32) for i in range(10))
        raise OSError("the disk went away")

    parts = {"Pong": [cut_short]}
    with (
        pytest.raises(OSError, match="the disk went away") as caught,
        serve_and_stream(parts, transitions_per_game=160) as (replay, writers),
    ):
        for _ in dataset(replay, writers):
            pass
        pytest.fail("learning went on")
    assert isinstance(caught.value.__context__, tf.errors.OpError)


def test_a_game_without_transitions_is_a_user_error():
    parts = {"Pong": [lambda: [make_episode(0, 3, terminal=False)]]}
    places = {"Pong": Place(start=StreamPosition(1, (OpenPart(0, 1),)))}
    for begin in (None, places):
        with (
            pytest.raises(UserError, match=r"Pong.*n_step=3"),
            serve_and_stream(parts, n_step=3, places=begin) as (replay, writers),
        ):
            dataset(replay, writers)


def test_a_stop_ends_the_wait_for_the_first_fill():
    endless_wait = threading.Event()
    asked = []
    threading.Timer(0.3, lambda: asked.append(time.monotonic())).start()

    def wait():
        endless_wait.wait()
        yield make_episode(0, 16)

    with (
        pytest.raises(KeyboardInterrupt),
        serve_and_stream({"Pong": [wait]}) as (_, writers),
    ):
        try:
            replay_writer.wait_until_filled(writers, lambda: bool(asked))
        finally:
            assert time.monotonic() - asked[0] < 5
            endless_wait.set()


def test_leaving_ends_writers_that_wait_and_readers_at_work():
    """A full queue, a reader in the midst of a batch, and its iterator that outlives the server.

    In a thread of its own: Reverb's way of failing here is to wait for ever.
    """
    left = threading.Event()

    def run():
        for pause in (0, 0.02, 0.3):
            endless = [lambda: (make_episode(i % 200, 64) for i in range(10**6))]
            with serve_and_stream({"Pong": endless}) as (replay, writers):
                iterator = iter(dataset(replay, writers, BatchLaw(256, 1)))
                next(iterator)
                time.sleep(pause)
            assert len(list(iterator)) <= 2  # made in advance
            del iterator
        left.set()

    threading.Thread(target=run, daemon=True).start()
    assert left.wait(100)
