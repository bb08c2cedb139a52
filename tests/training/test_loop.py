"""The learner: one trace, the same training on one device and on two, when what is called."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny

from cql_atari.core.types import UserError
from cql_atari.methods import build, scaled_q
from cql_atari.training import loop, strategy

pytestmark = pytest.mark.slow


def run(config, devices, episodes=None, jit_compile=False, **overrides):
    """Trains for config.train.steps; returns the agent, the compiled call and a tape of calls."""
    with devices.scope():
        agent = scaled_q.make_agent(config)
    call = loop.make_train_call(agent.learner, devices, jit_compile)
    feed = config.feed
    split = strategy.divide(feed.draws, feed.transitions_per_draw, devices.num_replicas_in_sync)
    tape = []
    options = {
        "save": lambda step: tape.append(("save", step)),
        "log": lambda step, scalars: tape.append(("log", step, scalars)),
        "evaluate": lambda step: tape.append(("evaluate", step)),
        "evaluate_every": config.evaluation.every,
        "should_stop": lambda: False,
        **overrides,
    }
    batches = strategy.place_batches(devices, tiny.dataset(config, episodes), split)
    tape.append(("finished", loop.learn(agent.learner, call, batches, config.train, **options)))
    return agent, call, tape


def weights(agent):
    return [variable.numpy() for variable in agent.network.trainable_variables]


@pytest.fixture(scope="module")
def alone():
    """Agent, call and tape of a run on one device."""
    return run(tiny.config(), strategy.make_strategy("none"))


def test_two_replicas_train_as_one_with_one_trace(alone):
    config, (one_agent, one_call, one_tape) = tiny.config(), alone
    two = strategy.make_strategy("mirrored", ["CPU:0", "CPU:1"])
    assert two.num_replicas_in_sync == 2
    two_agent, two_call, two_tape = run(config, two)
    for a, b in zip(weights(one_agent), weights(two_agent)):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for a, b in zip(one_tape, two_tape):
        if a[0] == "log":
            assert a[2]["loss/td"] == pytest.approx(b[2]["loss/td"], rel=1e-4)
            assert a[2]["gradient_norm"] == pytest.approx(b[2]["gradient_norm"], rel=1e-3)
    assert one_call.experimental_get_tracing_count() == 1
    assert two_call.experimental_get_tracing_count() == 1


def test_training_moves_the_weights_and_repeats_bit_for_bit(alone):
    config, (first, _, _) = tiny.config(), alone
    start = scaled_q.make_agent(config)
    second, _, _ = run(config, strategy.make_strategy("none"))
    assert any((a != b).any() for a, b in zip(weights(start), weights(first)))
    for a, b in zip(weights(first), weights(second)):
        np.testing.assert_array_equal(a, b)


def test_xla_gives_the_same_training(alone):
    plain, _, _ = alone
    compiled, _, _ = run(tiny.config(), strategy.make_strategy("none"), jit_compile=True)
    for a, b in zip(weights(plain), weights(compiled)):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_tape_of_a_run():
    config = tiny.config("evaluation.every = 6")
    _, _, tape = run(config, strategy.make_strategy("none"))
    assert [entry[:2] for entry in tape] == [
        ("evaluate", 0), ("log", 4), ("save", 4), ("evaluate", 6), ("log", 8), ("save", 8),
        ("finished", True),
    ]  # fmt: skip
    scalars = tape[1][2]
    assert {"loss/td", "loss/cql", "loss/total", "gradient_norm", "learning_rate",
            "q_data/Breakout", "q_data/Freeway", "speed/steps_per_second",
            "speed/samples_per_second", "speed/data_wait_share"} <= set(scalars)  # fmt: skip
    assert 0 <= scalars["speed/data_wait_share"] <= 1


def test_the_target_follows_every_target_period():
    config = tiny.config("train.steps = 6", "train.target_period = 4")
    seen = {}

    def note(agent, step):
        seen[step] = [v.numpy() for v in agent.target_network.trainable_variables]

    device = strategy.make_strategy("none")
    agent = scaled_q.make_agent(config)
    call = loop.make_train_call(agent.learner, device, False)
    after_copy = []

    def spy(batch, most):
        if int(agent.train_step_counter) == 4:
            after_copy.append([(t.numpy(), o.numpy()) for t, o in zip(
                agent.target_network.variables, agent.network.variables)])  # fmt: skip
        return call(batch, most)

    batches = iter(tiny.dataset(config)())
    loop.learn(agent.learner, spy, batches, config.train,
                  save=lambda s: note(agent, s), log=lambda *_: None,
                  evaluate=lambda _: None, evaluate_every=0, should_stop=lambda: False)  # fmt: skip
    assert all((target == online).all() for target, online in after_copy[0])
    assert any((a != b).any() for a, b in zip(seen[4], weights(agent)))


def test_a_stop_saves_and_says_unfinished():
    _, _, tape = run(tiny.config(), strategy.make_strategy("none"), should_stop=lambda: True)
    assert tape == [("save", 2), ("finished", False)]


def test_a_stop_in_an_evaluation_saves_at_its_step():
    asked = []
    overrides = {"evaluate": asked.append, "should_stop": lambda: 6 in asked}
    config = tiny.config("evaluation.every = 6")
    _, _, tape = run(config, strategy.make_strategy("none"), **overrides)
    assert asked == [0, 6]
    assert [entry[:2] for entry in tape[-2:]] == [("save", 6), ("finished", False)]


@pytest.mark.parametrize("stop", [True, False])
def test_a_feed_that_ends_is_saved_without_asking_other_hosts(stop):
    config, saved = tiny.config(), []
    learner = build.build(config).learner()
    with pytest.raises(KeyboardInterrupt if stop else UserError):
        loop.learn(
            learner, lambda *_: pytest.fail("no batch"), iter(()), config.train, save=saved.append,
            log=lambda *_: None, evaluate=lambda _: None, evaluate_every=0,
            should_stop=lambda: stop, agree=lambda _: pytest.fail("they wait in a gradient step"),
        )  # fmt: skip
    assert saved == [0]


def test_a_loss_that_is_not_finite_names_step_and_games_and_saves_nothing():
    episodes = tiny.episodes()
    bad = [e._replace(rewards=np.full_like(e.rewards, np.nan)) if e.game == "Freeway" else e
           for e in episodes]  # fmt: skip
    saved = []
    with pytest.raises(UserError, match=r"not finite at step [12] \(games: Freeway\)"):
        run(tiny.config(), strategy.make_strategy("none"), episodes=bad, save=saved.append)
    assert saved == []


def test_a_run_from_a_step_between_multiples_does_all_on_time_and_ends_at_its_end():
    """Saved at 6 by calls of 2 or 3, resumed with calls of 4: 6, 10, 14, ..., 38, 40."""
    config = tiny.config(
        "train.steps = 40", "train.steps_per_call = 4", "train.target_period = 20",
        "train.log_every = 8", "train.save_every = 12", "evaluation.every = 16",
    )  # fmt: skip
    agent = scaled_q.make_agent(config)
    agent.train_step_counter.assign(6)
    tape, copies = [], []
    learner = agent.learner._replace(
        after_steps=lambda before, now: agent.learner.after_steps(before, now) or copies.append(now)
    )
    call = loop.make_train_call(learner, strategy.make_strategy("none"), False)
    assert loop.learn(
        learner, call, iter(tiny.dataset(config)()), config.train,
        save=lambda step: tape.append(("save", step)),
        log=lambda step, _: tape.append(("log", step)),
        evaluate=lambda step: tape.append(("evaluate", step)), evaluate_every=16,
        should_stop=lambda: False,
    )  # fmt: skip
    by_name = {name: [step for n, step in tape if n == name] for name, _ in tape}
    assert by_name == {
        "log": [10, 18, 26, 34, 40], "save": [14, 26, 38, 40], "evaluate": [18, 34],
    }  # fmt: skip
    assert copies == [10, 14, 18, 22, 26, 30, 34, 38, 40]
    assert int(agent.train_step_counter) == 40
    for target, online in zip(agent.target_network.variables, agent.network.variables):
        np.testing.assert_array_equal(target, online)  # copied at 40, a multiple of 20


def test_a_gradient_that_is_not_finite_stops_the_run(monkeypatch):
    config, saved = tiny.config(), []
    agent = scaled_q.make_agent(config)

    def loss(batch):
        kernel = agent.network.heads.kernel
        steep = tf.sqrt(tf.maximum(tf.reduce_sum(kernel) - tf.reduce_sum(kernel), 0.0))
        return {"loss/total": tf.fill(batch.games.shape, steep)}  # 0, with an infinite slope

    learner = agent.learner._replace(loss=loss)
    call = loop.make_train_call(learner, strategy.make_strategy("none"), False)
    with pytest.raises(UserError, match=r"the gradient is not finite at step 1 .*learning_rate"):
        loop.learn(
            learner, call, iter(tiny.dataset(config)()), config.train, save=saved.append,
            log=lambda *_: None, evaluate=lambda _: None, evaluate_every=0,
            should_stop=lambda: False,
        )  # fmt: skip
    assert saved == []
