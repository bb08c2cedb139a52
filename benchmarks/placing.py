"""Placing batches: step time with coordinator feeding against per-host datasets, in one process.

Each round times a number of calls with either way on the same agent, one after the other, on 8
logical CPU devices: 512 transitions a step, as in the paper, and a ResNet small enough that a step
takes about a second. The overhead is the ratio of the two less one, of the time that passed and of
the processor time of all threads, which other programs don't disturb. Aim: at most 5 %.

Usage: python benchmarks/placing.py [--rounds 5] [--calls 10] [--devices 8]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator

import common
import numpy as np
import tensorflow as tf

from cql_atari import config as config_lib
from cql_atari.core.types import Batch
from cql_atari.methods import build
from cql_atari.training import loop, strategy

BINDINGS = ("data.games = ('Breakout', 'Freeway')", "train.steps_per_call = 1")


def dataset(rows: slice) -> tf.data.Dataset:
    """Endless batches [1, rows, ...] of the paper's size, drawn from a few thousand frames."""
    size = len(range(512)[rows])
    random = np.random.default_rng(0)
    frames = tf.constant(random.integers(0, 256, (4096, 84, 84), np.uint8))
    columns = Batch(
        frames=tf.constant(0),
        actions=tf.constant(random.integers(0, 18, (1, size), np.int32)),
        rewards=tf.zeros((1, size)),
        discounts=tf.ones((1, size)),
        games=tf.constant(np.repeat(random.integers(0, 2, (1, size // 4), np.int32), 4, axis=1)),
    )

    def batch(step: tf.Tensor) -> Batch:
        first = tf.random.stateless_uniform((1, size), [0, step], 0, 4090, tf.int64)
        return columns._replace(frames=tf.gather(frames, first[..., None] + np.arange(7)))

    return tf.data.Dataset.counter().map(batch).prefetch(1)


def main() -> None:
    """Alternates the two ways and prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=10, help="in a round, of each way")
    parser.add_argument("--devices", type=int, default=8)
    arguments = parser.parse_args()
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * arguments.devices,
    )
    config = config_lib.load(["gin_configs/networks/resnet_small.gin"], BINDINGS)
    devices = strategy.make_strategy("mirrored", [f"CPU:{i}" for i in range(arguments.devices)])
    split = strategy.divide(128, 4, arguments.devices)
    with devices.scope():
        learner = build.build(config).learner()
    call, one = loop.make_train_call(learner, devices, False), tf.constant(1)

    def seconds(batches: Iterator[Batch]) -> np.ndarray:
        """Passed, and of the processors, a call, its wait for the batch included."""
        start = np.array([time.perf_counter(), time.process_time()])
        for batch in itertools.islice(batches, arguments.calls):
            call(batch, one)[0].numpy()
        return (np.array([time.perf_counter(), time.process_time()]) - start) / arguments.calls

    by_hosts, by_coordinator = (
        strategy.place_batches(devices, dataset, split, way) for way in (False, True)
    )
    seconds(by_hosts), seconds(by_coordinator)
    rounds = np.array(
        [(seconds(by_hosts), seconds(by_coordinator)) for _ in range(arguments.rounds)]
    )
    hosts, coordinator = rounds[:, 0].T.tolist(), rounds[:, 1].T.tolist()
    overhead = (rounds[:, 1] / rounds[:, 0] - 1).T.tolist()
    common.emit(
        "placing", devices=arguments.devices, transitions=split.batch,
        seconds_by_hosts=common.summarise(hosts[0]),
        seconds_by_coordinator=common.summarise(coordinator[0]),
        overhead=common.summarise(overhead[0]),
        processor_seconds_by_hosts=common.summarise(hosts[1]),
        processor_seconds_by_coordinator=common.summarise(coordinator[1]),
        processor_overhead=common.summarise(overhead[1]),
    )  # fmt: skip


if __name__ == "__main__":
    main()
