"""The online replay: its transitions are those of `pad`, drawn as often as the limiter says."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
import reverb
from hypothesis import given, settings
from hypothesis import strategies as st

from cql_atari.core.types import Batch, Episode, UserError
from cql_atari.feed import transitions
from cql_atari.feed.online import replay
from cql_atari.feed.online.limits import Pace
from cql_atari.system import ports

ANY = (-1e12, 1e12)


def make_episode(first: int, steps: int, terminal: bool) -> Episode:
    """The action is the number of the step, which its frame shows too."""
    numbers = np.arange(first, first + steps, dtype=np.int32)
    frames = np.zeros((steps, 84, 84), np.uint8)
    frames[:, 0, 0], frames[:, 0, 1] = numbers % 256, 1 + numbers // 256
    rewards = np.random.default_rng(first).integers(-1, 2, steps).astype(np.float32)
    return Episode("Pong", frames, numbers, rewards, terminal)


def write(writer, episode: Episode) -> None:
    last = len(episode.frames) - 1
    for t in range(len(episode.frames)):
        writer.add(episode.frames[t], episode.actions[t], episode.rewards[t],
                   episode.terminal and t == last, not episode.terminal and t == last)  # fmt: skip


def inserted(address) -> int:
    table = reverb.Client(address).server_info()[replay.TRANSITIONS]
    return table.rate_limiter_info.insert_stats.completed


@settings(max_examples=6, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=5),
    n_step=st.integers(1, 4),
)
def test_what_is_written_are_the_transitions_of_the_whole_episodes(lengths, n_step):
    firsts = itertools.accumulate([steps for steps, _ in lengths], initial=0)
    played = [make_episode(f, steps, end) for f, (steps, end) in zip(firsts, lengths)]
    expected = {}
    for episode in played:
        padded = transitions.pad(episode, n_step, 0.9)
        for t in np.flatnonzero(padded.valid):
            expected[padded.actions[t]] = (
                padded.frames[t : t + 4 + n_step], padded.rewards[t], padded.discounts[t]
            )  # fmt: skip
    with replay.serve_play(n_step, 1000, Pace(1.0, 1, ANY)) as address:
        writer = replay.Writer(reverb.Client(address), n_step, 0.9)
        for episode in played:
            write(writer, episode)
        writer.flush(lambda: False, pending=0)
        assert inserted(address) == len(expected)
        if expected:
            with replay.batches(address, n_step, (2, 100)) as batches:
                batch = Batch(*(part.numpy() for part in next(batches)))
            assert batch.frames.shape == (2, 100, 4 + n_step, 84, 84)
            for k, i in np.ndindex(2, 100):
                frames, reward, discount = expected[batch.actions[k, i]]
                np.testing.assert_array_equal(batch.frames[k, i], frames)
                assert batch.rewards[k, i] == pytest.approx(reward, rel=1e-6)
                assert batch.discounts[k, i] == pytest.approx(discount)
            assert not batch.games.any()
        writer.close()


def test_an_actor_waits_where_the_ratio_says():
    """3 draws an insert after 20 inserts, within 130 draws: 20 + 43 inserts without a draw."""
    pace = Pace(3.0, 20, (60 - 130, 60 + 130))
    with replay.serve_play(1, 1000, pace) as address:
        writer = replay.Writer(reverb.Client(address), 1, 0.9)
        stop = threading.Event()

        def act():
            for t in range(1000):
                write_one(writer, t)
                writer.flush(stop.is_set)
                if stop.is_set():
                    return

        def write_one(writer, t):
            writer.add(np.zeros((84, 84), np.uint8), t, 0.0, False, False)

        actor = threading.Thread(target=act)
        actor.start()
        settle(lambda: inserted(address))
        assert inserted(address) == 63  # 3 * 63 <= 60 + 130 < 3 * 64
        stop.set()
        actor.join()
        writer.close()


def settle(read) -> None:
    """Waits until a number has been the same for a while."""
    last, since = read(), time.monotonic()
    while time.monotonic() - since < 0.7:
        time.sleep(0.05)
        if read() != last:
            last, since = read(), time.monotonic()


def test_draws_end_exactly_at_the_bound_and_a_waiting_reader_can_be_stopped():
    pace = Pace(2.0, 10, (20 - 8, 20 + 1000))
    with replay.serve_play(1, 1000, pace) as address:
        writer = replay.Writer(reverb.Client(address), 1, 0.9)
        write(writer, make_episode(0, 30, terminal=True))
        writer.flush(lambda: False, pending=0)
        drawn, waits, stop = 0, [], threading.Event()

        def tick(waiting):
            waits.append(waiting)
            if waits[-8:] == [True] * 8:
                stop.set()

        with (
            replay.batches(address, 1, (1, 4), tick=tick, should_stop=stop.is_set) as batches,
            pytest.raises(KeyboardInterrupt),
        ):
            for batch in batches:
                drawn += batch.actions.shape[1]
        assert drawn == 2 * 30 - 12
        writer.close()


RECORDED = Batch(*(np.full((2, 3, *shape), 7, dtype) for shape, dtype in (
    ((5, 84, 84), np.uint8), ((), np.int32), ((), np.float32), ((), np.float32), ((), np.int32)
)))  # fmt: skip


def test_batches_end_where_recorded_rows_do():
    """The loop saves then; a StopIteration within a generator would be a RuntimeError."""
    with replay.serve_play(1, 1000, Pace(1.0, 1, ANY)) as address:
        writer = replay.Writer(reverb.Client(address), 1, 0.9)
        write(writer, make_episode(100, 20, terminal=True))
        writer.flush(lambda: False, pending=0)
        with replay.batches(address, 1, (2, 5), recorded=iter([RECORDED] * 3)) as batches:
            assert len(list(batches)) == 3
        writer.close()


def test_recorded_rows_follow_those_of_the_replay():
    with replay.serve_play(1, 1000, Pace(1.0, 1, ANY)) as address:
        writer = replay.Writer(reverb.Client(address), 1, 0.9)
        write(writer, make_episode(100, 20, terminal=True))
        writer.flush(lambda: False, pending=0)
        with replay.batches(address, 1, (2, 5), recorded=itertools.repeat(RECORDED)) as batches:
            batch = next(batches)
        assert batch.frames.shape == (2, 8, 5, 84, 84)
        assert (batch.actions[:, 5:].numpy() == 7).all()
        assert (batch.actions[:, :5].numpy() >= 100).all()
        writer.close()


def test_a_port_is_not_shared_and_who_can_reach_it_is_told(caplog, monkeypatch):
    monkeypatch.setattr(ports, "_own_addresses", lambda: ["8.8.4.4"])
    with replay.serve_play(1, 10, Pace(1.0, 1, ANY)) as address:
        port = int(address.split(":")[1])
        assert f"port {port} of PUBLIC addresses (8.8.4.4)" in caplog.text
        with (
            pytest.raises(UserError, match=rf"port {port}: .*--port; .*online\.port"),
            replay.serve_play(1, 10, Pace(1.0, 1, ANY), port=port),
        ):
            pass
    with replay.serve_play(1, 10, Pace(1.0, 1, ANY), port=port) as again:
        assert again == address
