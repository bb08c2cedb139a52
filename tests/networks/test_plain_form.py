"""Values and gradients of the network equal those of the plain form that its parts are fast for."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf

from cql_atari.core.settings import Network
from cql_atari.networks.products import Dense, product
from cql_atari.networks.q_network import build_q_network
from cql_atari.system import pieces

SHARED = {"num_atoms": 5, "seed": 0}
NETWORKS = {
    "nature": Network(encoder="nature", pooling="flatten", feed_forward=(32,)),
    "resnet_small": Network(
        block="basic", depths=(1, 1), widths=(16, 32), strides=(1, 2), stem_kernel=8,
        stem_stride=4, stem_pool=False, feed_forward=(32,),
    ),
}  # fmt: skip
GAMES = (2, 0, 2, 1)
WAYS = ("op by op", "pieces by XLA", "all by XLA")


def in_order(network, kind):
    """The encoder's layers of one kind, as they were made."""
    found = [layer for layer in network.encoder.layers if type(layer).__name__ == kind]
    return sorted(found, key=lambda layer: int((re.findall(r"_(\d+)$", layer.name) or [0])[0]))


def plain_norm(x, layer):
    normal = tf.keras.layers.GroupNormalization(layer.groups, epsilon=1e-5)
    normal.build(x.shape)
    normal.gamma, normal.beta = layer.scale, layer.shift
    return normal(x)


def plain_nature(x, network):
    for layer, stride in zip(in_order(network, "Conv2D"), (4, 2, 1)):
        x = tf.nn.relu(tf.nn.conv2d(x, layer.kernel, stride, "SAME") + layer.bias)
    return tf.reshape(x, [len(x), -1])


def plain_resnet(x, network):
    pairs = zip(in_order(network, "Conv2D"), in_order(network, "GroupNorm"))
    stem, a, b, c, d, shortcut = (
        lambda x, stride, conv=conv, norm=norm: plain_norm(
            tf.nn.conv2d(x, conv.kernel, stride, "SAME"), norm
        )
        for conv, norm in pairs
    )
    x = tf.nn.relu(stem(x, 4))
    x = tf.nn.relu(x + b(tf.nn.relu(a(x, 1)), 1))
    x = tf.nn.relu(shortcut(x, 2) + d(tf.nn.relu(c(x, 2)), 1))
    embedded = tf.einsum("bhwc,hwcf->bcf", x, network.encoder.layers[-1].embedding)
    return tf.reshape(embedded, [len(x), -1])


def plain_form(network, frames, games, encode):
    """The network as a textbook has it: bytes turned first, one row and one head at a time."""
    x = encode(tf.cast(tf.transpose(frames, [0, 2, 3, 1]), tf.float32) / 255, network)
    (dense,) = (layer for layer in network.feed_forward.layers if layer.weights)
    x = tf.nn.relu(x @ dense.kernel + dense.bias)
    x /= tf.sqrt(tf.reduce_sum(x**2, -1, keepdims=True) + 1e-12)
    heads = network.heads
    rows = [
        tf.linalg.matvec(heads.kernel[game], x[i], transpose_a=True) + heads.bias[game]
        for i, game in enumerate(np.repeat(games, len(frames) // len(games)))
    ]
    return tf.reshape(tf.stack(rows), [len(frames), 18, 5])


def value_and_gradients(function, variables):
    with tf.GradientTape() as tape:
        logits = function()
        loss = -tf.reduce_mean(tf.nn.log_softmax(logits)[..., 1])
    return [logits, *tape.gradient(loss, variables)]


def whole(function):
    return tf.function(function, jit_compile=True)


@pytest.fixture(scope="module", params=NETWORKS)
def compared(request):
    """A network, frames, and what the plain form makes of them."""
    network = build_q_network(NETWORKS[request.param], num_games=3, **SHARED)
    frames = tf.constant(np.random.default_rng(0).integers(0, 256, (8, 4, 84, 84), np.uint8))
    encode = {"nature": plain_nature, "resnet_small": plain_resnet}[request.param]
    return (
        network,
        frames,
        value_and_gradients(
            lambda: plain_form(network, frames, GAMES, encode), network.trainable_variables
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("compile_", [tf.function, pieces.compiled(), whole], ids=WAYS)
def test_values_and_gradients_equal_the_plain_forms(compared, compile_):
    network, frames, plain = compared
    games, variables = tf.constant(GAMES), network.trainable_variables
    ours = compile_(lambda: value_and_gradients(lambda: network(frames, games), variables))()
    for a, b, variable in zip(ours, plain, [network.heads, *variables]):
        scale = float(tf.reduce_max(tf.abs(b)))
        np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=0, err_msg=variable.name)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_product_and_its_gradients(jit_compile):
    rng = np.random.default_rng(0)
    x, kernel, dy = (rng.normal(size=s).astype("f") for s in ((3, 4), (4, 5), (3, 5)))
    given = [tf.constant(x), tf.constant(kernel)]

    @tf.function(jit_compile=jit_compile)
    def all_three():
        with tf.GradientTape() as tape:
            tape.watch(given)
            y = product(*given)
        return [y, *tape.gradient(y, given, tf.constant(dy))]

    for ours, plain in zip(all_three(), (x @ kernel, dy @ kernel.T, x.T @ dy)):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_dense_is_keras(dtype):
    x = tf.random.stateless_normal([3, 8], [0, 0])
    ours, theirs = Dense(4, "relu", dtype=dtype), tf.keras.layers.Dense(4, "relu", dtype=dtype)
    ours.build(x.shape)
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    assert ours(x).dtype == theirs(x).dtype
    np.testing.assert_allclose(*(tf.cast(f(x), tf.float32) for f in (ours, theirs)), atol=1e-2)
