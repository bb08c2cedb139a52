"""Matrix products whose gradients are as fast as they are themselves, also on CPUs."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


@tf.custom_gradient
def product(
    x: tf.Tensor, kernel: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """x [B, F] times kernel [F, W].

    TensorFlow's own gradient of x multiplies by a transposed kernel, which takes oneDNN two to
    three times as long as the same product the other way round and a transpose of the small result.
    """

    def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        dx = tf.transpose(tf.matmul(kernel, dy, transpose_b=True))
        return dx, tf.matmul(tf.transpose(x), dy)

    return tf.matmul(x, kernel), gradient


class Dense(tf.keras.layers.Dense):
    """Keras' dense layer on [B, F], by `product`."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[B, F] -> [B, units]."""
        outputs = product(inputs, tf.convert_to_tensor(self.kernel)) + self.bias
        return self.activation(outputs)
