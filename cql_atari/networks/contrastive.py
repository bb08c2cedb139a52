"""The network of contrastive coding: an encoder, a projection, a bilinear score of two states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from cql_atari.core.settings import Network
from cql_atari.networks.encoders import Style
from cql_atari.networks.q_network import add_dense, build_encoder


class ContrastiveNetwork(tf.keras.Model):
    """phi(s), and the score phi(s)^T W phi(s') of whether s' follows s.

    Attributes:
      encoder: frames uint8 [B, 4, 84, 84] -> pooled features [B, P]; what transfers.
      projection: pooled features [B, P] -> phi [B, F].
      bilinear: W, float32 [F, F].

    Args:
      network: the encoder's settings.
      projection: widths of the layers with ReLU after the encoder; F is the last.
      seed: fixes all initial weights.

    Raises:
      UserError: as `build_encoder`.
    """

    def __init__(self, network: Network, projection: Sequence[int], seed: int) -> None:
        super().__init__()
        style = Style(np.random.default_rng(seed), network)
        self.encoder = build_encoder(style)
        pooled, x = add_dense(self.encoder, projection, style)
        self.projection = tf.keras.Model(pooled, tf.cast(x, tf.float32), name="projection")
        width = x.shape[-1]
        # Initial scores have about the size of a squared feature (reconstructed).
        small = tf.keras.initializers.RandomNormal(stddev=1 / width, seed=style.seed())
        self.bilinear = self.add_weight("bilinear", (width, width), initializer=small)
        self.built = True

    def call(self, frames: tf.Tensor) -> tf.Tensor:
        """Frames uint8 [B, 4, 84, 84] -> phi float32 [B, F]."""
        return self.projection(self.encoder(frames))

    def scores(self, states: tf.Tensor, successors: tf.Tensor) -> tf.Tensor:
        """phi(s) [B, F], phi(s') [C, F] -> float32 [B, C]."""
        weighted = tf.matmul(states, tf.convert_to_tensor(self.bilinear))
        return tf.matmul(weighted, successors, transpose_b=True)
