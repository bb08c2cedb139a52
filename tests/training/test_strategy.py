"""Strategies: how batches divide, both ways to place them, clusters from the environment."""

from __future__ import annotations

import sys

import numpy as np
import processes
import pytest
import strategy_runs
import tensorflow as tf
import tiny
from hypothesis import given
from hypothesis import strategies as st

from cql_atari.core.types import UserError
from cql_atari.training import strategy

pytestmark = pytest.mark.slow


def mirrored():
    return strategy.make_strategy("mirrored", ["CPU:0", "CPU:1"])


@pytest.fixture(scope="module")
def two_trained():
    """Both ways trained on two devices as on one; the two and how they train."""
    return strategy_runs.compare(2)


def test_both_ways_train_on_two_devices_as_on_one(two_trained):
    devices, _ = two_trained
    assert devices.num_replicas_in_sync == 2


@pytest.mark.proof
def test_both_ways_train_on_eight_devices_as_on_one():
    done = processes.run([sys.executable, "-m", strategy_runs.__name__, "8"])
    assert done.stdout.endswith("equal on 8\n"), done.stderr[-3000:]


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 4), st.integers(1, 8))
def test_a_batch_divides_into_whole_draws(hosts, devices, factor, per_draw):
    replicas = hosts * devices
    split = strategy.divide(replicas * factor, per_draw, replicas, hosts)
    assert split.replica == factor * per_draw
    assert split.host == split.replica * devices
    rows = [range(split.batch)[split.rows(host)] for host in range(hosts)]
    assert [row for part in rows for row in part] == list(range(split.batch))


def test_draws_that_do_not_divide_are_told_with_the_numbers():
    with pytest.raises(UserError, match=r"128 draws of 4 .* over 3 replicas on 1 host.*\[1, 2, 4"):
        strategy.divide(128, 4, 3)
    with pytest.raises(UserError, match="6 draws"):
        strategy.divide(6, 4, 4, 2)


@pytest.mark.parametrize("by_coordinator", [False, True])
def test_placed_rows_are_the_global_batch_in_order_on_their_devices(by_coordinator):
    config, two = tiny.config(), mirrored()
    dataset = tiny.dataset(config)
    placed = strategy.place_batches(two, dataset, strategy.divide(4, 2, 2), by_coordinator)
    for whole, spread in zip(dataset(slice(None)).take(5), placed):
        for part, values in zip(whole, spread):
            local = two.experimental_local_results(values)
            assert [value.device[-5:] for value in local] == ["CPU:0", "CPU:1"]
            np.testing.assert_array_equal(part, np.concatenate(local, 1))


def test_one_accelerator_has_its_batches_before_they_are_asked_for(monkeypatch):
    """A second CPU stands in for a GPU."""
    (accelerator,) = [d for d in tf.config.list_logical_devices("CPU") if d.name[-1] == "1"]
    monkeypatch.setattr(
        tf.config, "list_logical_devices", lambda kind: [accelerator] if kind == "GPU" else []
    )
    dataset = tiny.dataset(tiny.config())
    none = strategy.make_strategy("none")
    placed = strategy.place_batches(none, dataset, strategy.divide(4, 2, 1))
    for whole, batch in zip(dataset(slice(None)).take(3), placed):
        assert {part.device[-5:] for part in batch} == {"CPU:1"}
        for ours, theirs in zip(batch, whole):
            np.testing.assert_array_equal(ours, theirs)


def test_one_accelerator_takes_an_agents_own_play_as_it_comes(monkeypatch):
    """An iterator, not a data set."""
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    none, split = strategy.make_strategy("none"), strategy.divide(4, 2, 1)
    assert list(strategy.place_batches(none, lambda rows: iter("ab"), split)) == ["a", "b"]


@pytest.mark.parametrize("by_coordinator", [False, True])
def test_shapes_stay_static(by_coordinator):
    two = mirrored()
    dataset = tiny.dataset(tiny.config())
    batch = next(strategy.place_batches(two, dataset, strategy.divide(4, 2, 2), by_coordinator))
    assert two.experimental_local_results(batch.frames)[1].shape == (2, 4, 7, 84, 84)


def test_a_coordinator_pulls_ahead_and_passes_on_errors():
    pulled = []

    def batches():
        for i in range(4):
            pulled.append(i)
            yield i
        raise UserError("the writer failed")

    ahead = strategy._prefetch(batches())
    assert next(ahead) == 0
    assert next(ahead) == 1
    assert pulled in ([0, 1, 2], [0, 1, 2, 3])
    assert [next(ahead), next(ahead)] == [2, 3]
    with pytest.raises(UserError, match="the writer failed"):
        next(ahead)
    assert list(strategy._prefetch(iter("abc"))) == ["a", "b", "c"]


def test_a_tpu_gets_packed_frames_and_trains_the_same(two_trained, monkeypatch):
    config, (two, train) = tiny.config(*strategy_runs.BINDINGS), two_trained
    plain = list(train(strategy_runs.place(two, config), 2))
    monkeypatch.setattr(strategy, "_is_tpu", lambda _: True)
    for by_coordinator in (False, True):
        batches = strategy_runs.place(two, config, by_coordinator)
        packed = two.experimental_local_results(next(batches).frames)[0]
        assert (packed.dtype, packed.shape) == (tf.uint32, (2, 8, 7 * 84 * 21))
        batches = strategy_runs.place(two, config, by_coordinator)
        strategy_runs.assert_same(plain, train(batches, 2), atol=1e-6)


def test_packing_is_the_bytes_and_comes_back():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 7, 84, 84), np.uint8)
    packed = strategy.pack_frames(tf.constant(frames))
    assert packed.numpy().tobytes() == frames.tobytes()
    np.testing.assert_array_equal(strategy.unpack_frames(packed), frames)
    compiled = tf.function(strategy.unpack_frames, jit_compile=True)
    np.testing.assert_array_equal(compiled(packed), frames)
    assert strategy.unpack_frames(frames) is frames


def test_a_tpu_that_is_not_there_is_told():
    with pytest.raises(UserError, match="needs --tpu="):
        strategy.make_strategy("tpu")


def test_one_host_has_only_its_own_value():
    assert strategy.across_hosts(mirrored(), 7) == [7]
