"""The agent: what a gradient step does, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tf_agents.agents import tf_agent
from tf_agents.trajectories import time_step

from cql_atari.core import games
from cql_atari.core.settings import Loss
from cql_atari.core.types import Batch, UserError
from cql_atari.methods import gradient, scaled_q
from cql_atari.methods.scaled_q import make_objective
from cql_atari.runs import checkpoint

pytestmark = pytest.mark.slow


def make(*bindings):
    config = tiny.config(*bindings)
    return config, scaled_q.make_agent(config)


def first_batch(config) -> Batch:
    super_batch = next(iter(tiny.dataset(config)()))
    return Batch(*(part[0] for part in super_batch))


def test_it_is_a_tf_agent_and_counts_steps():
    config, agent = make()
    assert isinstance(agent, tf_agent.TFAgent)
    info = agent.train(first_batch(config))
    assert int(agent.train_step_counter) == 1
    assert np.isfinite(info.loss)


@pytest.mark.parametrize(
    ("kind", "double_q"), [("c51", False), ("c51", True), ("mse", True), ("hl_gauss", False)]
)
def test_every_loss_goes_down_on_a_fixed_batch(kind, double_q):
    config, agent = make(f"loss.kind = {kind!r}", f"loss.double_q = {double_q}",
                         "network.encoder = 'nature'", "network.pooling = 'mean'",  # traces faster
                         "optimizer.learning_rate = 1e-3", "optimizer.epsilon = 1e-7")  # fmt: skip
    batch = first_batch(config)
    train = tf.function(agent.train)
    values = [float(train(batch).loss) for _ in range(30)]
    assert values[-1] < values[0]
    assert train.experimental_get_tracing_count() == 1


def test_the_target_network_changes_only_when_told():
    config, agent = make()
    batch = first_batch(config)
    before = [v.numpy() for v in agent.target_network.variables]
    for _ in range(3):
        agent.train(batch)
    after = [v.numpy() for v in agent.target_network.variables]
    assert all(np.array_equal(a, b) for a, b in zip(before, after))
    agent.learner.after_steps(5, 7)  # the period is 4
    after = [v.numpy() for v in agent.target_network.variables]
    assert all(np.array_equal(a, b) for a, b in zip(before, after))
    agent.learner.after_steps(7, 9)
    for target, online in zip(agent.target_network.variables, agent.network.variables):
        np.testing.assert_array_equal(target, online)


def test_heads_of_games_that_are_not_in_the_batch_get_no_gradient():
    config, agent = make()
    batch = first_batch(config)._replace(games=tf.zeros(8, tf.int32))
    gradients, sums = gradient.gradients(agent.learner, batch)
    names = [v.name for v in agent.learner.parameter_groups[0].variables]
    (kernel,) = (g for g, name in zip(gradients, names) if "kernel" in name and g.shape[0] == 2)
    assert np.abs(kernel[0]).max() > 0
    assert np.abs(kernel[1]).max() == 0
    assert sums["count"].numpy().tolist() == [8, 0]


@pytest.mark.parametrize("mask", [True, pytest.param(False, marks=pytest.mark.proof)])
def test_a_negative_value_is_learned_where_unused_actions_are_masked(mask):
    # One state, reward -0.1 for ever, gamma^3 = 0.97: the true value is -0.1 / 0.03 = -3.3. What
    # no data trains stays near 0 and, unmasked, is what every target bootstraps from.
    _, agent = make(
        "data.games = ('Breakout',)", "loss.kind = 'mse'", "loss.cql_alpha = 0.0",
        f"loss.mask_unused_actions = {mask}", "optimizer.learning_rate = 1e-2",
        "optimizer.epsilon = 1e-7",
    )  # fmt: skip
    batch = Batch(
        frames=tf.fill((8, 7, 84, 84), tf.constant(100, tf.uint8)),
        actions=tf.constant(list(games.spec("Breakout").actions) * 2),
        rewards=tf.fill((8,), -0.1),
        discounts=tf.fill((8,), 0.97),
        games=tf.zeros(8, tf.int32),
    )
    train = tf.function(agent.train)
    for step in range(300):
        train(batch)
        if step % 5 == 0:
            agent.update_target()
    q_data = float(tf.reduce_mean(agent.losses(batch)["q_data"]))
    assert q_data < -1.5 if mask else q_data > -0.5


def test_sums_by_game_add_up_to_the_batch():
    config, agent = make()
    batch = first_batch(config)
    _, sums = gradient.gradients(agent.learner, batch)
    for name, column in agent.losses(batch).items():
        for game in range(2):
            expected = column.numpy()[batch.games.numpy() == game].sum()
            np.testing.assert_allclose(sums[name][game], expected, rtol=1e-5)


def test_the_gradient_is_that_of_the_global_mean():
    """Half the batch on each of two replicas adds up to the whole (the division is global)."""
    config, agent = make()
    batch = first_batch(config)
    whole, _ = gradient.gradients(agent.learner, batch)
    halves = [
        gradient.gradients(agent.learner, Batch(*(p[i : i + 4] for p in batch)))[0] for i in (0, 4)
    ]
    for all_rows, first, second in zip(whole, *halves):
        np.testing.assert_allclose(all_rows, first + second, atol=1e-6)


def test_double_q_equals_single_q_while_the_networks_are_equal():
    results = []
    for double_q in (False, True):
        config, agent = make(f"loss.double_q = {double_q}")
        results.append(agent.losses(first_batch(config))["loss/total"].numpy())
    np.testing.assert_allclose(*results, rtol=1e-5)


def test_double_q_lets_the_online_network_choose_and_the_target_network_value():
    config, agent = make("loss.double_q = True")
    batch = first_batch(config)
    agent.target_network.heads.kernel.assign(-agent.network.heads.kernel)
    states, successors = batch.frames[:, :4], batch.frames[:, config.feed.n_step :]
    heads = batch.games[:: config.feed.transitions_per_draw]
    expected = agent.objective.loss(
        agent.network(states, heads), batch.actions, agent.target_network(successors, heads),
        batch.rewards, batch.discounts, next_online_logits=agent.network(successors, heads),
        available=games.action_mask(config.data.games)[batch.games.numpy()],
    )  # fmt: skip
    np.testing.assert_allclose(agent.losses(batch)["loss/td"], expected.td, rtol=1e-5)


def test_the_policy_stays_in_the_minimal_action_set():
    _, agent = make()
    frames = np.random.default_rng(0).integers(0, 256, (16, 4, 84, 84), np.uint8)
    game = np.repeat([0, 1], 8).astype(np.int32)
    observation = {"frames": tf.constant(frames), "game": tf.constant(game)}
    action = agent.policy.action(time_step.restart(observation, batch_size=16)).action.numpy()
    for a, g in zip(action, game):
        assert a in games.spec(tiny.GAMES[g]).actions


def test_hl_gauss_and_c51_take_their_support_from_the_configuration():
    objective = make_objective(Loss(kind="hl_gauss", v_max=10.0))
    q = objective.q_values(tf.zeros([1, 18, 51]))
    np.testing.assert_allclose(q, 0, atol=1e-5)
    peaked = tf.one_hot([50], 51)[None] * 1e3
    assert float(make_objective(Loss(v_max=7.0)).q_values(peaked)[0, 0]) == pytest.approx(7.0)
    assert float(objective.q_values(peaked)[0, 0]) == pytest.approx(10 - 10 / 51)


# The encoder's learning rate.


def weights(agent, *names: str) -> list[np.ndarray]:
    return [w for part in names for w in getattr(agent.network, part).get_weights()]


def trained(steps: int, *bindings: str):
    config, agent = make(*bindings)
    batch = first_batch(config)
    for _ in range(steps):
        agent.train(batch)
    return agent


def test_the_encoder_learns_at_its_own_rate():
    """Gradients of a first step are alike, whatever the rates."""
    both = trained(1, "optimizer.learning_rate = 1e-3", "optimizer.encoder_learning_rate = 1e-4")
    fast, slow = (trained(1, f"optimizer.learning_rate = {rate}") for rate in ("1e-3", "1e-4"))
    for names, reference in ((("encoder",), slow), (("feed_forward", "heads"), fast)):
        for ours, expected in zip(weights(both, *names), weights(reference, *names)):
            np.testing.assert_array_equal(ours, expected)
    assert int(both.train_step_counter) == 1


def test_the_same_rate_twice_is_one_rate():
    one = trained(2, "optimizer.learning_rate = 1e-3")
    two = trained(2, "optimizer.learning_rate = 1e-3", "optimizer.encoder_learning_rate = 1e-3")
    for a, b in zip(one.network.get_weights(), two.network.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("double_q", [False, True])
def test_a_frozen_encoder_keeps_every_bit_and_costs_no_backward_pass(double_q):
    bindings = ("optimizer.encoder_learning_rate = 0", f"loss.double_q = {double_q}")
    config, agent = make(*bindings)
    before = weights(agent, "encoder"), weights(agent, "feed_forward", "heads")
    train, batch = tf.function(agent.train), first_batch(config)
    for _ in range(5):
        train(batch)
    agent.update_target()
    after = weights(agent, "encoder"), weights(agent, "feed_forward", "heads")
    assert all(np.array_equal(a, b) for a, b in zip(before[0], after[0]))
    assert not any(np.array_equal(a, b) for a, b in zip(before[1], after[1]))
    for target, first in zip(agent.target_network.encoder.get_weights(), before[0]):
        np.testing.assert_array_equal(target, first)
    # No convolution is differentiated, no moment of a convolution is kept.
    ops = {op.type for op in train.get_concrete_function(batch).graph.get_operations()}
    assert "Conv2D" in ops
    assert not {op for op in ops if "Conv2DBackprop" in op or "AvgPoolGrad" in op}
    assert len(agent.learner.parameter_groups) == 1
    assert len(agent.learner.saved["optimizer"].weights) == 1 + 2 * len(before[1])


@pytest.mark.parametrize("rate", [None, 1e-4, 0])
def test_a_restored_agent_goes_on_bit_for_bit(rate, tmp_path):
    config, agent = make(f"optimizer.encoder_learning_rate = {rate}")
    batch = first_batch(config)
    agent.train(batch)
    checkpoint.save(tmp_path, tf.train.Checkpoint(**agent.learner.saved), 1, keep=1)
    agent.train(batch)
    _, again = make(f"optimizer.encoder_learning_rate = {rate}", "train.seed = 7")
    assert checkpoint.restore_latest(tmp_path, tf.train.Checkpoint(**again.learner.saved)) == 1
    again.train(batch)
    for a, b in zip(agent.network.get_weights(), again.network.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert int(again.train_step_counter) == 2


# The auxiliary cloning head.


def test_the_auxiliary_head_leaves_the_q_outputs_alone():
    """It adds its loss, with a gradient for its own outputs and the trunk, none for the atoms'."""
    config, agent = make("loss.auxiliary_cloning = 0.5")
    batch, variables = first_batch(config), agent.network.trainable_variables
    atoms = agent.objective.num_atoms
    with tf.GradientTape(persistent=True) as tape:
        parts = agent.losses(batch)
    np.testing.assert_allclose(
        parts["loss/total"],
        parts["loss/td"] + 0.05 * parts["loss/cql"] + 0.5 * parts["loss/auxiliary_cloning"],
        rtol=1e-5,
    )
    (kernel,) = (v for v in variables if v is agent.network.heads.kernel)
    of_head = tape.gradient(parts["loss/auxiliary_cloning"], kernel).numpy()
    of_rest = tape.gradient(parts["loss/td"], kernel).numpy()
    shape = (*of_head.shape[:2], 18, atoms + 1)
    of_head, of_rest = of_head.reshape(shape), of_rest.reshape(shape)
    assert np.abs(of_head[..., atoms]).max() > 0 == np.abs(of_head[..., :atoms]).max()
    assert np.abs(of_rest[..., :atoms]).max() > 0 == np.abs(of_rest[..., atoms]).max()
    stem = agent.network.encoder.trainable_variables[0]
    assert np.abs(tape.gradient(parts["loss/auxiliary_cloning"], stem)).max() > 0


def test_the_support_may_reach_further_up_than_down():
    both = scaled_q.make_objective(tiny.config("loss.v_max = 30.0", "loss.v_min = -10.0").loss)
    np.testing.assert_allclose(both.support, np.linspace(-10, 30, 11))
    centres = scaled_q.make_objective(
        tiny.config("loss.v_max = 30.0", "loss.v_min = -3.0", "loss.kind = 'hl_gauss'").loss
    )
    np.testing.assert_allclose(centres.support, np.arange(-1.5, 30, 3))
    plain = scaled_q.make_objective(tiny.config("loss.v_max = 5.0").loss)
    np.testing.assert_allclose(plain.support, np.linspace(-5, 5, 11))


@pytest.mark.parametrize("method", ["decision_transformer", "cloning", "contrastive"])
def test_no_other_method_is_asked_for_q_values(method):
    with pytest.raises(UserError, match=f"train.method = '{method}' has no Q-values; 'scaled_q' h"):
        scaled_q.make_agent(tiny.config(f"train.method = '{method}'"))


def test_the_auxiliary_head_never_acts_and_stands_in_no_target():
    config, agent = make("loss.auxiliary_cloning = 0.5")
    batch, atoms = first_batch(config), agent.objective.num_atoms
    outputs = scaled_q.make_outputs(agent.objective, agent.network)
    before = outputs(batch.frames[:, :4], batch.games)["q_values"], agent.losses(batch)["loss/td"]
    for network in (agent.network, agent.target_network):
        kernel = network.heads.kernel
        change = np.zeros((*kernel.shape[:2], 18, atoms + 1), np.float32)
        change[..., atoms] = np.random.default_rng(0).normal(size=change.shape[:-1])
        kernel.assign_add(change.reshape(kernel.shape))
    after = outputs(batch.frames[:, :4], batch.games)["q_values"], agent.losses(batch)["loss/td"]
    np.testing.assert_allclose(before[0], after[0], atol=1e-6)
    np.testing.assert_allclose(before[1], after[1], atol=1e-5)
