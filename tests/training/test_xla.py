"""The whole step under XLA: same numbers, static shapes, no op that a TPU lacks. No TPU needed.

TensorFlow registers an op's XLA kernel for every backend unless told otherwise, and TPU's filter
(`TpuOpFilter`) takes out none; but its backend is not in the CPU's wheel. So an op counts as within
TPU's reach if both backends that are there have it, CPU's and GPU's, with types of TPU's own list,
which is in the wheel's header (`tpu_defs.h`). What the wheel can't show is how it runs.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import graphs
import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow.python.framework import kernels

from cql_atari.methods import build
from cql_atari.training import loop, strategy

pytestmark = pytest.mark.slow

FLOAT32, BFLOAT16 = 1e-5, 3e-2  # relative difference of gradient norms and per-game sums
CASES = {
    "c51": (),
    "hl_gauss_double_q": ("loss.kind = 'hl_gauss'", "loss.double_q = True",
                          "optimizer.encoder_learning_rate = 1e-5"),
    "mse": ("loss.kind = 'mse'", "network.feature_norm = False"),
    "cloning": ("train.method = 'cloning'", "network.block = 'bottleneck'",
                "network.stem_pool = True"),
    "bfloat16": ("network.dtype = 'mixed_bfloat16'",),
    "nature": ("network.encoder = 'nature'", "network.pooling = 'flatten'"),
    "impala": ("network.encoder = 'impala'", "network.pooling = 'mean'"),
}  # fmt: skip
# Taken apart by the compiler before kernels matter: calls, arguments, variable handles.
STRUCTURE = {"Placeholder", "NoOp", "PartitionedCall", "StatefulPartitionedCall"}


def types_of_tpus():
    """The names that `tf.DType.name` would give, without those TensorFlow 2.15 can't name."""
    header = Path(tf.sysconfig.get_include(), "tensorflow/core/tpu/tpu_defs.h").read_text()
    listed = re.search(r"kTpuAllTypes = \{(.*?)\};", header, re.DOTALL).group(1)
    return {name.lower() for name in re.findall(r"DT_(\w+)", listed)}


def reach():
    """Ops with a kernel for both XLA backends."""
    tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(0))  # registers them
    by_backend = {"XLA_CPU_JIT": set(), "XLA_GPU_JIT": set()}
    for kernel in kernels.get_all_registered_kernels().kernel:
        if kernel.device_type in by_backend:
            by_backend[kernel.device_type].add(kernel.op)
    return set.intersection(*by_backend.values())


def nodes(concrete):
    """Every node of a traced function, those of the functions it calls included."""
    graph = concrete.graph.as_graph_def()
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def types(node):
    """Names of the data types in a node's attributes."""
    names = {"float": "float32", "double": "float64", "half": "float16"}
    for attribute in node.attr.values():
        for number in [attribute.type, *attribute.list.type]:
            name = tf.dtypes.as_dtype(number).name if number else ""
            if name and name not in ("resource", "variant"):
                yield next((short for short, long in names.items() if long == name), name)


def make_step(config):
    method = build.build(config)
    learner = method.learner()
    return method.network, learner.parameter_groups, functools.partial(loop.replica_step, learner)


@pytest.fixture(autouse=True)
def no_graph_outlives_its_case():
    yield
    graphs.let_go()


SHORT = ("c51", "nature")  # the others are compiled by `make proof`
EVERY = [case if case in SHORT else pytest.param(case, marks=pytest.mark.proof) for case in CASES]


@pytest.mark.parametrize("case", EVERY)
def test_the_step_compiles_to_the_same_numbers_within_tpus_reach(case):
    config = tiny.config(*CASES[case])
    network, parts, step = make_step(config)
    (batches,) = tiny.dataset(config)(slice(None)).take(1)
    packed = batches._replace(frames=strategy.pack_frames(batches.frames))
    k, start = tf.constant(1), [v.numpy() for v in network.trainable_variables]

    plain = tf.function(step, autograph=False)
    concrete = plain.get_concrete_function(packed, k)
    used = {node.op for node in nodes(concrete)}
    assert {"ResourceApplyAdam", "GatherV2", "Conv2DBackpropFilter"} <= used
    lacking = {op for op in used - STRUCTURE - reach() if op not in called(concrete)}
    assert not lacking
    assert {t for node in nodes(concrete) for t in types(node)} <= types_of_tpus()

    compiled = tf.function(step, autograph=False, jit_compile=True)
    sums, norm = compiled(packed, k)
    assert "<=" not in compiled.experimental_get_compiler_ir(packed, k)(stage="hlo")
    after = [v.numpy() for v in network.trainable_variables]
    for variable, value in zip(network.trainable_variables, start):
        variable.assign(value)
    for variable in (v for part in parts for v in part.optimizer.variables()):
        variable.assign(tf.zeros_like(variable))
    expected_sums, expected_norm = plain(batches, k)
    tolerance = BFLOAT16 if case == "bfloat16" else FLOAT32
    np.testing.assert_allclose(norm, expected_norm, rtol=tolerance)
    for name, value in expected_sums.items():
        np.testing.assert_allclose(sums[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
    moved = np.concatenate([(v - s).ravel() for v, s in zip(after, start)])
    expected = np.concatenate(
        [(v.numpy() - s).ravel() for v, s in zip(network.trainable_variables, start)]
    )
    assert np.linalg.norm(moved - expected) < 10 * tolerance * np.linalg.norm(expected)


def called(concrete):
    return {f.signature.name for f in concrete.graph.as_graph_def().library.function}


def test_an_op_out_of_reach_is_noticed():
    ops = reach()
    assert {"MatMul", "Conv2D", "ResourceApplyAdam"} <= ops
    assert not {"PyFunc", "EagerPyFunc", "ReverbDataset", "StringJoin"} & ops
    assert {"uint8", "uint32", "float", "bfloat16"} <= types_of_tpus()
    assert "string" not in types_of_tpus()
