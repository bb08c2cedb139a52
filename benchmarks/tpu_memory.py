"""TPU memory: bytes a core that a train step takes, from XLA's buffer assignment; no TPU needed.

The whole step (packed frames in; online, target, C51 + CQL, backward, Adam) of each network is
compiled by XLA for the CPU with 40 games, at 4 and at 512 transitions a core. XLA then says which
buffers it reserves: what lives from step to step (weights, target, Adam's two moments) and the
step's own at its peak (activations, gradients, scratch). A line through the two sizes gives what
would fit. It is an estimate: TPU's compiler fuses more, but pads the last two axes of arrays to
8 x 128 and keeps some of the memory for itself.

The CPU's compiler widens bfloat16 to float32, but not float16, which has the same size: that
stands in for it here. Recomputation keeps only each residual block's input until the backward pass.

With --count nothing is compiled: it adds up what the encoder's layers put out for a transition, in
float32 and bfloat16, all of it or, recomputing, the blocks' inputs and the largest block.

Usage: python benchmarks/tpu_memory.py [--count] [NETWORK/DTYPE/RECOMPUTE ...]
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

NETWORKS = ("resnet34", "resnet50", "resnet101")
DTYPES = ("float32", "mixed_bfloat16")
CASES = [f"{n}/{d}/{r}" for r in ("keep", "recompute") for n in NETWORKS for d in DTYPES]
SIZES = (4, 512)  # transitions a core: the paper's most, and its whole batch
CORES = {"v3": 16e9, "v4": 32e9}  # bytes a core; v4: a chip, whose two cores are one device


def main() -> None:
    """Measures every case in processes of its own and prints one JSON line for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "cases", nargs="*", default=CASES, metavar="case", help="resnet34/float32/keep"
    )
    parser.add_argument("--count", action="store_true", help="layers' outputs instead")
    parser.add_argument("--compile", type=int, metavar="ROWS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compile:
        compile_step(*arguments.cases[0].split("/"), arguments.compile)
        return
    if arguments.count:
        for network in NETWORKS:
            common.emit("activations", network=network, mb_per_transition=count(network))
        return
    for case in arguments.cases:
        small, large = (measure(case, rows) for rows in SIZES)
        step = (large["step"] - small["step"]) / (SIZES[1] - SIZES[0])
        fixed = small["kept"] + small["step"] - SIZES[0] * step
        common.emit(
            "tpu_memory", case=case,
            kept_gb=small["kept"] / 1e9, step_gb=small["step"] / 1e9,
            total_gb=sum(small.values()) / 1e9, mb_per_transition=step / 1e6,
            fits={core: max(0, int((size - fixed) / step)) for core, size in CORES.items()},
        )  # fmt: skip


def measure(case: str, rows: int) -> dict[str, int]:
    """Bytes that one case keeps between steps, and takes during one."""
    with tempfile.TemporaryDirectory() as folder:
        flags = (
            f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*step.* "
            "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        )
        subprocess.run(
            [sys.executable, __file__, case, "--compile", str(rows)],
            check=True, stderr=subprocess.DEVNULL,
            env={**os.environ, "XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip
        (found,) = Path(folder).glob("*-buffer-assignment.txt")
        return assigned(found.read_text())


def assigned(text: str) -> dict[str, int]:
    """Bytes of a dumped buffer assignment, the step's arguments and the rest apart."""
    kept = taken = 0
    for size, kind in re.findall(r"^allocation \d+: size (\d+), (\S+)", text, re.MULTILINE):
        if kind.startswith("parameter"):
            kept += int(size)
        else:
            taken += int(size)
    return {"kept": kept, "step": taken}


def compile_step(network: str, dtype: str, recompute: str, rows: int) -> None:
    """Compiles one train step of `rows` transitions, so that XLA dumps its buffers."""
    from unittest import mock

    import tensorflow as tf
    from keras.src.mixed_precision import policy

    from cql_atari import config as config_lib
    from cql_atari.core.types import Batch
    from cql_atari.methods import scaled_q
    from cql_atari.training import strategy

    config = config_lib.load(
        [f"gin_configs/networks/{network}.gin"],
        [f"network.dtype = '{dtype}'", f"feed.draws = {rows // 4}"],
    )
    parse = policy.Policy._parse_name

    def as_float16(self: Any, name: str) -> tuple[str, str]:
        return parse(self, name.replace("bfloat16", "float16"))

    with mock.patch.object(policy.Policy, "_parse_name", as_float16):
        agent = scaled_q.make_agent(config)
    if recompute == "recompute":
        encode = recomputed(agent.network.encoder)
        agent.network.trunk = lambda frames: agent.network.feed_forward(encode(frames))

    @tf.function(jit_compile=True)
    def step(batch: Batch) -> Any:
        return agent.train(batch._replace(frames=strategy.unpack_frames(batch.frames))).extra

    numbers = tf.zeros(rows)
    games = tf.zeros(rows, tf.int32)
    frames = strategy.pack_frames(tf.zeros((rows, 7, 84, 84), tf.uint8))
    batch = Batch(frames, games, numbers, numbers, games)
    step.experimental_get_compiler_ir(batch)(stage="optimized_hlo")


def count(network: str) -> dict[str, float]:
    """MB that an encoder's layers put out for one state, by dtype and what is kept."""
    from cql_atari import config as config_lib
    from cql_atari.methods import build

    config = config_lib.load([f"gin_configs/networks/{network}.gin"])
    encoder = build.build(config).network.encoder
    stretches = [0]  # numbers put out in the stem, each block, the pooling
    inputs = 0  # in the blocks' inputs alone
    ends = {id(end) for end in block_ends(encoder)}
    for layer in encoder.layers:
        size = math.prod(layer.output.shape[1:])
        stretches[-1] += size
        if id(layer.output) in ends:
            inputs += size
            stretches.append(0)
    stem, *blocks, pooling = stretches
    numbers = {"keep": sum(stretches), "recompute": stem + inputs + max(blocks) + pooling}
    return {
        f"{dtype}/{kind}": width * found / 1e6
        for dtype, width in (("float32", 4), ("bfloat16", 2))
        for kind, found in numbers.items()
    }


def block_ends(encoder: Any) -> list[Any]:
    """The outputs of the residual blocks but for the stem's, which stands for the first's input."""
    import tensorflow as tf

    layers = tf.keras.layers
    added = {id(layer.output) for layer in encoder.layers if isinstance(layer, layers.Add)}
    return [layer.output for layer in encoder.layers
            if isinstance(layer, layers.ReLU) and id(layer.input) in added]  # fmt: skip


def recomputed(encoder: Any) -> Callable[[Any], Any]:
    """The same encoder; of each residual block only the input is kept for the backward pass."""
    import tensorflow as tf

    model, ends = tf.keras.Model, block_ends(encoder)
    stem, *blocks = (
        model(start, end) for start, end in zip([encoder.input, *ends], [*ends, encoder.output])
    )
    pooling = blocks.pop()

    def encode(frames: Any) -> Any:
        x = stem(frames)
        for block in blocks:
            x = tf.recompute_grad(block)(x)
        return pooling(x)

    return encode


if __name__ == "__main__":
    main()
