"""Pieces: compiled in training, plain where others look on or all is compiled anyway."""

from __future__ import annotations

import pytest
import tensorflow as tf

from cql_atari.system import devices, pieces


@pieces.piece
def scaled(x, power):
    seen.append(devices.in_xla())
    return x**power * 2


seen = []


@pytest.fixture(autouse=True)
def nothing_seen():
    seen.clear()


def gradient(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = scaled(x, 2)
    return tape.gradient(y, x)


def calls(function, x):
    """Functions that the traced function calls, as XLA's or not."""
    graph = tf.function(function).get_concrete_function(x).graph.as_graph_def()
    called = {f for node in graph.node for f in [node.attr["f"].func.name] if f}
    return [
        f.attr["_XlaMustCompile"].b for f in graph.library.function if f.signature.name in called
    ]


def test_a_piece_is_compiled_where_training_says_so():
    x = tf.constant([1.0, 3.0])
    assert calls(gradient, x) == []
    assert calls(pieces.compiled()(gradient), x) == [True, True]  # forward, backward
    assert calls(gradient, x) == []  # and not after it
    for function in (gradient, pieces.compiled()(gradient)):
        assert function(x).numpy().tolist() == [4.0, 12.0]


def test_inside_xla_there_are_no_pieces():
    x = tf.constant([1.0, 3.0])

    @tf.function(jit_compile=True)
    def whole(x):
        return tf.function(pieces.compiled()(gradient))(x)

    assert whole(x).numpy().tolist() == [4.0, 12.0]
    assert seen == [True]
    nodes = whole.get_concrete_function(x).graph.as_graph_def().library.function
    assert not any(f.attr["_XlaMustCompile"].b for f in nodes)


def test_outside_nothing_is_xlas():
    assert not devices.in_xla()
    tf.function(lambda: seen.append(devices.in_xla()))()
    assert seen == [False]
