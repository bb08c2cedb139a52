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
        height, width, channels = inputs.shape[1:]
        # One product a channel, [B, H W] x [H W, F]; an einsum takes more steps to the same.
        maps = tf.transpose(tf.reshape(inputs, [-1, height * width, channels]), [2, 0, 1])
        kernels = tf.reshape(self.embedding, [height * width, channels, self.blocks])
        pooled = tf.matmul(maps, tf.transpose(kernels, [1, 0, 2]))  # [C, B, F]
        return tf.reshape(tf.transpose(pooled, [1, 0, 2]), [-1, channels * self.blocks])
