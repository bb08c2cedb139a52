"""Train step: samples/s of C51 + CQL with Adam at batch 32, as a share of the matrix-product peak.

One step: online forward and backward on s, target forward on s', loss, Adam. Each round times the
float32 step, the bfloat16 step and a float32 matrix product one after the other, so that a ratio's
sides see the same machine; reported are medians over rounds. FLOPs: twice the multiply-adds of
convolutions and matrix products, backward counted as twice a forward (so 4 forwards a step).

`methods/<name>` is the whole train step of a method (`gradient.gradient_step`: loss, measures,
clipping, optimizer), in float32 and bfloat16, and, where torch is installed, of PyTorch's same
network (`torch_steps.py`) in the same rounds; both with Adam. A ratio above 1: ours is faster.

With --threads 1 each framework computes in one thread and the rows of methods go by processor time:
on a busy machine elapsed time says more about the other work.

Usage: python benchmarks/train_step.py [--rounds 5] [--seconds 3] [--threads N] [network |
  methods/name ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable

import common
import numpy as np
import tensorflow as tf

from cql_atari import config as config_lib
from cql_atari.core.settings import Config, Network
from cql_atari.core.types import Batch, SequenceBatch
from cql_atari.methods import build, distributions, gradient, losses
from cql_atari.methods.method import Sequences
from cql_atari.networks.q_network import QNetwork, build_q_network
from cql_atari.system import pieces

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
SMALL, DECISION = "networks/resnet_small", "decision_transformer"
METHODS = {  # gin files over multigame.gin
    "scaled_q": (SMALL,),
    "cloning": ("ablations/cloning", SMALL),
    "contrastive": ("contrastive", SMALL),
    "masked_autoencoder": ("masked_autoencoder", SMALL),
    "decision_transformer_small": (DECISION, "networks/transformer_small"),
    "decision_transformer_10m": (DECISION, "networks/transformer_10m"),
    "scaled_q_resnet34": ("networks/resnet34",),
}


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
    @pieces.compiled()
    def step() -> tf.Tensor:
        next_logits = target(frames[:, 1:], games)
        with tf.GradientTape() as tape:
            logits = online(frames[:, :4], games)
            parts = losses.categorical_cql_loss(
                distributions.c51_target,
                logits,
                actions,
                next_logits,
                rewards,
                discounts,
                support,
                cql_alpha=0.05,
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


def method_config(name: str, dtype: str) -> Config:
    """The configuration of a row of `METHODS`: batch 32, three games, Adam in both frameworks."""
    files = [f"gin_configs/{file}.gin" for file in ("multigame", *METHODS[name])]
    bindings = (
        f"feed.draws = {DRAWS}", f"feed.transitions_per_draw = {BATCH // DRAWS}",
        "data.games = ('BattleZone', 'Freeway', 'KungFuMaster')", "optimizer.kind = 'adam'",
        "augmentation.shift = 0", "augmentation.intensity = 0.0", f"network.dtype = '{dtype}'",
        "optimizer.weight_decay = 0.0",
    )  # fmt: skip
    return config_lib.load(files, bindings)


def random_batch(config: Config) -> Batch | SequenceBatch:
    """A batch of what the method reads, NumPy."""
    rng, reads = np.random.default_rng(0), build.build(config).reads
    games = rng.integers(0, GAMES, DRAWS, np.int32).repeat(BATCH // DRAWS)
    if isinstance(reads, Sequences):
        shape = (BATCH, reads.length)
        returns = rng.integers(0, 100, shape).astype(np.float32)
        return SequenceBatch(
            rng.integers(0, 256, (*shape, 84, 84), np.uint8), np.zeros(shape, np.int32),
            rng.integers(-1, 2, shape).astype(np.float32), returns, games, np.ones(shape, bool),
        )  # fmt: skip
    frames = rng.integers(0, 256, (BATCH, 4 + reads.n_step, 84, 84), np.uint8)
    zeros, rewards = np.zeros(BATCH, np.int32), rng.normal(size=BATCH).astype(np.float32)
    return Batch(frames, zeros, rewards, np.full(BATCH, 0.97, np.float32), games)


def make_method_step(config: Config, clock: Callable[[], float]) -> Callable[[], float]:
    """A compiled train step of a method on one fixed batch; each call returns seconds."""
    learner = build.build(config).learner()
    batch = type(random_batch(config))(*map(tf.constant, random_batch(config)))
    step = tf.function(lambda: gradient.gradient_step(learner, batch).gradient_norm)

    def timed() -> float:
        start = clock()
        step().numpy()
        return clock() - start

    timed()
    return timed


def measure_method(name: str, rounds: int, seconds: float, threads: int = 0) -> None:
    """Alternates ours and PyTorch's, float32 and bfloat16; prints medians over rounds."""
    try:
        import torch_steps
    except ImportError:
        torch_steps = None
    clock = time.process_time if threads == 1 else time.perf_counter
    steps: dict[str, Callable[[], float]] = {}
    for dtype in ("float32", "mixed_bfloat16"):
        config = method_config(name, dtype)
        steps[dtype] = make_method_step(config, clock)
        if torch_steps:
            batch = random_batch(config)._asdict()
            steps[f"torch_{dtype}"] = torch_steps.make_step(config, batch, dtype, clock)
    found = [
        {what: BATCH / for_seconds(step, seconds) for what, step in steps.items()}
        for _ in range(rounds)
    ]
    values = {f"samples_per_second_{w}": common.summarise([row[w] for row in found]) for w in steps}
    pairs = [(dtype, f"torch_{dtype}") for dtype in ("float32", "mixed_bfloat16") if torch_steps]
    ratios = {
        f"ours_over_{theirs}": common.summarise([row[ours] / row[theirs] for row in found])
        for ours, theirs in pairs
    }
    trunk, heads = build.count_parameters(config)
    common.emit(
        f"train_step/methods/{name}", batch=BATCH, parameters=trunk + heads, **values, **ratios,
        torch=torch_steps.torch.__version__ if torch_steps else None,
        threads=threads or "default", clock=clock.__name__,
        load=os.getloadavg()[0],
    )  # fmt: skip


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
    rows = [*NETWORKS, *(f"methods/{name}" for name in METHODS)]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", default=rows, metavar="network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measure in a round")
    parser.add_argument("--threads", type=int, default=0, help="of a framework; 0: its default")
    arguments = parser.parse_args()
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # before torch is imported
        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
        tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    for name in arguments.networks:
        method = name.removeprefix("methods/")
        if method == name:
            measure_network(name, arguments.rounds, arguments.seconds)
        else:
            measure_method(method, arguments.rounds, arguments.seconds, arguments.threads)


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
