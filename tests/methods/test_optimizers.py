"""LAMB and AdamW against their papers' formulas in NumPy; the rate against hand-made points."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from cql_atari.methods.optimizers import AdamW, Lamb, RateSchedule

MATRIX = np.array([[3.0, 0.0], [0.0, 4.0]], np.float32)  # its norm is 5
VECTOR = np.array([1.0, -2.0], np.float32)


def run(optimizer, start, gradients):
    variable = tf.Variable(start)
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
    return variable.numpy()


def gradients(shape, steps=5):
    return np.random.default_rng(0).normal(size=(steps, *shape)).astype(np.float32)


def lamb(x, grads, rate, decay, *, layerwise):
    """Algorithm 2 in float64."""
    x = x.astype(np.float64)
    m = v = np.zeros_like(x)
    for t, g in enumerate(grads.astype(np.float64), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        r = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + decay * x
        x = x - rate * r * (np.linalg.norm(x) / np.linalg.norm(r) if layerwise else 1)
    return x


def test_lamb_moves_a_matrix_by_the_rate_times_its_norm():
    moved = run(Lamb(0.01), MATRIX, gradients((2, 2), steps=1))
    assert np.linalg.norm(moved - MATRIX) == pytest.approx(0.01 * 5, rel=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_is_the_papers(decay):
    grads = gradients((2, 2))
    got = run(Lamb(0.05, weight_decay=decay), MATRIX, grads)
    np.testing.assert_allclose(got, lamb(MATRIX, grads, 0.05, decay, layerwise=True), rtol=1e-5)


def test_lamb_is_adam_for_vectors_and_a_matrix_of_zeros_can_leave_zero():
    grads = gradients((2,))
    got = run(Lamb(0.05, weight_decay=0.1), VECTOR, grads)
    np.testing.assert_allclose(got, lamb(VECTOR, grads, 0.05, 0.0, layerwise=False), rtol=1e-5)
    assert run(Lamb(0.05), np.zeros((2, 2), np.float32), gradients((2, 2), 1)).all()


def test_adamw_decays_matrices_beside_adam():
    grads = gradients((2, 2), steps=1)
    plain = run(tf.keras.optimizers.legacy.Adam(0.05), MATRIX, grads)
    decayed = run(AdamW(0.05, weight_decay=0.1), MATRIX, grads)
    np.testing.assert_allclose(decayed, plain - 0.05 * 0.1 * MATRIX, rtol=1e-5)
    same = run(tf.keras.optimizers.legacy.Adam(0.05), VECTOR, gradients((2,)))
    np.testing.assert_array_equal(same, run(AdamW(0.05, weight_decay=0.1), VECTOR, gradients((2,))))


@pytest.mark.parametrize("kind", [Lamb, lambda rate: AdamW(rate, weight_decay=0.01)])
def test_a_restored_optimizer_goes_on_bit_for_bit(kind, tmp_path):
    grads = gradients((2, 2), steps=6)
    whole = run(kind(0.05), MATRIX, grads)
    first, variable = kind(0.05), tf.Variable(MATRIX)
    for gradient in grads[:3]:
        first.apply_gradients([(tf.constant(gradient), variable)])
    path = tf.train.Checkpoint(optimizer=first, variable=variable).save(str(tmp_path / "half"))
    second, other = kind(0.05), tf.Variable(MATRIX)
    second._create_all_weights([other])
    restored = tf.train.Checkpoint(optimizer=second, variable=other).restore(path)
    restored.assert_existing_objects_matched()
    for gradient in grads[3:]:
        second.apply_gradients([(tf.constant(gradient), other)])
    np.testing.assert_array_equal(other.numpy(), whole)


def test_the_rate_rises_stays_and_falls():
    stays, falls = RateSchedule(1.0, 10), RateSchedule(1.0, 10, 110)
    assert [float(stays(s)) for s in (0, 4, 9, 10, 10**6)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert [float(falls(s)) for s in (4, 10, 60, 110, 200)] == pytest.approx([0.5, 1, 0.5, 0, 0])
    assert float(RateSchedule(0.3, 0)(0)) == pytest.approx(0.3)


def test_an_optimizer_follows_a_schedule():
    optimizer = Lamb(RateSchedule(0.01, 2))
    start = run(optimizer, MATRIX, gradients((2, 2), steps=1))
    assert np.linalg.norm(start - MATRIX) == pytest.approx(0.005 * 5, rel=1e-5)
