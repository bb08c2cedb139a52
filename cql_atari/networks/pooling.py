"""Learned spatial embeddings: feature map [B, H, W, C] -> vector that keeps positions."""

from __future__ import annotations

import tensorflow as tf


class SpatialEmbedding(tf.keras.layers.Layer):
    """Learned spatial embeddings in place of global average pooling (§4).

    Multiplies the map by each of F learned maps [H, W, C] and sums over H and W, so that positions
    are kept: [B, H, W, C] -> [B, C * F]. The summed form, F = 8 and the LeCun-normal start are
    PTR's (reconstructed; with them the published parameter totals come out exactly).

    Args:
      blocks: F.
      seed: of the initialiser.
    """

    def __init__(self, blocks: int, seed: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.blocks = blocks
        self.initializer = tf.keras.initializers.LecunNormal(seed)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the embedding, float32 [H, W, C, F]."""
        shape = (*input_shape[1:], self.blocks)
        self.embedding = self.add_weight("embedding", shape, initializer=self.initializer)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] -> [B, C * F]."""
        pooled = tf.einsum("bhwc,hwcf->bcf", inputs, self.embedding)
        return tf.reshape(pooled, [-1, inputs.shape[-1] * self.blocks])
