"""Train step: samples/s of C51 + CQL with Adam at batch 32, as a share of the matrix-product peak.

One step: online forward and backward on s, target forward on s', loss, Adam. Each round times the
float32 step, the bfloat16 step and a float32 matrix product one after the other, so that a ratio's
sides see the same machine; reported are medians over rounds. FLOPs: twice the multiply-adds of
convolutions and matrix products, backward counted as twice a forward (so 4 forwards a step).

Usage: python benchmarks/train_step.py [--rounds 5] [--seconds 3] [network ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Callable

import common
import numpy as np
import tensorflow as tf

from cql_atari.core.settings import Network
from cql_atari.methods import distributions, losses
from cql_atari.networks.q_network import QNetwork, build_q_network

BATCH, DRAWS, GAMES, ATOMS, ACTIONS = 32, 8, 3, 51, 18
NETWORKS = {
    "nature": Network(encoder="nature", pooling="flatten", feed_forward=(512,)),
    "resnet_small": Network(  # gin_configs/networks/resnet_small.gin
        block="basic", depths=(1, 1), widths=(16, 32), strides=(1, 2), stem_kernel=8,
        stem_stride=4, stem_pool=False, feed_forward=(512,),
    ),
    "resnet34": Network(block="basic", depths=(3, 4, 6, 3)),
    # As others time it: 3 x 3 final map, mean-pooled; 22 million parameters.
    "resnet34_usual": Network(
        block="basic", depths=(3, 4, 6, 3), strides=(1, 2, 2, 2), pooling="mean",
        feed_forward=(512,),
    ),
}  # fmt: skip


def make_step(network: Network, dtype: str) -> Callable[[], float]:
    """A compiled train step on one fixed batch, called once; each call returns seconds."""
    online, target = (
        build_q_network(
            dataclasses.replace(network, dtype=dtype), num_games=GAMES, num_atoms=ATOMS, seed=s
        )
        for s in range(2)
    )
    # The fused legacy Adam takes less than half the time of Keras' new one on CPUs.
    adam = tf.keras.optimizers.legacy.Adam(2e-4, epsilon=3.125e-4)
    rng = np.random.default_rng(0)
    frames = tf.constant(rng.integers(0, 256, (BATCH, 5, 84, 84), np.uint8))
    games = tf.constant(rng.integers(0, GAMES, DRAWS, np.int32))
    actions = tf.constant(rng.integers(0, ACTIONS, BATCH, np.int32))
    rewards = tf.constant(rng.normal(size=BATCH).astype(np.float32))
    discounts = tf.fill([BATCH], 0.99)
    support = distributions.support(-20, 20, ATOMS)

    @tf.function
    def step() -> tf.Tensor:
        next_logits = target(frames[:, 1:], games)
        with tf.GradientTape() as tape:
            logits = online(frames[:, :4], games)
            parts = losses.c51_cql_loss(
                logits, actions, next_logits, rewards, discounts, support, cql_alpha=0.05
            )
            loss = tf.reduce_mean(parts.total)
        variables = online.trainable_variables
        adam.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    def timed() -> float:
        start = time.perf_counter()
        step().numpy()
        return time.perf_counter() - start

    timed()
    return timed


def forward_flops(network: QNetwork) -> int:
    """FLOPs of one sample's forward pass through convolutions and matrix products."""
    flops = 2 * math.prod(network.heads.kernel.shape[1:])
    for layer in (*network.encoder.layers, *network.feed_forward.layers):
        if isinstance(layer, tf.keras.layers.Conv2D):
            flops += 2 * math.prod(layer.kernel.shape) * math.prod(layer.output_shape[1:3])
        elif layer.trainable_weights and layer.trainable_weights[0].shape.rank in (2, 4):
            flops += 2 * math.prod(layer.trainable_weights[0].shape)
    return flops


def matrix_product() -> Callable[[], float]:
    """A float32 matrix product of 2048 x 2048; each call returns FLOP/s."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2048, 2048)).astype(np.float32)

    def timed() -> float:
        start = time.perf_counter()
        np.matmul(a, b)
        return 2 * 2048**3 / (time.perf_counter() - start)

    timed()
    return timed


def for_seconds(measure: Callable[[], float], seconds: float) -> float:
    """Median of repeated measures."""
    results = []
    end = time.perf_counter() + seconds
    while not results or time.perf_counter() < end:
        results.append(measure())
    return statistics.median(results)


def main() -> None:
    """Measures each network and prints one JSON line for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measure in a round")
    arguments = parser.parse_args()
    for name in arguments.networks:
        measure_network(name, arguments.rounds, arguments.seconds)


def measure_network(name: str, rounds: int, seconds: float) -> None:
    """Alternates matrix product, float32, bfloat16, matrix product; prints medians over rounds."""
    network = build_q_network(NETWORKS[name], num_games=GAMES, num_atoms=ATOMS, seed=0)
    flops = 4 * forward_flops(network)
    peak = matrix_product()
    float32 = make_step(NETWORKS[name], "float32")
    bfloat16 = make_step(NETWORKS[name], "mixed_bfloat16")
    measures = []
    for _ in range(rounds):
        peak_before = for_seconds(peak, seconds / 4)
        f32, bf16 = for_seconds(float32, seconds), for_seconds(bfloat16, seconds)
        flops_per_second = (peak_before + for_seconds(peak, seconds / 4)) / 2
        measures.append((
            BATCH / f32, BATCH / bf16, f32 / bf16, flops_per_second / 1e9,
            flops * BATCH / f32 / flops_per_second, flops * BATCH / bf16 / flops_per_second,
        ))  # fmt: skip
    names = ("samples_per_second", "samples_per_second_bfloat16", "bfloat16_speedup",
             "matrix_product_gflops", "share_of_peak", "share_of_peak_bfloat16")  # fmt: skip
    values = {
        key: {"median": statistics.median(v), "min": min(v), "max": max(v), "repeats": rounds}
        for key, v in zip(names, zip(*measures))
    }
    common.emit(
        f"train_step/{name}", batch=BATCH, gflop_per_sample=flops / 1e9,
        **values,
        trunk_parameters=network.encoder.count_params() + network.feed_forward.count_params(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
