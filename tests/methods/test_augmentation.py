"""Random shift and intensity against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from cql_atari.methods import augmentation

FRAMES = np.random.default_rng(0).integers(0, 256, (64, 3, 12, 10), np.uint8)
SEED = tf.constant([3, 5])


def cut(row: np.ndarray, down: int, right: int) -> np.ndarray:
    """What a window sees that lies `down` and `right` of the frame, whose border is repeated."""
    padded = np.pad(row, ((0, 0), (4, 4), (4, 4)), "edge")
    return padded[:, 4 + down : 16 + down, 4 + right : 14 + right]


def test_every_row_moves_by_an_offset_of_its_own_and_all_offsets_occur():
    moved = augmentation.shift(tf.constant(FRAMES), SEED, 4).numpy()
    offsets = [(y, x) for y in range(-4, 5) for x in range(-4, 5)]
    found = [
        [o for o in offsets if (after == cut(before, *o)).all()]
        for before, after in zip(FRAMES, moved)
    ]
    assert all(len(matches) == 1 for matches in found)
    assert {matches[0][0] for matches in found} == set(range(-4, 5))
    assert {matches[0][1] for matches in found} == set(range(-4, 5))
    assert len({matches[0] for matches in found}) > 9  # up or down says nothing of left or right


@pytest.mark.parametrize("augment", [
    lambda frames, seed: augmentation.shift(frames, seed, 4),
    lambda frames, seed: augmentation.intensity(frames, seed, 0.05),
])  # fmt: skip
def test_is_a_function_of_the_seed(augment):
    a, b, c = (augment(tf.constant(FRAMES), tf.constant([3, step])).numpy() for step in (5, 5, 6))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any() and a.dtype == np.uint8


def test_no_shift_and_no_intensity_change_nothing():
    np.testing.assert_array_equal(augmentation.shift(tf.constant(FRAMES), SEED, 0), FRAMES)
    np.testing.assert_array_equal(augmentation.intensity(tf.constant(FRAMES), SEED, 0.0), FRAMES)


def test_intensity_is_one_factor_a_row_within_two_deviations():
    flat = np.full((500, 2, 3, 3), 100, np.uint8)
    flat[:, :, 0, 0] = 255  # can't get lighter
    got = augmentation.intensity(tf.constant(flat), SEED, 0.05).numpy()
    factors = got[:, 0, 1, 1] / 100
    assert (got[:, :, 1:, 1:] == got[:, :1, 1:2, 1:2]).all()
    assert 0.9 <= factors.min() < 0.93 and 1.07 < factors.max() <= 1.1
    assert factors.std() == pytest.approx(0.05, rel=0.15)
    lighter = factors > 1
    assert (got[lighter, :, 0, 0] == 255).all() and (got[factors < 0.99, :, 0, 0] < 255).all()
