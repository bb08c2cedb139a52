"""The contract: a method that nobody knew is trained, saved, resumed and evaluated; periods."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf
import tiny

from cql_atari.core.types import Batch, Observation, SequenceBatch, UserError
from cql_atari.feed import recorded
from cql_atari.methods import build, gradient, policy
from cql_atari.methods.method import (
    Kind,
    Learner,
    Method,
    ParameterGroup,
    Sequences,
    Transitions,
    crossed,
)
from cql_atari.runs import checkpoint, recorded_config
from cql_atari.training import load, run


def make_frequencies(config) -> Method:
    """How often the data take each action, whatever is seen: logits [G, 18] in one variable."""
    network = tf.keras.Sequential([tf.keras.layers.Embedding(2, 18, "zeros")])
    logits = network.layers[0]
    logits.build(())

    def outputs(frames, games):
        each = tf.shape(frames)[0] // tf.shape(games)[0]
        return {"logits": tf.repeat(logits(games), each, axis=0)}

    def loss(batch):
        total = tf.nn.sparse_softmax_cross_entropy_with_logits(batch.actions, logits(batch.games))
        return {"loss/total": total, "reward": batch.rewards}

    def learner() -> Learner:
        adam = tf.keras.optimizers.legacy.Adam(0.1)
        saved = {"network": network, "optimizer": adam}
        trained = (ParameterGroup(adam, network.trainable_variables),)
        return Learner(config.data.games, config.batch_size, loss, trained, saved)

    return Method(Transitions(3, 0.99), network, policy.greedy(outputs, config.data.games), learner)


@pytest.fixture
def frequencies(monkeypatch):
    monkeypatch.setitem(build.METHODS, "frequencies", Kind(make_frequencies, "frequencies", ()))


@pytest.mark.slow
def test_a_third_method_trains_saves_resumes_and_is_evaluated(frequencies, tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "_load_store", lambda config, *_: tiny.store(config))
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    bindings = "train.method = 'frequencies'", "train.target_period = 8", "evaluation.episodes = 1"
    half, whole = (tiny.config(*bindings, f"train.steps = {steps}") for steps in (20, 40))
    recorded_config.record_config(tmp_path, half)
    assert train(half, tmp_path)
    assert train(whole, tmp_path)
    assert checkpoint.steps(tmp_path / "checkpoints")[-1] == 40
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/total", "loss/total/Freeway", "reward", "reward/Breakout"} <= set(lines[0])
    assert [line["step"] for line in lines if "reward" in line] == [*range(4, 41, 4)]
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["run"]["label"] == "frequencies" and scores["run"]["step"] == 40

    # In one life it comes to the same; what is loaded is what was trained.
    other = tmp_path / "other"
    other.mkdir()
    recorded_config.record_config(other, whole)
    assert train(whole, other)
    loaded, straight = load.load(tmp_path), load.load(other)
    assert (loaded.step, straight.step) == (40, 40)
    seen = Observation.first(np.zeros((2, 4, 84, 84), np.uint8), np.array([0, 1], np.int32))
    np.testing.assert_array_equal(loaded.act()(seen), straight.act()(seen))
    # Breakout's data hold actions 0 and 1 alone, each in half of the steps.
    assert set(np.argsort(loaded.act()(seen)[0])[-2:]) == {0, 1}


def train(config, directory):
    def open_feed(method, step, **options):
        return recorded.open_feed(config, (), step, reads=method.reads, **options)

    return run.train(config, open_feed, directory, lambda: False)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UserError, match=r"'clonin': choose one of .*nearest: 'cloning'"):
        build.build(tiny.config("train.method = 'clonin'"))


@pytest.mark.parametrize(
    "bindings, name, reason",
    [
        (("train.method = 'cloning'",), "loss.cql_alpha", "train.method = 'cloning'"),
        (("train.method = 'cloning'",), "loss.mask_unused_actions", None),
        (("train.method = 'decision_transformer'",), "network.widths", "train.method = 'decision_"),
        (("train.method = 'decision_transformer'",), "transformer.depth", None),
        ((), "transformer.depth", "train.method = 'scaled_q'"),
        ((), "loss.cql_alpha", None),
        ((), "GAME", None),
        ((), "online.frames", "train.phase = 'offline'"),
        ((), "train.steps", None),
        (("train.phase = 'online'",), "online.frames", None),
        (("train.phase = 'online'",), "train.steps", "train.phase = 'online'"),
    ],
)
def test_a_setting_without_effect_is_known(bindings, name, reason):
    found = build.unread(tiny.config(*bindings), name)
    assert found is None if reason is None else found.startswith(reason)


class Unread:
    """Settings that nothing may ask for, but those that are given."""

    def __init__(self, **known):
        self.__dict__.update(known)


@pytest.mark.parametrize("method", sorted(build.METHODS))
def test_a_method_reads_no_setting_that_is_said_to_have_no_effect(method):
    config = tiny.config(f"train.method = '{method}'", "transformer.depth = 1",
                         "transformer.width = 64", "masked_autoencoder.width = 64")  # fmt: skip
    read = build.METHODS[method].settings
    hidden = {}
    for section in {name.split(".")[0] for name in build.OF_METHODS} - {*read}:
        values = vars(getattr(config, section))
        shown = {n: v for n, v in values.items() if build.unread(config, f"{section}.{n}") is None}
        hidden[section] = Unread(**shown)
    found = build.build(dataclasses.replace(config, **hidden))
    rows, zeros = config.batch_size, functools.partial(tf.zeros, dtype=tf.int32)
    if isinstance(found.reads, Sequences):
        shape = rows, found.reads.length
        frames = tf.zeros((*shape, 84, 84), tf.uint8)
        floats = tf.zeros(shape), tf.zeros(shape)
        batch = SequenceBatch(frames, zeros(shape), *floats, zeros(rows), tf.ones(shape, tf.bool))
    else:
        frames = tf.zeros((rows, 4 + config.feed.n_step, 84, 84), tf.uint8)
        batch = Batch(frames, zeros(rows), tf.zeros(rows), tf.zeros(rows), zeros(rows))
    assert found.learner().loss(batch)["loss/total"].shape == rows


def test_cloning_holds_no_target_network_and_knows_only_the_games_actions():
    method = build.build(tiny.config("train.method = 'cloning'"))
    assert set(method.learner().saved) == {"network", "optimizer"}
    assert method.network.heads.kernel.shape[-1] == 18  # one logit an action


@pytest.mark.parametrize(("mask", "known"), [(True, [4, 3]), (False, [18, 18])])
def test_cloning_asks_among_the_games_actions_or_all(mask, known):
    """Where nothing is learned the loss is the logarithm of how many there are."""
    settings = (f"loss.mask_unused_actions = {mask}", "feed.transitions_per_draw = 1")
    method = build.build(tiny.config("train.method = 'cloning'", *settings))
    method.network.heads.kernel.assign(tf.zeros_like(method.network.heads.kernel))
    nothing = tf.zeros(2)
    batch = Batch(
        tf.zeros((2, 7, 84, 84), tf.uint8), tf.zeros(2, tf.int32), nothing, nothing, tf.range(2)
    )
    found = method.learner().loss(batch)["loss/total"]
    np.testing.assert_allclose(found, np.log(known), rtol=1e-6)


def test_a_multiple_of_a_period_is_noticed_by_the_call_that_reaches_or_passes_it():
    for k, expected in ((1, [6, 12, 18]), (4, [8, 12, 20]), (9, [9, 18])):
        steps = [*range(0, 21, k)]
        assert [b for a, b in itertools.pairwise(steps) if crossed(6, a, b)] == expected
    assert crossed(6, -1, 0) and not crossed(6, 0, 5) and crossed(6, 5, 6) and not crossed(0, 0, 9)


def test_gradients_are_clipped_to_a_norm_and_the_norm_is_told_before():
    variables = [tf.Variable([3.0]), tf.Variable([4.0])]
    sgd = tf.keras.optimizers.legacy.SGD(1.0)
    zeros = tf.zeros(4, tf.int32)
    batch = Batch(tf.zeros((4, 7, 84, 84), tf.uint8), zeros, tf.zeros(4), tf.zeros(4), zeros)

    def loss(batch):
        return {"loss/total": tf.tile(tf.add_n([v**2 / 2 for v in variables]), [4])}

    learner = Learner(("Pong",), 4, loss, (ParameterGroup(sgd, variables),), {}, clip_norm=1.0)
    sums = gradient.gradient_step(learner, batch)
    assert float(sums.gradient_norm) == pytest.approx(5.0)
    np.testing.assert_allclose(tf.concat(variables, 0), [3.0 - 0.6, 4.0 - 0.8], rtol=1e-6)
    assert sums.by_game["count"].numpy().tolist() == [4.0]
