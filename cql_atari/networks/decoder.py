"""The masked autoencoder (He et al. 2022) on the cells of an encoder's feature map, as in arXiv
2406.06037: most cells are hidden, a transformer encodes the others, and a second transformer
reconstructs all pixels.

The H x W cells of a map correspond to H x W patches of the frame, of ceil(84 / H) pixels a side: 14
for a 6 x 6 map as in that paper, 8 for the 11 x 11 map of our paper's ResNets. Patches that extend
beyond the frame are cut.

Reconstructed: the class token is a learned vector plus the encoder's own pooling of the visible
cells. Otherwise nothing would train a spatial embedding, which transfers with the encoder.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from cql_atari.core import settings
from cql_atari.core.types import FRAME_SHAPE, STACK, UserError
from cql_atari.networks.encoders import Style
from cql_atari.networks.q_network import build_encoder
from cql_atari.networks.transformer import Block, LayerNorm


class Reconstruction(NamedTuple):
    """What the autoencoder reconstructs.

    Attributes:
      pixels: float32 [B, 4, 84, 84], 1 is white; not cut to [0, 1].
      hidden: float32 [B, 84, 84], 1 where the pixel's cell was hidden.
    """

    pixels: tf.Tensor
    hidden: tf.Tensor


class MaskedAutoencoder(tf.keras.Model):
    """An encoder, a transformer over the visible cells, one over all cells, a layer to pixels.

    Attributes:
      encoder: frames uint8 [B, 4, 84, 84] -> pooled features [B, P]; what transfers.
      cells: of the feature map.

    Args:
      network: the encoder's settings.
      sizes: of the rest.
      seed: fixes all initial weights.

    Raises:
      UserError: as `build_encoder`; for heads that don't divide the width.
    """

    def __init__(
        self, network: settings.Network, sizes: settings.MaskedAutoencoder, seed: int
    ) -> None:
        super().__init__()
        if sizes.width % sizes.heads:
            raise UserError(
                f"masked_autoencoder.width = {sizes.width}: must be a multiple of "
                f"masked_autoencoder.heads = {sizes.heads}."
            )
        style = Style(np.random.default_rng(seed), network)
        self.encoder = build_encoder(style)
        pool = self.encoder.layers[-1]
        feature_map = tf.keras.Model(self.encoder.input, pool.input)
        # In a function: were it an attribute, Keras would find the encoder's layers by a second
        # path, and a checkpoint might name them by that.
        self._parts = lambda: (feature_map, pool)
        self._height, self._width = feature_map.output_shape[1:3]
        self.cells = self._height * self._width
        self._visible = max(1, min(round(self.cells * (1 - sizes.mask_share)), self.cells - 1))

        def block() -> Block:
            head_width = sizes.width // sizes.heads
            return Block(sizes.width, 1.0, 0.0, network.dtype, style.rng, head_width)

        def table(name: str, *shape: int) -> tf.Variable:
            initial = tf.keras.initializers.TruncatedNormal(stddev=0.02, seed=style.seed())
            return self.add_weight(name, shape, initializer=initial, dtype=tf.float32)

        def linear(name: str, inputs: int, outputs: int) -> tf.keras.layers.Dense:
            initial = tf.keras.initializers.GlorotUniform(style.seed())
            layer = tf.keras.layers.Dense(outputs, kernel_initializer=initial, name=name)
            layer.build((None, inputs))
            return layer

        width, channels = sizes.width, feature_map.output_shape[-1]
        self.embed = linear("embed", channels, width)
        self.embed_pooled = linear("embed_pooled", self.encoder.output_shape[-1], width)
        self.class_token = table("class_token", 1, 1, width)
        self.positions = table("positions", self.cells, width)
        self.blocks = [block() for _ in range(sizes.depth)]
        self.norm = LayerNorm(width)
        self.mask_token = table("mask_token", 1, width)
        self.decoder_positions = table("decoder_positions", self.cells, width)
        self.decoder_blocks = [block() for _ in range(sizes.decoder_depth)]
        self.decoder_norm = LayerNorm(width)
        self._sides = [-(-size // n) for size, n in zip(FRAME_SHAPE, (self._height, self._width))]
        # `draw`, to pixels: checkpoints hold it by this name.
        self.draw = linear("draw", width, self._sides[0] * self._sides[1] * STACK)
        self.built = True

    def call(self, frames: tf.Tensor, noise: tf.Tensor) -> Reconstruction:
        """Reconstructs frames from a few cells of their feature map.

        Args:
          frames: uint8 [B, 4, 84, 84].
          noise: float32 [B, cells]; the cells with the lowest noise are visible.
        """
        feature_map, pool = self._parts()
        features = feature_map(frames)
        # Products with 0 and 1 in place of gathers: their gradients are dense.
        places = tf.one_hot(tf.argsort(noise)[:, : self._visible], self.cells)  # [B, V, N]
        seen = tf.reduce_sum(places, axis=1)  # [B, N]
        by_cell = tf.reshape(seen, [-1, self._height, self._width, 1])
        shown = features * tf.cast(by_cell, features.dtype)
        cells = tf.cast(tf.reshape(shown, [-1, self.cells, features.shape[-1]]), tf.float32)

        x = self.embed(tf.matmul(places, cells)) + tf.matmul(places, self.positions)
        whole = self.embed_pooled(tf.cast(pool(shown), tf.float32))[:, None] + self.class_token
        x = tf.concat([whole, x], axis=1)
        for block in self.blocks:
            x = block(x, tf.constant(0.0), None)
        x = self.norm(x)

        y = tf.matmul(places, x[:, 1:], transpose_a=True) + (1 - seen[..., None]) * self.mask_token
        y = tf.concat([x[:, :1], y + self.decoder_positions], axis=1)
        for block in self.decoder_blocks:
            y = block(y, tf.constant(0.0), None)
        pixels = self._join(self.draw(self.decoder_norm(y)[:, 1:]))
        return Reconstruction(pixels, self._hidden(seen))

    def _join(self, patches: tf.Tensor) -> tf.Tensor:
        """[B, N, pixels of a patch] -> [B, 4, 84, 84]."""
        (tall, wide), (height, width) = self._sides, FRAME_SHAPE
        x = tf.reshape(patches, [-1, self._height, self._width, STACK, tall, wide])
        x = tf.transpose(x, [0, 3, 1, 4, 2, 5])
        x = tf.reshape(x, [-1, STACK, self._height * tall, self._width * wide])
        return x[:, :, :height, :width]

    def _hidden(self, seen: tf.Tensor) -> tf.Tensor:
        """[B, N] -> [B, 84, 84]."""
        x = 1 - tf.reshape(seen, [-1, self._height, self._width])
        x = tf.repeat(tf.repeat(x, self._sides[0], axis=1), self._sides[1], axis=2)
        return x[:, : FRAME_SHAPE[0], : FRAME_SHAPE[1]]
