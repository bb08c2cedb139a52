"""The learner: one trace, the same training again and under XLA, when what is called.

On several devices: test_strategy.py.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tiny

from cql_atari.core.types import UserError
from cql_atari.methods import build, scaled_q
from cql_atari.training import loop, strategy

pytestmark = pytest.mark.slow


def run(made, config, devices, episodes=None, **overrides):
    """Trains (agent, compiled call) for config.train.steps; returns a tape of what was called."""
    agent, call = made
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
    return tape


def make(config, jit_compile=False):
    agent = scaled_q.make_agent(config)
    return agent, loop.make_train_call(agent.learner, ALONE, jit_compile)


def weights(agent):
    return [variable.numpy() for variable in agent.network.trainable_variables]


ALONE = strategy.make_strategy("none")


@pytest.fixture(scope="module")
def compiled():
    """(agent, compiled call) for all tests of this module: what takes the time is made once."""
    return make(tiny.config())


@pytest.fixture
def made(compiled):
    """The same as it began."""
    agent, _ = compiled
    saved = agent.learner.saved
    variables = [v for name in ("network", "target_network") for v in saved[name].variables]
    variables += saved["optimizer"].variables()
    before = [v.numpy() for v in variables]
    yield compiled
    for variable, value in zip(variables, before):
        variable.assign(value)


def test_the_tape_of_a_run(made):
    config, start = tiny.config("evaluation.every = 6"), weights(made[0])
    tape = run(made, config, ALONE)
    assert [entry[:2] for entry in tape] == [
        ("evaluate", 0), ("log", 4), ("save", 4), ("evaluate", 6), ("log", 8), ("save", 8),
        ("finished", True),
    ]  # fmt: skip
    scalars = tape[1][2]
    assert {"loss/td", "loss/cql", "loss/total", "gradient_norm", "learning_rate",
            "q_data/Breakout", "q_data/Freeway", "speed/steps_per_second",
            "speed/samples_per_second", "speed/data_wait_share"} <= set(scalars)  # fmt: skip
    assert 0 <= scalars["speed/data_wait_share"] <= 1

    # It has moved the weights, in one trace; and again it comes to the same, bit for bit.
    first = weights(made[0])
    assert any((a != b).any() for a, b in zip(start, first))
    assert made[1].experimental_get_tracing_count() == 1
    again = make(config)
    run(again, config, ALONE)
    for a, b in zip(first, weights(again[0])):
        np.testing.assert_array_equal(a, b)


def test_what_is_logged_are_means_over_rows_and_a_mean_norm_over_steps():
    meter = loop._Meter(("Breakout", "Freeway", "Pong"))
    first, second = (2, [6, 1, 0], [3, 1, 0], 8), (1, [3, 2, 0], [1, 1, 0], 1)
    for made, totals, rows, norm in (first, second):
        columns = {"loss/total": totals, "count": rows, "gradient_norm": norm}
        meter.add(0, made, {name: tf.constant(x, tf.float32) for name, x in columns.items()})
    scalars = meter.read()
    assert scalars["loss/total"] == 12 / 6 and scalars["gradient_norm"] == 9 / 3
    assert scalars["loss/total/Breakout"] == 9 / 4 and scalars["loss/total/Freeway"] == 3 / 2
    assert "loss/total/Pong" not in scalars


def test_xla_gives_the_same_training():
    """Of a small network: what XLA makes of the others is seen in test_xla.py."""
    config = tiny.config(
        "network.encoder = 'nature'", "network.pooling = 'mean'", "loss.kind = 'mse'"
    )
    both = [make(config, jit_compile) for jit_compile in (False, True)]
    for made in both:
        run(made, config, ALONE)
    for a, b in zip(*(weights(agent) for agent, _ in both)):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_target_follows_every_target_period(made):
    config = tiny.config("train.steps = 6", "train.target_period = 4")
    agent, call = made
    after_copy, at_4 = [], []

    def spy(batch, most):
        if int(agent.train_step_counter) == 4:
            targets = agent.target_network.variables
            after_copy.extend((t.numpy(), o.numpy()) for t, o in zip(
                targets, agent.network.variables))  # fmt: skip
            at_4.extend(v.numpy() for v in agent.target_network.trainable_variables)
        return call(batch, most)

    run((agent, spy), config, ALONE)
    assert all((target == online).all() for target, online in after_copy) and after_copy
    assert any((a != b).any() for a, b in zip(at_4, weights(agent)))


def test_a_stop_saves_and_says_unfinished(made):
    tape = run(made, tiny.config(), ALONE, should_stop=lambda: True)
    assert tape == [("save", 2), ("finished", False)]


def test_a_stop_in_an_evaluation_saves_at_its_step(made):
    asked = []
    overrides = {"evaluate": asked.append, "should_stop": lambda: 6 in asked}
    tape = run(made, tiny.config("evaluation.every = 6"), ALONE, **overrides)
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


@pytest.mark.parametrize(
    "error, saves",
    [
        (tf.errors.DataLossError(None, None, "a damaged segment"), [2]),
        (RuntimeError("an actor's"), [2]),
        (tf.errors.UnavailableError(None, None, "no answer"), []),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_feed_that_fails_costs_no_step_unless_a_host_is_lost(made, monkeypatch, error, saves):
    place, saved = strategy.place_batches, []

    def one_only(*given):
        yield next(iter(place(*given)))
        raise error

    monkeypatch.setattr(strategy, "place_batches", one_only)
    with pytest.raises(type(error)):
        run(made, tiny.config(), ALONE, save=saved.append)
    assert saved == saves


def test_a_loss_that_is_not_finite_names_step_and_games_and_saves_nothing(made):
    episodes = tiny.episodes()
    bad = [e._replace(rewards=np.full_like(e.rewards, np.nan)) if e.game == "Freeway" else e
           for e in episodes]  # fmt: skip
    saved = []
    with pytest.raises(UserError, match=r"not finite at step [12] \(games: Freeway\)"):
        run(made, tiny.config(), ALONE, episodes=bad, save=saved.append)
    assert saved == []


def test_a_run_from_a_step_between_multiples_does_all_on_time_and_ends_at_its_end(made):
    """From 5 by calls of 2: 5, 7, 9, ..., 19, 20."""
    config = tiny.config(
        "train.steps = 20", "train.log_every = 4", "train.save_every = 6", "evaluation.every = 8"
    )
    agent, call = made
    agent.train_step_counter.assign(5)
    copies = []
    learner = agent.learner._replace(
        after_steps=lambda before, now: agent.learner.after_steps(before, now) or copies.append(now)
    )
    tape = run((SimpleNamespace(learner=learner), call), config, ALONE)
    by_name = {name: [entry[1] for entry in tape if entry[0] == name] for name, *_ in tape[:-1]}
    assert by_name == {"log": [9, 13, 17, 20], "save": [7, 13, 19, 20], "evaluate": [9, 17]}
    assert copies == [7, 9, 11, 13, 15, 17, 19, 20]
    assert int(agent.train_step_counter) == 20
    for target, online in zip(agent.target_network.variables, agent.network.variables):
        np.testing.assert_array_equal(target, online)  # copied at 20, a multiple of 4


def test_a_gradient_that_is_not_finite_stops_the_run(made):
    config, saved = tiny.config(), []
    agent, _ = made

    def loss(batch):
        kernel = agent.network.heads.kernel
        steep = tf.sqrt(tf.maximum(tf.reduce_sum(kernel) - tf.reduce_sum(kernel), 0.0))
        return {"loss/total": tf.fill(batch.games.shape, steep)}  # 0, with an infinite slope

    learner = agent.learner._replace(loss=loss)
    call = loop.make_train_call(learner, ALONE, False)
    with pytest.raises(UserError, match=r"the gradient is not finite at step 1 .*learning_rate"):
        run((SimpleNamespace(learner=learner), call), config, ALONE, save=saved.append)
    assert saved == []
