"""Encoders: shapes, the form of their blocks, and the user's mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from cql_atari.core.settings import Network
from cql_atari.core.types import UserError
from cql_atari.networks import encoders
from cql_atari.networks.encoders import Style
from cql_atari.networks.normalisation import GroupNorm

SMALL = {
    "block": "basic", "depths": (1, 1), "widths": (8, 16), "strides": (1, 2),
    "stem_kernel": 3, "stem_stride": 4, "stem_pool": False,
}  # fmt: skip


def build(encode, size=84, **settings):
    frames = tf.keras.Input((size, size, 4))
    style = Style(np.random.default_rng(0), Network(**settings))
    return tf.keras.Model(frames, encode(frames, style))


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def test_nature_is_dopamines():
    model = build(encoders.nature)
    assert model.output_shape == (None, 11, 11, 64)
    assert model.count_params() == (256 * 4 * 32 / 4 + 32) + (512 * 64 + 64) + (576 * 64 + 64)


@pytest.mark.parametrize("width", [1, 2])
def test_impala_multiplies_its_channels(width):
    model = build(encoders.impala, impala_width=width)
    assert model.output_shape == (None, 11, 11, 32 * width)
    channels = [layer.filters for layer in model.layers if hasattr(layer, "filters")]
    assert channels == [16 * width] * 5 + [32 * width] * 10
    assert kinds(model).count("MaxPooling2D") == 3
    assert kinds(model)[-2:] == ["Add", "ReLU"]


def test_stem_and_strides_set_the_map():
    two_each = SMALL | {"depths": (2, 2)}  # only a stage's first block has its stride
    blocks = [x for x in build(encoders.resnet, **two_each).layers if "add" in x.name]
    assert [block.output_shape[1] for block in blocks] == [21, 21, 11, 11]
    with_pool = build(
        encoders.resnet, **two_each | {"stem_kernel": 7, "stem_stride": 2, "stem_pool": True}
    )
    without = build(encoders.resnet, **SMALL | {"stem_kernel": 8})
    assert with_pool.output_shape == without.output_shape == (None, 11, 11, 16)
    assert kinds(with_pool).count("MaxPooling2D") == 1
    assert "MaxPooling2D" not in kinds(without)
    assert without.layers[1].kernel.shape == (8, 8, 4, 8)


def test_convolutions_of_resnets_have_no_bias_and_a_norm_each():
    for block in ("basic", "bottleneck"):
        model = build(encoders.resnet, **SMALL | {"block": block})
        assert kinds(model).count("Conv2D") == kinds(model).count("GroupNorm")
        assert not any(layer.use_bias for layer in model.layers if hasattr(layer, "use_bias"))


def test_basic_block_by_hand():
    """A block of the same shape is relu(x + norm(conv(relu(norm(conv(x))))))."""
    one = {"depths": (1,), "widths": (8,), "strides": (1,), "stem_stride": 1}
    model = build(encoders.resnet, size=8, **SMALL | one)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    convolutions = [layer for layer in model.layers if hasattr(layer, "filters")]
    norms = [layer for layer in model.layers if isinstance(layer, GroupNorm)]
    after = [lambda x, c=c, n=n: n(c(x)) for c, n in zip(convolutions, norms)]
    stem = tf.nn.relu(after[0](x))
    expected = tf.nn.relu(stem + after[2](tf.nn.relu(after[1](stem))))
    np.testing.assert_allclose(model(x), expected, atol=1e-5)


def test_bottlenecks_start_as_their_shortcut():
    model = build(encoders.resnet, **SMALL | {"block": "bottleneck", "depths": (2, 1)})
    norms = [layer for layer in model.layers if isinstance(layer, GroupNorm)]
    assert sum(not np.any(norm.scale) for norm in norms) == 3
    assert model.output_shape == (None, 11, 11, 64)


def test_a_resnet_without_norms_follows_the_size_of_its_frames():
    """Convolution, scale and ReLU: twice the input is twice the output. A norm takes sizes away."""
    frames = np.random.default_rng(0).uniform(0, 1, (2, 84, 84, 4)).astype(np.float32)
    for block in ("basic", "bottleneck"):
        plain, normal = (
            build(encoders.resnet, **SMALL | {"block": block, "groups": g}) for g in (0, 4)
        )
        np.testing.assert_allclose(plain(2 * frames), 2 * plain(frames), rtol=1e-4, atol=1e-4)
        assert np.std(normal(2 * frames)) < 1.1 * np.std(normal(frames))


def test_he_normal_start():
    model = build(encoders.resnet, **SMALL | {"widths": (64, 64), "stem_kernel": 7})
    for layer in model.layers:
        if hasattr(layer, "filters"):
            fan_in = np.prod(layer.kernel.shape[:3])
            assert np.std(layer.kernel) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depths": (1, 1, 1)}, r"network\.depths = \(1, 1, 1\).*same length"),
        ({"depths": (), "widths": (), "strides": ()}, "one entry for each stage"),
        ({"widths": (8, 10)}, r"network\.widths = \(8, 10\): 10 .*network\.groups = 4\b"),
    ],
)
def test_mistakes_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        build(encoders.resnet, **SMALL | wrong)
