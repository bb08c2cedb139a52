"""Trains tiny agents on several logical CPU devices and on one, for tests and as a process.

Usage: python -m strategy_runs DEVICES    compares, and says so in its last line.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf
import tiny

from cql_atari.methods import scaled_q
from cql_atari.training import loop, strategy

BINDINGS = ("feed.draws = 8",)
COUNTS = {"greedy_is_most_frequent"}  # of an argmax: rounding decides between equal values


def trainer(devices, config, jit_compile=False):
    """A function of batches: trains from the same start, returns what each call leaves behind."""
    with devices.scope():
        agent = scaled_q.make_agent(config)
    learner = agent.learner
    variables = [*agent.network.variables, *agent.target_network.variables,
                 *learner.saved["optimizer"].variables()]  # fmt: skip
    start = [variable.numpy() for variable in variables]
    call = loop.make_train_call(learner, devices, jit_compile)

    def train(batches, calls):
        for variable, value in zip(variables, start):
            variable.assign(value)
        traces = call.experimental_get_tracing_count()
        for _ in range(calls):
            made, sums = call(next(batches), tf.constant(config.train.steps_per_call))
            assert call.experimental_get_tracing_count() <= traces + 1
            assert int(made) == config.train.steps_per_call
            agent.update_target()
            left = {name: value.numpy() for name, value in sums.items() if name not in COUNTS}
            yield left | {i: v.numpy() for i, v in enumerate(agent.network.trainable_variables)}

    return train


def place(devices, config, by_coordinator=None):
    feed = config.feed
    split = strategy.divide(feed.draws, feed.transitions_per_draw, devices.num_replicas_in_sync)
    return strategy.place_batches(devices, tiny.dataset(config), split, by_coordinator)


def assert_same(one, other, **tolerance):
    for nth, (a, b) in enumerate(zip(one, other, strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(b[name], a[name], err_msg=f"{nth} {name}", **tolerance)


def compare(count, calls=3):
    """Both ways on `count` devices against one device, step by step; returns how those train."""
    config = tiny.config(*BINDINGS)
    alone = strategy.make_strategy("none")
    one = list(trainer(alone, config)(place(alone, config), calls))
    assert [left["count"].sum() for left in one] == [32] * calls
    many = strategy.make_strategy("mirrored", [f"CPU:{i}" for i in range(count)])
    assert many.num_replicas_in_sync == count
    train = trainer(many, config)
    for by_coordinator in (False, True):
        spread = train(place(many, config, by_coordinator), calls)
        assert_same(one, spread, atol=2e-5, rtol=1e-4)
    return many, train


if __name__ == "__main__":
    number = int(sys.argv[1])
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * number,
    )
    compare(number)
    sys.stdout.write(f"equal on {number}\n")
