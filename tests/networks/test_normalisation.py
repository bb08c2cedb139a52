"""Group norm against Keras' layer and finite differences; feature norm."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from cql_atari.networks.normalisation import (
    GROUP_NORM_EPSILON,
    GroupNorm,
    group_norm,
    l2_normalised,
)


def keras_oracle(x, scale, shift, groups):
    """Keras' layer with given weights, in float32."""
    layer = tf.keras.layers.GroupNormalization(groups, epsilon=GROUP_NORM_EPSILON)
    layer.build(x.shape)
    layer.gamma, layer.beta = scale, shift
    return layer(x)


def value_and_gradients(norm, inputs, groups, dy):
    """[y, dx, dscale, dshift] for inputs (x, scale, shift)."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = norm(*inputs, groups)
    return [y, *tape.gradient(y, inputs, tf.cast(dy, y.dtype))]


NAMES = ("y", "dx", "dscale", "dshift")


def example(shape=(3, 5, 4, 8), seed=0):
    rng = np.random.default_rng(seed)
    channels = shape[-1:]
    sizes = (shape, channels, channels, shape)
    x, scale, shift, dy = (tf.constant(rng.normal(size=s), tf.float32) for s in sizes)
    return 2 * x + 1, scale, shift, dy


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(3, 5, 4, 8), (2, 1, 1, 16)], ids=str)
def test_values_and_gradients_equal_keras(groups, shape):
    x, scale, shift, dy = example(shape)
    ours = value_and_gradients(group_norm, (x, scale, shift), groups, dy)
    theirs = value_and_gradients(keras_oracle, (x, scale, shift), groups, dy)
    for name, a, b in zip(NAMES, ours, theirs):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_without_groups_only_scale_and_shift_are_left(dtype):
    layer = GroupNorm(0, dtype=dtype)
    layer.build((None, 1, 2, 2))
    layer.scale.assign([3.0, -1.0])
    layer.shift.assign([0.5, 0.0])
    y = layer(tf.reshape(tf.constant([1.0, 2.0, -4.0, 8.0]), (1, 1, 2, 2)))
    np.testing.assert_array_equal(tf.cast(y, tf.float32)[0, 0], [[3.5, -2.0], [-11.5, -8.0]])
    assert y.dtype == layer.compute_dtype


def test_a_small_deviation_is_held_against_epsilon():
    """0 and 0.002: the variance is 1e-6, epsilon ten times as much."""
    x = tf.reshape(tf.constant([0.0, 0.002]), (1, 2, 1, 1))
    y = tf.reshape(group_norm(x, tf.ones(1), tf.zeros(1), 1), [-1])
    np.testing.assert_allclose(y, np.array([-1, 1]) / 11**0.5, rtol=1e-3)


def test_a_map_of_one_value_stays_finite():
    """Rounding leaves some a variance below zero."""
    values = np.random.default_rng(0).uniform(0, 1000, (64, 1, 1, 1)).astype(np.float32)
    x = tf.constant(values * np.ones((64, 5, 4, 8), np.float32))
    y = group_norm(x, tf.ones(8), tf.zeros(8), 2)
    assert np.isfinite(y).all()


def test_gradient_equals_finite_differences():
    x, scale, shift, dy = example((2, 2, 2, 4))
    theoretical, numerical = tf.test.compute_gradient(
        lambda *arguments: dy * group_norm(*arguments, groups=2), [x, scale, shift], delta=1e-2
    )
    for a, b in zip(theoretical, numerical):
        np.testing.assert_allclose(a, b, atol=3e-3)


def test_bfloat16_keeps_float32_statistics():
    # A sum in bfloat16 over 42 x 42 values near 4 would stop growing at 1024.
    x, scale, shift, dy = example((2, 42, 42, 8))
    x, dy = tf.cast(x + 3, tf.bfloat16), tf.cast(dy, tf.bfloat16)
    ours = value_and_gradients(group_norm, (x, scale, shift), 4, dy)
    wide = (tf.cast(x, tf.float32), scale, shift)
    theirs = value_and_gradients(keras_oracle, wide, 4, tf.cast(dy, tf.float32))
    assert [tensor.dtype for tensor in ours[:2]] == [tf.bfloat16] * 2
    for name, a, b in zip(NAMES, ours, theirs):
        np.testing.assert_allclose(tf.cast(a, tf.float32), b, rtol=2**-8, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_xla_agrees(dtype):
    x, scale, shift, dy = example()
    x = tf.cast(x, dtype)
    compiled = tf.function(value_and_gradients, jit_compile=True)
    ours = value_and_gradients(group_norm, (x, scale, shift), 4, dy)
    for a, b in zip(ours, compiled(group_norm, (x, scale, shift), 4, dy)):
        np.testing.assert_allclose(*(tf.cast(t, tf.float32) for t in (a, b)), rtol=1e-2, atol=1e-5)


def test_xla_gets_plain_reductions():
    """A pooling would be a reduce-window in the program that XLA gets."""
    compiled = tf.function(
        lambda *arrays: value_and_gradients(group_norm, arrays[:3], 4, arrays[3]), jit_compile=True
    )
    text = compiled.experimental_get_compiler_ir(*example())("hlo")
    assert "reduce(" in text
    assert "reduce-window" not in text


def test_constant_input_stays_finite():
    x = tf.fill([2, 5, 5, 8], 1e3)
    inputs = (x, tf.ones(8), tf.zeros(8))
    results = value_and_gradients(group_norm, inputs, 4, tf.ones_like(x))
    assert all(np.all(np.isfinite(result)) for result in results)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_layer_starts_as_plain_normalisation_or_as_zero(dtype):
    x = example()[0]
    y = tf.cast(GroupNorm(4, dtype=dtype)(x), tf.float32)
    by_group = tf.reshape(y, [3, 20, 4, 2])
    np.testing.assert_allclose(tf.reduce_mean(by_group, [1, 3]), np.zeros((3, 4)), atol=1e-2)
    np.testing.assert_allclose(tf.math.reduce_std(by_group, [1, 3]), np.ones((3, 4)), atol=1e-2)
    layer = GroupNorm(4, zero_scale=True, dtype=dtype)
    assert np.all(tf.cast(layer(x), tf.float32) == 0)
    assert [w.dtype for w in layer.trainable_weights] == [tf.float32] * 2


def test_features_get_unit_norm_and_zero_stays_zero():
    features = tf.constant([[3.0, 4.0], [1e-3, 0.0], [0.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(features)
        normalised = l2_normalised(features)
    np.testing.assert_allclose(normalised, [[0.6, 0.8], [1, 0], [0, 0]], rtol=1e-5)
    assert np.all(np.isfinite(tape.gradient(normalised, features)))
    assert l2_normalised(tf.cast(features, tf.bfloat16)).dtype == tf.float32
