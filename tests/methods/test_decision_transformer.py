"""The decision transformer as a method: its losses, and that it learns a sequence by heart."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny

from cql_atari.core.settings import Transformer
from cql_atari.core.types import UserError
from cql_atari.feed import recorded
from cql_atari.methods import build
from cql_atari.methods import decision_transformer as method
from cql_atari.networks.transformer import DecisionTransformer, Logits, Tokens
from cql_atari.runs import checkpoint, recorded_config
from cql_atari.training import load, run

ALL = np.ones((1, 18), bool)


def test_real_steps_move_to_the_front():
    mask = tf.constant([[False, False, True, True], [True, True, True, True]])
    values = tf.constant([[0, 0, 7, 8], [1, 2, 3, 4]])
    moved, front = method.align(mask, values)
    assert moved.numpy().tolist() == [[True, True, False, False], [True] * 4]
    assert front.numpy().tolist() == [[7, 8, 0, 0], [1, 2, 3, 4]]


def logits(seed: int = 0) -> Logits:
    random = np.random.default_rng(seed)
    shapes = ((2, 4, 121), (2, 4, 18), (2, 4, 3))
    return Logits(*(tf.constant(random.normal(size=s), tf.float32) for s in shapes))


def found(parts: Logits, mask, available=ALL, **changes) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    labels = Tokens(*(random.integers(0, n, (2, 4)).astype(np.int32) for n in (121, 18, 3)))
    arguments = {"weights": (1.0, 1.0, 1.0), "single_return_token": True, **changes}
    got = method.losses(parts, labels, mask, np.broadcast_to(available, (2, 18)), **arguments)
    return {"labels": labels} | {name: loss.numpy() for name, loss in got.items()}


def cross_entropy(x: np.ndarray, label: int) -> float:
    return np.log(np.exp(x).sum()) - x[label]


def test_losses_are_means_of_cross_entropies_over_real_steps():
    parts, mask = logits(), np.array([[True, True, False, False], [True] * 4])
    got = found(parts, mask)
    for row, steps in ((0, 2), (1, 4)):
        for name, label in (("action", "actions"), ("reward", "rewards")):
            part = getattr(parts, label).numpy()[row]
            labels = getattr(got["labels"], label)[row]
            expected = np.mean([cross_entropy(part[t], labels[t]) for t in range(steps)])
            assert got[f"loss/{name}"][row] == pytest.approx(expected, rel=1e-5)
        first = cross_entropy(parts.returns.numpy()[row, 0], got["labels"].returns[row, 0])
        assert got["loss/return"][row] == pytest.approx(first, rel=1e-5)
    total = (got["loss/return"] + got["loss/action"] + got["loss/reward"]) / 3
    np.testing.assert_allclose(got["loss/total"], total, rtol=1e-6)


def test_the_notebooks_weights_are_one_over_its_classes():
    mask = np.ones((2, 4), bool)
    got = found(logits(), mask, weights=method.CLASS_WEIGHTS)
    total = (got["loss/return"] / 120 + got["loss/action"] / 18 + got["loss/reward"] / 4) / 3
    np.testing.assert_allclose(got["loss/total"], total, rtol=1e-6)


def test_the_twin_has_no_return_loss():
    got = found(logits()._replace(returns=None), np.ones((2, 4), bool))
    assert "loss/return" not in got
    np.testing.assert_allclose(
        got["loss/total"], (got["loss/action"] + got["loss/reward"]) / 2, rtol=1e-6
    )


def test_actions_that_a_game_has_not_take_no_part():
    parts, available = logits(), np.zeros((1, 18), bool)
    available[:, :10] = True
    actions = parts.actions.numpy().copy()
    actions[..., 10:] += 100
    labels = Tokens(*[np.zeros((2, 4), np.int32)] * 3)
    for other in (parts, parts._replace(actions=tf.constant(actions))):
        got = method.losses(
            other, labels, np.ones((2, 4), bool), np.broadcast_to(available, (2, 18)),
            weights=(1.0, 1.0, 1.0), single_return_token=True,
        )  # fmt: skip
        expected = [
            np.mean([cross_entropy(parts.actions.numpy()[row, t, :10], 0) for t in range(4)])
            for row in range(2)
        ]
        np.testing.assert_allclose(got["loss/action"], expected, rtol=1e-5)
        hits = parts.actions.numpy()[..., :10].argmax(-1) == 0
        np.testing.assert_allclose(got["accuracy/action"], hits.mean(1))


@pytest.mark.slow
def test_learns_by_heart_what_a_return_means():
    """Two games that look alike: a return of 0 goes with action 2, one of 9 with action 5."""
    network = DecisionTransformer(Transformer(depth=1, width=64, steps=2, dropout=0.0), seed=0)
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, 84, 84), np.uint8).repeat(2, axis=0)
    tokens = Tokens(*map(tf.constant, ([[20, 20], [29, 29]], [[2, 2], [5, 5]], [[1, 1], [2, 1]])))
    optimizer = tf.keras.optimizers.legacy.Adam(3e-3)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            parts = method.losses(
                network(frames, tokens), tokens, tf.ones((2, 2), tf.bool),
                tf.ones((2, 18), tf.bool), weights=(1.0, 1.0, 1.0), single_return_token=True,
            )  # fmt: skip
            loss = tf.reduce_mean(parts["loss/total"])
        variables = network.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return parts

    for _ in range(80):
        parts = {name: value.numpy() for name, value in step().items()}
    assert parts["loss/action"].max() < 0.05 and parts["loss/reward"].max() < 0.05
    assert parts["loss/return"].mean() == pytest.approx(np.log(2), abs=0.05)  # nothing tells which


RUN = (
    "train.method = 'decision_transformer'", "transformer.depth = 1", "transformer.width = 64",
    "optimizer.kind = 'lamb'", "optimizer.warmup_steps = 4", "optimizer.clip_norm = 1.0",
    "evaluation.max_frames = 80", "evaluation.episodes = 1",
)  # fmt: skip


@pytest.mark.slow
def test_a_run_trains_resumes_bit_for_bit_and_plays_real_games(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "_load_store", lambda config, *_: tiny.store(config))
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    config = tiny.config(*RUN)

    def open_feed(method, step, **options):
        return recorded.open_feed(config, (), step, reads=method.reads, **options)

    stops = iter([False] * 2 + [True] * 100)
    for name, should_stop in (
        ("resumed", lambda: next(stops)), ("resumed", lambda: False), ("straight", lambda: False)
    ):  # fmt: skip
        (tmp_path / name).mkdir(exist_ok=True)
        recorded_config.record_config(tmp_path / name, config)
        finished = run.train(config, open_feed, tmp_path / name, should_stop)
        assert finished or 0 < checkpoint.steps(tmp_path / name / "checkpoints")[-1] < 8
    weights = []
    for name in ("resumed", "straight"):
        found = load.load(tmp_path / name)
        assert found.step == 8
        network = build.build(found.config).network
        state = tf.train.Checkpoint(network=network)
        checkpoint.restore_latest(tmp_path / name / "checkpoints", state)
        weights.append(network.get_weights())
    for a, b in zip(*weights):
        np.testing.assert_array_equal(a, b)
    scores = (tmp_path / "resumed" / "scores.json").read_text()
    assert '"decision transformer"' in scores
    log = (tmp_path / "resumed" / "metrics.jsonl").read_text()
    assert "loss/return/Freeway" in log and "accuracy/action" in log


def test_refuses_a_rate_for_an_encoder_that_it_has_not():
    with pytest.raises(UserError, match="which has no encoder: leave it None"):
        build.build(tiny.config(*RUN, "optimizer.encoder_learning_rate = 0.0"))
