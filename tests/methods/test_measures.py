"""Measures by hand: three actions, of which a game has the first two."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from cql_atari.methods import distributions, measures

OWN = tf.constant([[True, True, False], [True, True, True]])


def test_values():
    q = tf.constant([[1.0, 3.0, 9.0], [5.0, 4.0, 2.0]])
    found = measures.of_values(q, tf.constant([0, 0]), tf.constant([0, 0]), OWN)
    expected = {
        "q_data": [1, 5], "q_largest_used": [3, 5], "q_largest_unused": [9, 0], "q_gap": [2, 1],
        "greedy_is_datas": [0, 1], "greedy_is_most_frequent": [0, 1],
    }  # fmt: skip
    assert {name: value.numpy().tolist() for name, value in found.items()} == expected


def test_the_most_frequent_action_is_that_of_the_rows_of_the_same_game():
    actions, games = tf.constant([3, 3, 5, 5, 3, 5]), tf.constant([0, 1, 1, 1, 0, 0])
    assert measures.most_frequent(actions, games).numpy().tolist() == [3, 5, 5, 5, 3, 3]
    q = tf.one_hot([3, 3, 3, 5, 17, 3], 18)
    found = measures.of_values(q, actions, games, tf.ones((6, 18), bool))
    assert found["greedy_is_most_frequent"].numpy().tolist() == [1, 0, 0, 1, 0, 1]


@pytest.mark.parametrize("masked, share", [(True, 0.0), (False, 1.0)])
def test_a_target_that_bootstraps_from_an_action_that_the_game_has_not_shows(masked, share):
    chooser = tf.constant([[1.0, 3.0, 9.0], [5.0, 4.0, 2.0]])
    target = tf.constant([[0.25, 0.5, 0.25], [0.0, 1.0, 0.0]])
    available = OWN if masked else tf.ones_like(OWN)
    found = measures.of_targets(chooser, OWN, available, target)
    assert found["target_action_unused"].numpy().tolist() == [share, 0.0]
    assert found["target_at_ends"].numpy().tolist() == [0.5, 0.0]
    assert "target_at_ends" not in measures.of_targets(chooser, OWN, available, None)


def test_a_game_whose_returns_lie_beyond_the_support_is_named():
    scalars = {"target_at_ends": 0.2, "target_at_ends/Krull": 0.09, "target_at_ends/Pong": 0.01}
    found = measures.narrow_support(scalars, distributions.support(-10, 10, 51))
    assert list(found) == ["target_at_ends/Krull"]
    assert "Krull: 9% of the targets' mass" in found["target_at_ends/Krull"]
    assert "-10 and 10" in found["target_at_ends/Krull"]
    assert not measures.narrow_support(scalars, None)
    few_atoms = distributions.support(-10, 10, 11)  # an untrained network has 2/11 on the ends
    assert not measures.narrow_support(scalars, few_atoms)
    assert not measures.narrow_support({"target_at_ends/Krull": 0.18}, few_atoms)
    assert measures.narrow_support({"target_at_ends/Krull": 0.19}, few_atoms)


def test_the_pull_of_cql_is_alpha_times_the_variance():
    support = distributions.support(-1, 1, 3)
    shares = [[0.5, 1e-12, 0.5], [0.25, 0.5, 0.25], [1e-12, 0.5, 0.5]]  # the last one's mean: 0.5
    logits = np.log(np.array(shares, np.float32))
    np.testing.assert_allclose(
        measures.pull_of_cql(tf.constant(logits), support, 0.1), [0.1, 0.05, 0.025], rtol=1e-5
    )
