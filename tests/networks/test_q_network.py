"""The whole network: parameter totals, heads, determinism, precision, compilation, mistakes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable

from cql_atari.core.settings import Network
from cql_atari.networks.q_network import GameHeads, build_q_network

SMALL = Network(
    block="basic", depths=(1, 1), widths=(8, 16), strides=(1, 2), stem_kernel=8, stem_stride=4,
    stem_pool=False, feed_forward=(32, 16),
)  # fmt: skip
GAMES = tf.constant([0, 2, 2])  # three draws of two rows


def build(seed=0, num_atoms=5, **changes):
    section = dataclasses.replace(SMALL, **changes)
    return build_q_network(section, num_games=3, num_atoms=num_atoms, seed=seed)


@pytest.fixture(scope="module")
def frames():
    return tf.constant(np.random.default_rng(0).integers(0, 256, (6, 4, 84, 84), np.uint8))


@pytest.fixture(scope="module")
def network():
    return build()


# Parameter totals with the reconstructed defaults: published 31M, 60M and 79M, heads apart.


def without_values(_, *, shape, dtype, trainable, name, **__):
    """A variable that holds nothing: its shape is what matters."""
    return UninitializedVariable(shape=shape, dtype=dtype, trainable=trainable, name=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "millions"),
    [
        ({"block": "basic", "depths": (3, 4, 6, 3)}, 31.2),
        pytest.param({"depths": (3, 4, 6, 3)}, 60.1, marks=pytest.mark.proof),  # as the next
        ({}, 79.1),
    ],
    ids=["resnet34", "resnet50", "resnet101"],
)
def test_trunks_have_the_published_sizes(arguments, millions):
    with tf.variable_creator_scope(without_values):
        network = build_q_network(Network(**arguments), num_games=1, num_atoms=1, seed=0)
    trunk = (network.encoder, network.feed_forward)
    assert sum(part.count_params() for part in trunk) / 1e6 == pytest.approx(millions, abs=0.05)
    assert all(len(part.trainable_variables) == len(part.variables) for part in trunk)


def test_heads_count():
    heads = GameHeads(num_games=40, num_actions=18, num_atoms=51, num_features=512, seed=0)
    assert heads.count_params() == 40 * 18 * 51 * (512 + 1)


# Heads.


def test_a_head_starts_the_same_however_many_games_there_are():
    """Glorot-uniform by its own inputs and outputs."""
    for num_games in (1, 40):
        heads = GameHeads(num_games, num_actions=18, num_atoms=5, num_features=60, seed=0)
        assert np.abs(heads.kernel).max() == pytest.approx((6 / (60 + 90)) ** 0.5, rel=0.01)


def test_each_draw_uses_its_own_games_head(network, frames):
    logits = network(frames, GAMES)
    features = network.trunk(frames).numpy()
    kernel, bias = network.heads.kernel.numpy(), network.heads.bias.numpy()
    expected = [features[i] @ kernel[g] + bias[g] for i, g in enumerate(np.repeat(GAMES, 2))]
    assert logits.shape == (6, 18, 5) and logits.dtype == tf.float32
    np.testing.assert_allclose(logits, np.reshape(expected, (6, 18, 5)), atol=1e-5)


def test_rows_of_a_draw_agree_with_single_rows(network, frames):
    one_by_one = network(frames, tf.repeat(GAMES, 2))
    np.testing.assert_allclose(network(frames, GAMES), one_by_one, atol=1e-5)


def test_only_drawn_heads_get_gradients_and_repeated_draws_add_up():
    heads = GameHeads(num_games=3, num_actions=2, num_atoms=2, num_features=3, seed=0)
    heads.bias.assign(tf.random.normal(heads.bias.shape))
    features = tf.random.stateless_normal([6, 3], [0, 0])
    weights = tf.random.stateless_normal([6, 2, 2], [1, 1])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(weights * heads(features, GAMES))
    kernel_gradient, bias_gradient = tape.gradient(loss, heads.trainable_variables)
    rows = {0: slice(0, 2), 2: slice(2, 6)}
    flat = tf.reshape(weights, [6, 4]).numpy()
    for game in range(3):
        x = features.numpy()[rows[game]] if game in rows else np.zeros((1, 3))
        dy = flat[rows[game]] if game in rows else np.zeros((1, 4))
        np.testing.assert_allclose(kernel_gradient[game], x.T @ dy, atol=1e-5)
        np.testing.assert_allclose(bias_gradient[game], dy.sum(0), atol=1e-5)
    assert isinstance(kernel_gradient, tf.Tensor)  # dense, for the fused Adam and for TPUs


def test_heads_of_different_games_start_different_and_small(network):
    kernel = network.heads.kernel.numpy()
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1
    assert np.abs(kernel).max() <= (6 / (16 + 18 * 5)) ** 0.5


# The trunk.


def test_stack_order_and_scale_reach_the_encoder(frames):
    network = build(feature_norm=False)
    pixels = network.encoder.layers[1](frames)
    np.testing.assert_allclose(pixels, np.moveaxis(frames.numpy(), 1, 3) / 255, atol=1e-6)


@pytest.mark.parametrize("feature_norm", [True, False])
def test_feature_norm(frames, feature_norm):
    features = build(feature_norm=feature_norm).trunk(frames)
    norms = tf.norm(features, axis=1)
    assert features.dtype == tf.float32
    assert np.allclose(norms, 1, atol=1e-5) == feature_norm


@pytest.mark.parametrize(
    ("pooling", "width"), [("spatial_embedding", 16 * 3), ("flatten", 11 * 11 * 16), ("mean", 16)]
)
def test_poolings(frames, pooling, width):
    network = build(pooling=pooling, embedding_blocks=3, feed_forward=())
    assert network.trunk(frames[:1]).shape == (1, width)


@pytest.mark.parametrize("encoder", ["nature", "impala"])
def test_other_encoders_train(frames, encoder):
    network = build(encoder=encoder)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(network(frames, GAMES) ** 2)
    assert all(np.any(g) for g in tape.gradient(loss, network.trainable_variables)[::2])


def test_one_atom_gives_scalar_values(frames):
    assert build(num_atoms=1)(frames, GAMES).shape == (6, 18, 1)


# Encoder and feed-forward part.


def test_the_encoder_ends_at_the_pooled_features(network, frames):
    pooled = network.encoder(frames)
    assert pooled.shape == (6, 16 * 8)  # channels of the last stage x blocks of the embedding
    np.testing.assert_array_equal(network.feed_forward(pooled), network.trunk(frames))
    assert [v.shape for v in network.feed_forward.variables] == [(128, 32), (32,), (32, 16), (16,)]
    parts = [v for p in (network.encoder, network.feed_forward, network.heads) for v in p.variables]
    assert [v.name for v in parts] == [v.name for v in network.variables]


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_no_gradient_goes_into_a_frozen_encoder(frames, jit_compile):
    network = build()
    network.encoder.trainable = False

    @tf.function(jit_compile=jit_compile)
    def gradients():
        with tf.GradientTape() as tape:  # watches every variable by itself
            loss = tf.reduce_sum(network(frames, GAMES) ** 2)
        found = tape.gradient(loss, network.variables)
        names.update(v.name for v, g in zip(network.variables, found) if g is not None)
        return [gradient for gradient in found if gradient is not None]

    names: set[str] = set()
    assert all(np.any(gradient) for gradient in gradients())
    assert names == {v.name for v in network.trainable_variables}
    assert names == {v.name for v in network.variables} - {
        v.name for v in network.encoder.variables
    }


# Determinism, precision, compilation.


def test_the_seed_fixes_the_weights(network):
    again, other = (build(seed) for seed in (0, 1))
    for a, b, c in zip(network.variables, again.variables, other.variables):
        np.testing.assert_array_equal(a, b)
        if "kernel" in a.name or "embedding" in a.name:
            assert not np.array_equal(a, c)
    kernels = [v.numpy().ravel()[:9] for v in network.trainable_variables if "conv" in v.name]
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)


ONE_BLOCK = {"depths": (1,), "widths": (8,), "strides": (2,)}  # with a shortcut's convolution


def logits_and_gradients(network, frames):
    with tf.GradientTape() as tape:
        logits = network(frames, GAMES)
        loss = tf.reduce_mean(tf.nn.log_softmax(logits)[..., 0])
    return [logits, *tape.gradient(loss, network.trainable_variables)]


@pytest.fixture(scope="module")
def eager_float32(frames):
    return logits_and_gradients(build(**ONE_BLOCK), frames)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_compiled_gradients_agree_with_eager_float32(eager_float32, frames, dtype):
    network = build(dtype=dtype, **ONE_BLOCK)
    assert {v.dtype for v in network.variables} == {tf.float32}
    for jit_compile in (False, True):
        function = tf.function(logits_and_gradients, jit_compile=jit_compile)
        compiled = function(network, frames)
        a, b = (np.concatenate([np.ravel(t) for t in ts]) for ts in (compiled, eager_float32))
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert a.dtype == np.float32
        assert cosine > (0.999999 if dtype == "float32" else 0.99), jit_compile


def test_weights_survive_a_checkpoint(network, frames, tmp_path):
    path = tf.train.Checkpoint(network=network).write(str(tmp_path / "weights"))
    other = build(seed=1)
    tf.train.Checkpoint(network=other).read(path).assert_consumed()
    np.testing.assert_array_equal(other(frames, GAMES), network(frames, GAMES))
