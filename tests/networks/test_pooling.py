"""The learned spatial embedding against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from cql_atari.networks.pooling import SpatialEmbedding


def test_sums_the_map_times_each_block():
    layer = SpatialEmbedding(blocks=2, seed=0)
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    y = layer(x)
    (kernel,) = layer.get_weights()
    expected = (x[..., None] * kernel).sum(axis=(1, 2))  # [B, C, F]
    assert kernel.shape == (4, 5, 6, 2)
    np.testing.assert_allclose(y, expected.reshape(3, 12), rtol=1e-4, atol=1e-6)


def test_positions_are_kept():
    layer = SpatialEmbedding(blocks=1, seed=0)
    left, right = np.zeros((2, 1, 4, 4, 1), np.float32)
    left[0, 1, 0], right[0, 1, 3] = 1, 1
    assert abs(float(layer(left)[0, 0] - layer(right)[0, 0])) > 1e-3


def test_starts_lecun_normal():
    layer = SpatialEmbedding(blocks=8, seed=0)
    layer.build(tf.TensorShape([None, 11, 11, 64]))
    assert np.std(layer.get_weights()[0]) == pytest.approx((11 * 11 * 64) ** -0.5, rel=0.02)
