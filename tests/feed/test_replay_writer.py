"""Writers: errors surface, empty games are refused, little data comes as whole passes."""

from __future__ import annotations

import threading
import time

import pytest
import reverb
import tensorflow as tf
from synthetic_episodes import make_episode

from cql_atari.feed import replay_reader, replay_service, replay_writer
from cql_atari.feed.sampling import BatchLaw
from cql_atari.types import UserError

LAW = BatchLaw(8, 1)
OPTIONS = {"seed": 0, "start_step": 0, "steps_per_call": 2}


def test_an_error_before_the_first_fill_is_raised_as_it_is():
    def damaged():
        yield make_episode(0, 5)
        raise UserError("observation.3.gz is cut short")

    episodes = {"Pong": lambda: [make_episode(0, 40)], "Breakout": damaged}
    with (
        pytest.raises(UserError, match="cut short"),
        replay_service.serve(["Pong", "Breakout"], n_step=1, transitions_per_game=1600) as replay,
        replay_writer.stream(replay, episodes, discount=0.9) as check,
    ):
        replay_reader.dataset(replay, LAW, **OPTIONS, check=check)
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
        replay_service.serve(["Pong"], n_step=1, transitions_per_game=3200) as replay,
        replay_writer.stream(replay, {"Pong": cut_short}, discount=0.9) as check,
    ):
        data = iter(replay_reader.dataset(replay, LAW, **OPTIONS, check=check))
        next(data)
        learning.set()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            next(data)
        pytest.fail("learning went on")
    assert isinstance(caught.value.__context__, tf.errors.OpError)


def test_a_game_without_transitions_is_a_user_error():
    fragment = make_episode(0, 3, terminal=False)
    with (
        pytest.raises(UserError, match=r"Pong.*n_step=3"),
        replay_service.serve(["Pong"], n_step=3, transitions_per_game=160) as replay,
        replay_writer.stream(replay, {"Pong": lambda: [fragment]}, discount=0.9) as check,
    ):
        replay_reader.dataset(replay, LAW, **OPTIONS, check=check)


@pytest.mark.parametrize("segments, passes", [(1, 4), (3, 2), (4, 1), (40, 1)])
def test_data_that_fit_are_written_once_or_as_whole_passes(segments, passes):
    """A window of 200 segments is drawn from once it holds 4."""
    started = []

    def episodes():
        started.append(1)
        return [make_episode(i, 16) for i in range(segments)]

    with (
        replay_service.serve(["Pong"], n_step=1, transitions_per_game=3200) as replay,
        replay_writer.stream(replay, {"Pong": episodes}, discount=0.9) as check,
    ):
        data = iter(replay_reader.dataset(replay, LAW, **OPTIONS, check=check))
        for _ in range(20):
            next(data)
        table = reverb.Client(replay.address).server_info()["Pong"]
    assert len(started) == passes
    assert table.current_size == passes * segments


def test_leaving_ends_writers_that_wait_and_readers_at_work():
    """A full table, a reader in the midst of a batch, and its iterator that outlives the server.

    In a thread of its own: Reverb's way of failing here is to wait for ever.
    """
    left = threading.Event()

    def run():
        endless = {"Pong": lambda: (make_episode(i % 200, 64) for i in range(10**6))}
        for pause in (0, 0.02, 0.3):
            with (
                replay_service.serve(["Pong"], n_step=1, transitions_per_game=1600) as replay,
                replay_writer.stream(replay, endless, discount=0.9) as check,
            ):
                data = replay_reader.dataset(replay, BatchLaw(256, 1), **OPTIONS, check=check)
                iterator = iter(data)
                next(iterator)
                time.sleep(pause)
            assert len(list(iterator)) <= 2  # made in advance
            del iterator
        left.set()

    threading.Thread(target=run, daemon=True).start()
    assert left.wait(100)
