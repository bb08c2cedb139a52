"""Encoders: scaled frames [B, 84, 84, 4] -> feature map [B, H, W, C], as functional graphs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from cql_atari.core.settings import Network
from cql_atari.core.types import UserError
from cql_atari.networks.normalisation import GroupNorm

layers = tf.keras.layers


class Style(NamedTuple):
    """What all layers of one network share.

    Attributes:
      rng: draws the seeds of the layers' initialisers, so that one seed fixes all weights.
      network: the encoder's settings.
    """

    rng: np.random.Generator
    network: Network

    @property
    def dtype(self) -> str:
        """Keras' policy, "float32" or "mixed_bfloat16"."""
        return self.network.dtype

    def seed(self) -> int:
        """The next initialiser's seed."""
        return int(self.rng.integers(2**31))


def nature(x: tf.Tensor, style: Style) -> tf.Tensor:
    """The DQN encoder (Mnih et al. 2015), padded as in Dopamine: 11 x 11 x 64."""
    for filters, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        x = _relu(_conv(x, filters, kernel, stride, style, bias=True), style)
    return x


def impala(x: tf.Tensor, style: Style) -> tf.Tensor:
    """IMPALA's deep encoder (Espeholt et al. 2018), its channels times w = `network.impala_width`:
    11 x 11 x 32 w.
    """
    width = style.network.impala_width
    for filters in (16 * width, 32 * width, 32 * width):
        x = _max_pool(_conv(x, filters, 3, 1, style, bias=True), style)
        for _ in range(2):
            y = x
            for _ in range(2):
                y = _conv(_relu(y, style), filters, 3, 1, style, bias=True)
            x = _add(x, y, style)
    return _relu(x, style)


def resnet(x: tf.Tensor, style: Style) -> tf.Tensor:
    """ResNet v1 (post-activation) with group norm in place of batch norm (§4).

    A block is "basic" (3x3, 3x3) or "bottleneck" (1x1, 3x3, 1x1 to four times the width). A stage
    has `depths` blocks of `widths` inner channels, and `strides` is its first block's. The first
    convolution has the first stage's width. The form of the blocks, He-normal initialisation and
    zero scales are PTR's (reconstructed).

    Raises:
      UserError: where the stages don't match, or the groups don't divide the widths.
    """
    network = style.network
    depths, widths, strides = network.depths, network.widths, network.strides
    build_block = _basic_block if network.block == "basic" else _bottleneck_block
    if not len(depths) == len(widths) == len(strides) > 0:
        raise UserError(
            f"network.depths = {depths}, network.widths = {widths} and network.strides = {strides} "
            "must have one entry for each stage: give all three the same length."
        )
    if odd := [width for width in widths if network.groups and width % network.groups]:
        raise UserError(
            f"network.widths = {widths}: {', '.join(map(str, odd))} can't be divided into "
            f"network.groups = {network.groups}. Give multiples of that, or a network.groups that "
            "divides all widths (0: no normalisation)."
        )
    stem = _conv(x, widths[0], network.stem_kernel, network.stem_stride, style)
    x = _relu(_norm(stem, style), style)
    if network.stem_pool:
        x = _max_pool(x, style)
    for depth, width, stride in zip(depths, widths, strides):
        for i in range(depth):
            x = build_block(x, width, stride if i == 0 else 1, style)
    return x


def _basic_block(x: tf.Tensor, width: int, stride: int, style: Style) -> tf.Tensor:
    y = _relu(_norm(_conv(x, width, 3, stride, style), style), style)
    y = _norm(_conv(y, width, 3, 1, style), style)
    return _relu(_add(_shortcut(x, width, stride, style), y, style), style)


def _bottleneck_block(x: tf.Tensor, width: int, stride: int, style: Style) -> tf.Tensor:
    y = _relu(_norm(_conv(x, width, 1, 1, style), style), style)
    y = _relu(_norm(_conv(y, width, 3, stride, style), style), style)
    y = _norm(_conv(y, 4 * width, 1, 1, style), style, zero_scale=True)
    return _relu(_add(_shortcut(x, 4 * width, stride, style), y, style), style)


def _shortcut(x: tf.Tensor, channels: int, stride: int, style: Style) -> tf.Tensor:
    if stride == 1 and x.shape[-1] == channels:
        return x
    return _norm(_conv(x, channels, 1, stride, style), style)


def _conv(
    x: tf.Tensor, filters: int, kernel: int, stride: int, style: Style, *, bias: bool = False
) -> tf.Tensor:
    convolution = layers.Conv2D(
        filters, kernel, stride, "same", use_bias=bias, dtype=style.dtype,
        kernel_initializer=tf.keras.initializers.HeNormal(style.seed()),
    )  # fmt: skip
    return convolution(x)


def _norm(x: tf.Tensor, style: Style, zero_scale: bool = False) -> tf.Tensor:
    return GroupNorm(style.network.groups, zero_scale, dtype=style.dtype)(x)


def _relu(x: tf.Tensor, style: Style) -> tf.Tensor:
    return layers.ReLU(dtype=style.dtype)(x)


def _add(x: tf.Tensor, y: tf.Tensor, style: Style) -> tf.Tensor:
    return layers.Add(dtype=style.dtype)([x, y])


def _max_pool(x: tf.Tensor, style: Style) -> tf.Tensor:
    return layers.MaxPooling2D(3, 2, "same", dtype=style.dtype)(x)
