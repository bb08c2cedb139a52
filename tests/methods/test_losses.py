"""Losses against hand numbers, TF-Agents' projection, finite differences, and each other."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tf_agents.agents.categorical_dqn import categorical_dqn_agent

from cql_atari.methods import distributions, losses

B, A, N = 5, 4, 7
ALPHA = 0.3
DISTRIBUTIONAL = {
    "c51": (distributions.c51_target, distributions.support(-2, 2, N)),
    "hl_gauss": (distributions.hl_gauss_target, distributions.bin_centres(-2, 2, N)),
    "two_hot": (distributions.two_hot_target, distributions.support(-2, 2, N)),
}
KINDS = ("c51", "hl_gauss", "two_hot", "mse")


def bind(kind, alpha=ALPHA):
    """The loss of one kind with its support bound, and its outputs an action."""
    if kind == "mse":
        return functools.partial(losses.mse_cql_loss, cql_alpha=alpha), 1
    target, support = DISTRIBUTIONAL[kind]
    return functools.partial(
        losses.categorical_cql_loss, target, support=support, cql_alpha=alpha
    ), N


def example(num_atoms, seed=0, dtype=np.float32):
    """Random arguments, terminals included."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(dtype)  # noqa: E731
    return {
        "logits": draw(B, A, num_atoms),
        "actions": rng.integers(0, A, B).astype(np.int32),
        "next_target_logits": draw(B, A, num_atoms),
        "rewards": draw(B),
        "discounts": np.array([0.97, 0, 0.97, 0.5, 1], dtype),
    }


# Hand numbers.


def test_support_includes_both_ends():
    np.testing.assert_allclose(distributions.support(-1, 1, 5), [-1, -0.5, 0, 0.5, 1])


def test_bins_tile_the_range():
    np.testing.assert_allclose(distributions.bin_centres(-1, 1, 4), [-0.75, -0.25, 0.25, 0.75])


def test_q_value_is_the_expected_atom():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], np.float32))
    np.testing.assert_allclose(
        distributions.q_values(logits, distributions.support(-2, 2, 3)), [-0.5, 0.5], atol=1e-6
    )


def test_projection_by_hand():
    z = distributions.support(0, 3, 4)
    p = np.array([[0.5, 0, 0, 0.5]] * 3, np.float32)
    rewards, discounts = np.float32([0.25, 5, -5]), np.float32([0.5, 1, 1])
    # z = 0 -> 0.25: a quarter of its half goes up; z = 3 -> 1.75: three quarters go up.
    # The other two rows: 5 and 8 are clipped to 3; -5 and -2 to 0.
    expected = [[0.375, 0.125 + 0.125, 0.375, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    np.testing.assert_allclose(distributions.project(p, rewards, discounts, z), expected, atol=1e-6)


def test_c51_by_hand():
    # Two actions, atoms (-1, 1). Uniform logits at s: each log p = -log 2, both Q = 0.
    # At s' action 1 is better: p = (0.1, 0.9), Q = 0.8; r + 0.5 z = (0, 1) -> m = (0.05, 0.95).
    next_logits = np.log(np.array([[[0.6, 0.4], [0.1, 0.9]]], np.float32))
    logits = np.log(np.array([[[0.25, 0.75], [0.5, 0.5]]], np.float32))
    result = losses.categorical_cql_loss(
        distributions.c51_target,
        logits, np.int32([0]), next_logits, np.float32([0.5]), np.float32([0.5]),
        distributions.support(-1, 1, 2), 0.1,
    )  # fmt: skip
    td = -0.05 * math.log(0.25) - 0.95 * math.log(0.75)
    cql = math.log(math.exp(0.5) + math.exp(0)) - 0.5
    np.testing.assert_allclose(np.array(result), [[td], [cql], [td + 0.1 * cql]], rtol=1e-5)


def test_mse_by_hand():
    # y = 1 + 0.5 * 4 = 3 and Q(s, a_0) = 1, so td = 4; double Q picks 2 instead: y = 2, td = 1.
    arguments = dict(
        logits=np.float32([[[1], [0]]]), actions=np.int32([0]),
        next_target_logits=np.float32([[[4], [2]]]), rewards=np.float32([1]),
        discounts=np.float32([0.5]), cql_alpha=0.1,
    )  # fmt: skip
    cql = math.log(math.e + 1) - 1
    single = losses.mse_cql_loss(**arguments)
    double = losses.mse_cql_loss(**arguments, next_online_logits=np.float32([[[0], [1]]]))
    np.testing.assert_allclose(np.array(single), [[4], [cql], [4 + 0.1 * cql]], rtol=1e-6)
    np.testing.assert_allclose(double.td, [1], rtol=1e-6)


def test_gaussian_histogram_by_hand():
    # Bins [-3, -1], [-1, 1], [1, 3], sigma 1.5, mean 0: masses between -2, -2/3, 2/3, 2 sigmas.
    inner, whole = math.erf(2 / 3 / 2**0.5), math.erf(2 / 2**0.5)
    outer = (whole - inner) / 2
    histogram = distributions.gaussian_histogram(tf.constant([0.0]), tf.constant([-2.0, 0, 2]))
    np.testing.assert_allclose(histogram, [[outer / whole, inner / whole, outer / whole]], 1e-6)
    # 9 counts as 3, the last bin's edge: masses between -4, -8/3, -4/3, 0 sigmas.
    below = [math.erf(sigmas / 2**0.5) for sigmas in (4, 8 / 3, 4 / 3, 0)]
    beyond = distributions.gaussian_histogram(tf.constant([9.0]), tf.constant([-2.0, 0, 2]))
    np.testing.assert_allclose(beyond, [-np.diff(below) / below[0]], rtol=1e-4)


def test_hl_gauss_by_hand():
    # Terminal: the target is the reward's histogram whatever the next logits are.
    target, centres = DISTRIBUTIONAL["hl_gauss"]
    arguments = example(N) | {"discounts": np.zeros(B, np.float32)}
    histogram = distributions.gaussian_histogram(arguments["rewards"], centres)
    chosen = arguments["logits"][range(B), arguments["actions"]]
    expected = -np.sum(histogram * np.log(np.exp(chosen) / np.exp(chosen).sum(1, keepdims=True)), 1)
    result = losses.categorical_cql_loss(target, **arguments, support=centres, cql_alpha=0.1)
    np.testing.assert_allclose(result.td, expected, rtol=1e-5)


def test_two_hot_by_hand():
    # 0.25 lies between 0 and 1, a quarter of the way; what is out of reach goes to an end.
    z = distributions.support(-1, 2, 4)
    expected = [[0, 0.75, 0.25, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]]
    np.testing.assert_allclose(distributions.two_hot(np.float32([0.25, 9, -9, 1]), z), expected)
    # Atoms (-1, 1). At s' action 1 is better, Q = 0.8; y = 0.2 + 0.5 * 0.8 = 0.6 -> (0.2, 0.8):
    # C51's target has the mean 0.6 as well, but other masses once r + gamma z falls between atoms.
    next_logits = np.log(np.array([[[0.6, 0.4], [0.1, 0.9]]], np.float32))
    logits = np.log(np.array([[[0.25, 0.75], [0.5, 0.5]]], np.float32))
    result = losses.categorical_cql_loss(
        distributions.two_hot_target,
        logits, np.int32([0]), next_logits, np.float32([0.2]), np.float32([0.5]),
        distributions.support(-1, 1, 2), 0.1,
    )  # fmt: skip
    td = -0.2 * math.log(0.25) - 0.8 * math.log(0.75)
    cql = math.log(math.exp(0.5) + math.exp(0)) - 0.5
    np.testing.assert_allclose(np.array(result), [[td], [cql], [td + 0.1 * cql]], rtol=1e-5)


def test_cloning_by_hand():
    logits = np.log(np.array([[0.2, 0.8], [0.5, 0.5]], np.float32))
    result = losses.behaviour_cloning_loss(logits, np.int32([0, 1]))
    np.testing.assert_allclose(result, [-math.log(0.2), -math.log(0.5)], rtol=1e-5)


# Oracles.

floats = functools.partial(st.floats, width=32)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 60), floats(-30, 30), floats(0, 1), st.integers(0, 2**31), floats(0.125, 20))
def test_projection_agrees_with_tf_agents(num_atoms, reward, discount, seed, v_max):
    z = distributions.support(-v_max, v_max, num_atoms)
    p = np.random.default_rng(seed).dirichlet(np.ones(num_atoms), 2).astype(np.float32)
    rewards, discounts = np.full(2, reward, np.float32), np.float32([discount, 0])
    ours = distributions.project(p, rewards, discounts, z)
    theirs = categorical_dqn_agent.project_distribution(
        rewards[:, None] + discounts[:, None] * z, p, z
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    np.testing.assert_allclose(tf.reduce_sum(ours, axis=1), [1, 1], atol=2e-5)


@settings(max_examples=50, deadline=None)
@given(floats(-8, 8), st.integers(20, 80))
def test_histogram_keeps_the_mean(value, num_bins):
    centres = distributions.bin_centres(-10, 10, num_bins)
    histogram = distributions.gaussian_histogram(tf.constant([value]), centres)
    np.testing.assert_allclose(tf.reduce_sum(histogram), 1, rtol=1e-5)
    np.testing.assert_allclose(tf.tensordot(histogram, centres, 1), [value], atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences(kind):
    loss, num_atoms = bind(kind)
    arguments = example(num_atoms, dtype=np.float64)
    variables = [tf.constant(arguments.pop("logits"))]
    theoretical, numerical = tf.test.compute_gradient(
        lambda logits: loss(logits, **arguments).total, variables
    )
    np.testing.assert_allclose(theoretical, numerical, atol=1e-7)
    assert np.abs(theoretical).max() > 0.01


def test_cloning_gradient_is_softmax_minus_one_hot():
    logits, actions = tf.constant(example(1)["logits"][..., 0]), np.int32([0, 1, 2, 3, 0])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = losses.behaviour_cloning_loss(logits, actions)
    expected = tf.nn.softmax(logits) - tf.one_hot(actions, A)
    np.testing.assert_allclose(tape.gradient(total, logits), expected, atol=1e-6)


# Relations.


@pytest.mark.parametrize("kind", KINDS)
def test_double_equals_single_when_the_networks_are_equal(kind):
    loss, num_atoms = bind(kind)
    arguments = example(num_atoms)
    single = loss(**arguments)
    double = loss(**arguments, next_online_logits=arguments["next_target_logits"])
    np.testing.assert_array_equal(np.array(single), np.array(double))


@pytest.mark.parametrize("kind", KINDS)
def test_the_online_network_chooses_and_the_target_network_rates(kind):
    loss, num_atoms = bind(kind)
    arguments = example(num_atoms) | {"discounts": np.ones(B, np.float32)}
    prefers_2 = np.zeros((B, A, num_atoms), np.float32)
    prefers_2[:, 2, -1] = 9
    double = loss(**arguments, next_online_logits=prefers_2)
    only_2 = np.repeat(arguments["next_target_logits"][:, 2:3], A, axis=1)
    single = loss(**arguments | {"next_target_logits": only_2})
    np.testing.assert_allclose(double.td, single.td, rtol=1e-5)
    assert not np.allclose(double.td, loss(**arguments).td)


@pytest.mark.parametrize("kind", KINDS)
def test_alpha_weighs_cql_in_the_total_only(kind):
    arguments = example(bind(kind)[1])
    without, some, twice = (np.array(bind(kind, alpha)[0](**arguments)) for alpha in (0.0, 1, 2))
    np.testing.assert_array_equal(without[2], without[0])
    np.testing.assert_array_equal(some[:2], twice[:2])
    np.testing.assert_allclose(twice[2] - some[2], some[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["c51", "hl_gauss"])
def test_shifted_logits_change_nothing(kind):
    loss, num_atoms = bind(kind)
    arguments = example(num_atoms)
    shifted = arguments | {
        "logits": arguments["logits"] + 50,
        "next_target_logits": arguments["next_target_logits"] - 50,
    }
    np.testing.assert_allclose(np.array(loss(**arguments)), np.array(loss(**shifted)), atol=1e-4)


def test_mse_shifts_with_the_value_of_states():
    # Adding c to every Q and (1 - discount) c to the reward leaves td and cql as they were.
    loss, _ = bind("mse")
    arguments = example(1)
    shifted = {
        **arguments,
        "logits": arguments["logits"] + 3,
        "next_target_logits": arguments["next_target_logits"] + 3,
        "rewards": arguments["rewards"] + (1 - arguments["discounts"]) * 3,
    }
    np.testing.assert_allclose(np.array(loss(**arguments)), np.array(loss(**shifted)), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_terminals_ignore_the_next_state_and_rows_ignore_each_other(kind):
    loss, num_atoms = bind(kind)
    arguments = example(num_atoms)  # row 1 is terminal
    other = example(num_atoms, seed=1)["next_target_logits"]
    changed = loss(**arguments | {"next_target_logits": other}).td == loss(**arguments).td
    np.testing.assert_array_equal(changed, [False, True, False, False, False])


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_reaches_the_targets(kind):
    loss, num_atoms = bind(kind)
    arguments = example(num_atoms)
    targets = [tf.constant(arguments["next_target_logits"]), tf.constant(arguments["logits"])]
    with tf.GradientTape() as tape:
        tape.watch(targets)
        arguments["next_target_logits"] = targets[0]
        total = loss(**arguments, next_online_logits=targets[1]).total
    assert tape.gradient(total, targets) == [None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits_stay_finite(kind):
    loss, num_atoms = bind(kind)
    arguments = example(num_atoms)
    scale = 1e4 if num_atoms > 1 else 1e2
    arguments |= {k: arguments[k] * np.float32(scale) for k in ("logits", "rewards")}
    logits = tf.constant(arguments.pop("logits"))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        result = loss(logits, **arguments)
    assert np.all(np.isfinite(np.array(result)))
    assert np.all(np.isfinite(tape.gradient(result.total, logits)))


@pytest.mark.parametrize("kind", [*KINDS, "cloning"])
def test_eager_graph_and_xla_agree(kind):
    if kind == "cloning":
        loss, arguments = losses.behaviour_cloning_loss, example(1)
        arguments = {"logits": arguments["logits"][..., 0], "actions": arguments["actions"]}
    else:
        loss, num_atoms = bind(kind)
        arguments = example(num_atoms)
    arguments = {name: tf.constant(value) for name, value in arguments.items()}
    eager = np.array(loss(**arguments))
    for jit_compile in (False, True):
        compiled = tf.function(loss, jit_compile=jit_compile)(**arguments)
        np.testing.assert_allclose(eager, np.array(compiled), rtol=1e-5, atol=1e-6)
    assert eager.dtype == np.float32 and eager.shape == ((B,) if kind == "cloning" else (3, B))


# Actions that a game doesn't have.

AVAILABLE = np.array([[True, True, False, True]] * B)


def without_action_2(kind, **changes):
    """The loss of an example whose data never hold action 2, which the game doesn't have."""
    loss, num_atoms = bind(kind)
    arguments = example(num_atoms) | {"actions": np.int32([0, 1, 3, 0, 1]), **changes}
    return loss(**arguments, available=AVAILABLE), arguments


@pytest.mark.parametrize("chooser", ["next_target_logits", "next_online_logits"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_unavailable_action_is_never_the_target(kind, chooser):
    high = np.zeros((B, A, bind(kind)[1]), np.float32)
    high[:, 2, -1] = 50  # the best by far
    low = high * np.float32([1, 1, -1, 1])[:, None]
    changes = {"discounts": np.ones(B, np.float32)}
    parts, arguments = without_action_2(kind, **{chooser: high}, **changes)
    same, _ = without_action_2(kind, **{chooser: low}, **changes)
    np.testing.assert_array_equal(parts.td, same.td)
    assert not np.allclose(parts.td, bind(kind)[0](**arguments).td)


@pytest.mark.parametrize("kind", KINDS)
def test_unavailable_actions_are_as_if_the_head_were_narrower(kind):
    masked, arguments = without_action_2(kind)
    narrow = {
        name: value[:, [0, 1, 3]] if value.ndim == 3 else value for name, value in arguments.items()
    }
    narrow["actions"] = np.int32([0, 1, 2, 0, 1])
    np.testing.assert_allclose(
        np.array(masked), np.array(bind(kind)[0](**narrow)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", [*KINDS, "cloning"])
def test_unavailable_actions_get_no_gradient(kind):
    _, arguments = without_action_2("mse" if kind == "cloning" else kind)
    logits = tf.constant(arguments.pop("logits"))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        if kind == "cloning":
            total = losses.behaviour_cloning_loss(logits[..., 0], arguments["actions"], AVAILABLE)
        else:
            total = bind(kind)[0](logits, **arguments, available=AVAILABLE).total
    gradient = tape.gradient(total, logits).numpy()
    assert np.abs(gradient[:, [0, 1, 3]]).max() > 0
    assert np.abs(gradient[:, 2]).max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_another_shape_is_refused(kind):
    with pytest.raises(ValueError, match="available must have shape"):
        bind(kind)[0](**example(bind(kind)[1]), available=AVAILABLE[:, :3])


# Wrong arguments.


@pytest.mark.parametrize(
    "wrong",
    [
        {"rewards": np.zeros((B, 1), np.float32)},
        {"rewards": np.zeros(1, np.float32)},
        {"discounts": np.float32(0.99)},
        {"actions": np.zeros(B - 1, np.int32)},
        {"next_target_logits": np.zeros((B, A + 1, N), np.float32)},
        {"next_online_logits": np.zeros((B, A, 1), np.float32)},
        {"logits": np.zeros((B, A), np.float32)},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_that_would_broadcast_are_refused(kind, wrong):
    loss, num_atoms = bind(kind)
    if kind == "mse" and "next_online_logits" in wrong:
        wrong = {"next_online_logits": np.zeros((B, A, 2), np.float32)}
    name = next(iter(wrong))
    with pytest.raises(ValueError, match="next_target_logits|" + name):
        loss(**example(num_atoms) | wrong)


def test_more_than_one_atom_is_refused_by_mse():
    with pytest.raises(ValueError, match="1"):
        losses.mse_cql_loss(**example(N), cql_alpha=0.1)


def test_dtypes_are_checked():
    loss, num_atoms = bind("c51")
    with pytest.raises(TypeError, match="actions must hold integers, not float32"):
        loss(**example(num_atoms) | {"actions": np.zeros(B, np.float32)})
    with pytest.raises(TypeError, match="rewards must hold floats, not int32"):
        loss(**example(num_atoms) | {"rewards": np.zeros(B, np.int32)})
    with pytest.raises(ValueError, match=r"support must have shape \(7,\), not \(8,\)"):
        losses.categorical_cql_loss(
            distributions.c51_target,
            **example(N),
            support=distributions.support(-1, 1, 8),
            cql_alpha=0.1,
        )
