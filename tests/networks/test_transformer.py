"""The decision transformer: who sees what, sizes, and that it can learn a sequence by heart."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from cql_atari.core.settings import Transformer
from cql_atari.core.types import UserError
from cql_atari.networks import transformer
from cql_atari.networks.transformer import DecisionTransformer, Logits, Tokens


def build(seed=0, dtype="float32", **sizes):
    return DecisionTransformer(Transformer(**{"depth": 2, "width": 64, **sizes}), seed, dtype)


def apply(network: DecisionTransformer, window: dict[str, np.ndarray], **options) -> Logits:
    tokens = Tokens(*(window[name] for name in Tokens._fields))
    return network(window["frames"], tokens, **options)


def window(seed: int = 0, batch: int = 2, steps: int = 4) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "frames": random.integers(0, 256, (batch, steps, 84, 84), np.uint8),
        "returns": random.integers(0, 121, (batch, steps), np.int32),
        "actions": random.integers(0, 18, (batch, steps), np.int32),
        "rewards": random.integers(0, 3, (batch, steps), np.int32),
    }


@pytest.fixture(scope="module")
def network():
    return build()


@pytest.mark.parametrize(
    ("size", "millions"),
    [((4, 512), 12.96), ((6, 768), 43.05), ((10, 1280), 197.6)],
)
def test_has_the_published_number_of_parameters(size, millions):
    depth, width = size
    block = 12 * width**2 + 13 * width  # four square maps, an MLP of 4 D, two norms; all biases
    tables = (196 + 1 + 36 + 156 + 121 + 18 + 3) * width
    readouts = (121 + 18 + 3) * (width + 1) + 2 * width
    by_hand = depth * block + tables + readouts
    assert by_hand / 1e6 == pytest.approx(millions, rel=0.005)
    if width == 512:  # the others are the same code
        network = build(depth=depth, width=width)
        assert network.count_params() == by_hand


def test_sees_the_past_and_its_own_frame():
    sees = transformer.attention_mask(2, 3, hidden=(75,))
    assert sees.shape == (78, 78)
    assert sees[0, 35]  # the first patch sees the last one of its frame
    assert not sees[0, 36] and sees[36, 35]  # not the return; the return sees the frame
    assert not sees[38, 39] and sees[39, 38]  # not the next step
    assert sees[39, 74] and not sees[39, 75]
    assert not sees[:, 75].any()  # hidden
    assert sees[75, :75].all()  # but it looks


@pytest.mark.parametrize(
    ("channel", "moved"),
    [
        ("frames", {"returns", "actions", "rewards"}),
        ("returns", set()),  # only the first one is seen
        ("actions", {"rewards"}),
        ("rewards", set()),
    ],
)
def test_nothing_moves_a_past_logit_by_a_bit(network, channel, moved):
    before = window()
    after = {**before, channel: before[channel].copy()}
    after[channel][:, 2:] = window(seed=1)[channel][:, 2:]
    a, b = apply(network, before), apply(network, after)
    for name in Logits._fields:
        a_part, b_part = getattr(a, name).numpy(), getattr(b, name).numpy()
        np.testing.assert_array_equal(a_part[:, :2], b_part[:, :2])
        assert (a_part[:, 2] != b_part[:, 2]).any() == (name in moved), name


def test_the_first_return_moves_every_later_action_and_no_return(network):
    before = window()
    after = {**before, "returns": before["returns"].copy()}
    after["returns"][:, 0] = (before["returns"][:, 0] + 60) % 121
    a, b = apply(network, before), apply(network, after)
    assert (a.actions.numpy() != b.actions.numpy()).any(axis=(0, 2)).all()
    np.testing.assert_array_equal(a.returns[:, 0], b.returns[:, 0])


def test_all_returns_are_seen_where_asked():
    network = build(single_return_token=False)
    before = window()
    after = {**before, "returns": before["returns"].copy()}
    after["returns"][:, 2] = (before["returns"][:, 2] + 60) % 121
    a, b = apply(network, before).actions.numpy(), apply(network, after).actions.numpy()
    assert [(a[:, t] != b[:, t]).any() for t in range(4)] == [False, False, True, True]


def test_a_short_window_is_the_beginning_of_a_long_one(network):
    whole = window()
    short = apply(network, {name: part[:, :2] for name, part in whole.items()})
    for a, b in zip(short, apply(network, whole)):
        np.testing.assert_allclose(a, b[:, :2], atol=1e-5)


def test_the_cloning_twin_has_no_return():
    twin = build(return_token=False)
    logits = apply(twin, window())
    assert logits.returns is None
    assert logits.actions.shape == (2, 4, 18)
    assert twin.positions.shape[0] == 4 * 38
    assert not any("return" in variable.name for variable in twin.variables)


def test_patches_are_a_convolution():
    frames = window(batch=1, steps=1)["frames"]
    kernel = np.random.default_rng(0).normal(size=(14, 14, 1, 5)).astype(np.float32)
    expected = tf.nn.conv2d(frames[0, 0][None, ..., None].astype(np.float32), kernel, 14, "VALID")
    got = transformer.patches(tf.constant(frames)).numpy()[0, 0] @ kernel.reshape(196, 5)
    np.testing.assert_allclose(got, tf.reshape(expected, [36, 5]), rtol=1e-3, atol=1e-2)


def test_returns_and_rewards_become_bins():
    returns = tf.constant([-30.0, -20.0, 0.0, 0.4, 99.6, 100.0, 500.0])
    assert transformer.return_bins(returns).numpy().tolist() == [0, 0, 20, 20, 120, 120, 120]
    assert transformer.reward_signs(tf.constant([-2.5, 0.0, 1.0])).numpy().tolist() == [0, 1, 2]


def test_dropout_only_with_a_seed_and_the_same_with_the_same(network):
    inputs = window()
    calm, again = apply(network, inputs), apply(network, inputs)
    np.testing.assert_array_equal(calm.actions, again.actions)
    a, b, c = (apply(network, inputs, dropout_seed=tf.constant([7, step])) for step in (0, 0, 1))
    np.testing.assert_array_equal(a.actions, b.actions)
    assert (a.actions.numpy() != c.actions.numpy()).any()
    assert (a.actions.numpy() != calm.actions.numpy()).any()


def test_every_dropout_of_every_block_is_another(network, monkeypatch):
    seeds = []

    def note(y, rate, seed):
        seeds.append(tuple(seed.numpy()))
        return y

    monkeypatch.setattr(tf.nn.experimental, "stateless_dropout", note)
    apply(network, window(), dropout_seed=tf.constant([7, 0]))
    assert len(seeds) == len(set(seeds)) == 4


def test_a_block_by_hand():
    """Two heads of 64: each has its own scores, divided by 8."""
    block = transformer.Block(128, 1.0, 0.0, "float32", np.random.default_rng(0))
    random = np.random.default_rng(1)
    x, bias = random.normal(size=(5, 128)), np.where(np.tri(5), 0, -1e9)

    def norm(x):
        return (x - x.mean(1, keepdims=True)) / (x.var(1, keepdims=True) + 1e-5) ** 0.5

    def times(x, layer):
        return x @ layer.kernel.numpy()

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(1, keepdims=True)

    query, key, value = (times(norm(x), part) for part in (block.query, block.key, block.value))
    seen = [
        softmax(query[:, head] @ key[:, head].T / 8 + bias) @ value[:, head]
        for head in (slice(0, 64), slice(64, 128))
    ]
    y = x + times(np.hstack(seen), block.out)
    inner = tf.nn.gelu(times(norm(y), block.expand), approximate=True).numpy()
    expected = y + times(inner, block.contract)
    got = block(tf.constant(x[None], tf.float32), tf.constant(bias, tf.float32), None)
    np.testing.assert_allclose(got[0], expected, atol=1e-4)


@pytest.mark.parametrize("depth", [1, 4])
def test_deeper_networks_start_with_smaller_weights(depth):
    """Of variance 2 / depth by the inputs."""
    kernel = build(depth=depth, width=128).blocks[0].query.kernel
    assert np.var(kernel) == pytest.approx(2 / depth / 128, rel=0.05)


def test_a_seed_fixes_the_weights():
    a, b, c = (build(seed) for seed in (0, 0, 1))
    for x, y in zip(a.get_weights(), b.get_weights()):
        np.testing.assert_array_equal(x, y)
    assert (a.get_weights()[0] != c.get_weights()[0]).any()


def test_bfloat16_keeps_float32_variables_and_logits():
    network = build(dtype="mixed_bfloat16")
    assert {v.dtype for v in network.variables} == {tf.float32}
    full, half = apply(build(), window()), apply(network, window())
    assert half.actions.dtype == tf.float32
    np.testing.assert_allclose(full.actions, half.actions, atol=0.1)


def test_refuses_a_width_that_heads_do_not_divide():
    with pytest.raises(UserError, match=r"transformer.width = 100: must be a multiple of 64"):
        build(width=100)
