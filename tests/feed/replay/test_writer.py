"""Writers: the order of the data, places to go on from, errors, little data, memory."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time

import numpy as np
import pytest
import reverb
import tensorflow as tf
from synthetic_episodes import known, make_episode, unknown

from cql_atari.core.types import Extent, UserError
from cql_atari.feed.replay import reader, service
from cql_atari.feed.replay import writer as replay_writer
from cql_atari.feed.replay.order import Part, Place, order
from cql_atari.feed.replay.segments import unpack
from cql_atari.feed.sampling import BatchLaw

LAW = BatchLaw(8, 1)
OPTIONS = {"seed": 0, "start_step": 0, "steps_per_call": 2}


@contextlib.contextmanager
def serve_and_stream(parts, *, n_step=1, size=1600, seed=0, places=None):
    """Yields the replay and its writers; `size` in transitions."""
    with (
        service.serve(list(parts), n_step=n_step, transitions_per_game=size) as replay,
        replay_writer.stream(replay, parts, discount=0.9, seed=seed, places=places) as writers,
    ):
        yield replay, writers


def dataset(replay, writers, law=LAW):
    return reader.dataset(replay, law, **OPTIONS, check=writers.check)


def draw_until(replay, writers, enough):
    """Draws, as writers wait for that, until they have come so far."""
    batches = iter(dataset(replay, writers))
    deadline = time.monotonic() + 60
    while not enough() and time.monotonic() < deadline:
        next(batches)
    assert enough()


@pytest.fixture
def inserted(monkeypatch):
    """The numbers of the episodes that go to any table, in order."""
    numbers = []

    def insert(writer, game, segments, stop):
        done = original(writer, game, segments, stop)
        if done:
            numbers.extend(int(unpack(packed, 1).frames[3, 0, 0]) - 1 for packed, _ in segments)
        return done

    original = replay_writer._insert
    monkeypatch.setattr(replay_writer, "_insert", insert)
    return numbers


def make_parts(num_parts: int, opened: list[int], surveyed: bool = True) -> list[Part]:
    """Parts of three episodes of one segment each; episode e of part p has the number 10p + e."""

    def make_part(number: int) -> Part:
        def read():
            opened.append(number)
            yield from (make_episode(10 * number + nth, 16) for nth in range(3))

        return Part(read, lambda: [Extent(16, True, True)] * 3 if surveyed else None)

    return [make_part(number) for number in range(num_parts)]


def in_order(num_parts, seed):
    """The episodes' numbers of an endless stream, each with its place."""
    for pass_ in itertools.count():
        for nth, part in enumerate(order(num_parts, seed=seed, game="Pong", pass_=pass_)):
            for episode in range(3):
                yield 10 * part + episode, Place(pass_, nth, episode)


@pytest.mark.parametrize("surveyed", [True, False])
def test_a_restarted_stream_goes_on_at_its_place_and_opens_no_earlier_part(inserted, surveyed):
    """18 episodes, a table of 8: three processes make one stream, whatever the moments they end."""
    places, opened = {}, []
    parts = {"Pong": make_parts(6, opened, surveyed)}
    everything = list(itertools.islice(in_order(6, seed=3), 1000))
    for until in (13, 31, 62):
        at = places.get("Pong", Place())
        opened.clear()
        with serve_and_stream(parts, size=8 * 16, seed=3, places=places) as (replay, writers):
            draw_until(replay, writers, lambda n=until: len(inserted) > n)
        places = writers.places()
        assert inserted == [number for number, _ in everything[: len(inserted)]]
        visits = [number // 10 for number, place in everything[::3] if place[:2] >= at[:2]]
        assert opened == visits[: len(opened)]


@pytest.mark.parametrize(
    "at, first", [(Place(0, 9, 0), Place(1)), (Place(0, 5, 7), Place(1)), (Place(3, 6), Place(4))]
)
def test_a_place_beyond_the_data_is_the_start_of_the_next_pass(inserted, at, first):
    parts = {"Pong": make_parts(6, [])}
    with serve_and_stream(parts, size=8 * 16, places={"Pong": at}) as (replay, writers):
        draw_until(replay, writers, lambda: len(inserted) > 8)
    stream = in_order(6, seed=0)
    numbers = [number for number, place in itertools.islice(stream, 200) if place >= first]
    assert inserted == numbers[: len(inserted)]


def test_the_place_does_not_go_back_while_episodes_are_read_over():
    """A checkpoint may be saved meanwhile."""
    start = Place(2, 1, 2)
    taken = replay_writer._read_pass(
        make_parts(3, []), start, lambda episodes, wanted: next(episodes, None) and [wanted]
    )
    expected = [(2, 1, 2), (2, 1, 2), (2, 1, 3), (2, 2, 0), (2, 2, 1), (2, 2, 2), (2, 2, 3), (2, 3)]
    found = list(taken)
    assert [place for place, _ in found] == [Place(*place) for place in expected]
    assert [flag for _, flags in found for flag in flags] == [False] * 2 + [True] * 4


@pytest.mark.parametrize("segments, passes", [(1, 4), (3, 2), (4, 1), (40, 1)])
def test_data_that_fit_are_written_from_the_start_once_or_as_whole_passes(
    inserted, segments, passes
):
    """A window of 200 segments is drawn from once it holds 4. The place doesn't matter."""
    parts = {"Pong": [known([make_episode(i, 16) for i in range(segments)])]}
    with serve_and_stream(parts, size=3200, places={"Pong": Place(7, 0, 2)}) as (replay, writers):
        data = iter(dataset(replay, writers))
        for _ in range(20):
            next(data)
        table = reverb.Client(replay.address).server_info()["Pong"]
        assert writers.places() == {"Pong": Place()}
    assert inserted == list(range(segments)) * passes
    assert table.current_size == passes * segments


def test_the_survey_ends_where_the_table_is_full():
    """40 games of 50 suffixes shall not be surveyed to see that they don't fit."""
    surveyed = []
    parts = [
        Part(list, lambda i=i: surveyed.append(i) or [Extent(160, True, True)]) for i in range(50)
    ]
    assert not replay_writer._fit(parts, 1, segments=25)
    assert surveyed == [0, 1, 2]
    assert replay_writer._fit(parts[:2], 1, segments=20)
    assert not replay_writer._fit([unknown(list)], 1, segments=20)


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

    parts = {f"game{i}": [unknown(read)] for i in range(12)}
    with serve_and_stream(parts) as (replay, writers):
        dataset(replay, writers)
        deadline = time.monotonic() + 60
        while min(writers.places().values()) < (0, 0, 15):
            assert time.monotonic() < deadline
            writers.check()
            time.sleep(0.01)
    assert 2 <= max(counts) <= replay_writer._DECODERS


def test_an_error_before_the_first_fill_is_raised_as_it_is():
    def damaged():
        yield make_episode(0, 5)
        raise UserError("observation.3.gz is cut short")

    parts = {"Pong": [known([make_episode(0, 40)])], "Breakout": [unknown(damaged)]}
    with (
        pytest.raises(UserError, match="cut short"),
        serve_and_stream(parts) as (replay, writers),
    ):
        dataset(replay, writers)
        pytest.fail("a batch without Breakout's data")


def test_an_error_while_learning_reaches_the_learner():
    """TensorFlow wraps it; leaving the context puts the writer's own error in its place."""

    learning = threading.Event()

    def cut_short():
        for i in range(10):
            yield make_episode(i, 32)
        learning.wait(60)
        raise OSError("the disk went away")

    with (
        pytest.raises(OSError, match="the disk went away") as caught,
        serve_and_stream({"Pong": [unknown(cut_short)]}, size=3200) as (replay, writers),
    ):
        data = iter(dataset(replay, writers))
        next(data)
        learning.set()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            next(data)
        pytest.fail("learning went on")
    assert isinstance(caught.value.__context__, tf.errors.OpError)


@pytest.mark.parametrize("make_part", [known, lambda episodes: unknown(lambda: episodes)])
def test_a_game_without_transitions_is_a_user_error(make_part):
    parts = {"Pong": [make_part([make_episode(0, 3, terminal=False)])]}
    places = {"Pong": Place(0, 0, 1)}
    with (
        pytest.raises(UserError, match=r"Pong.*n_step=3"),
        serve_and_stream(parts, n_step=3, size=160, places=places) as (replay, writers),
    ):
        dataset(replay, writers)


def test_a_stop_ends_the_wait_for_the_first_fill():
    endless_wait = threading.Event()
    parts = {"Pong": [unknown(lambda: iter(endless_wait.wait, True))]}
    asked = []
    threading.Timer(0.3, lambda: asked.append(time.monotonic())).start()
    with (
        pytest.raises(KeyboardInterrupt),
        service.serve(["Pong"], n_step=1, transitions_per_game=1600) as replay,
        replay_writer.stream(replay, parts, discount=0.9, seed=0) as writers,
    ):
        try:
            reader.dataset(
                replay, LAW, **OPTIONS, check=writers.check, should_stop=lambda: bool(asked)
            )
        finally:
            assert time.monotonic() - asked[0] < 5
            endless_wait.set()


def test_leaving_ends_writers_that_wait_and_readers_at_work():
    """A full table, a reader in the midst of a batch, and its iterator that outlives the server.

    In a thread of its own: Reverb's way of failing here is to wait for ever.
    """
    left = threading.Event()

    def run():
        endless = unknown(lambda: (make_episode(i % 200, 64) for i in range(10**6)))
        for pause in (0, 0.02, 0.3):
            with serve_and_stream({"Pong": [endless]}) as (replay, writers):
                iterator = iter(dataset(replay, writers, BatchLaw(256, 1)))
                next(iterator)
                time.sleep(pause)
            assert len(list(iterator)) <= 2  # made in advance
            del iterator
        left.set()

    threading.Thread(target=run, daemon=True).start()
    assert left.wait(100)
