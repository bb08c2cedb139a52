"""Normalisation: group norm of feature maps (fast on CPUs) and L2 norm of the final features."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

GROUP_NORM_EPSILON = 1e-5  # as in PTR's encoder (reconstructed)
FEATURE_NORM_EPSILON = 1e-12  # the paper divides by the norm; a ReLU feature can be all zero


def l2_normalised(features: tf.Tensor) -> tf.Tensor:
    """features / sqrt(sum features^2 + epsilon) over the last axis, in float32 (§4, "feature
    normalisation"; the form is that of the authors' Dopamine network, without the epsilon).
    """
    features = tf.cast(features, tf.float32)
    squares = tf.reduce_sum(tf.square(features), axis=-1, keepdims=True)
    return features * tf.math.rsqrt(squares + FEATURE_NORM_EPSILON)


class GroupNorm(tf.keras.layers.Layer):
    """Group normalisation of [B, H, W, C] (Wu & He 2018) with a scale and a shift per channel.

    Args:
      groups: number of groups; divides C.
      zero_scale: start the scale at 0 instead of 1 (the last norm of a bottleneck).
    """

    def __init__(self, groups: int, zero_scale: bool = False, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.groups = groups
        self.scale_initial = "zeros" if zero_scale else "ones"

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates scale and shift, float32 [C]."""
        channels = (input_shape[-1],)
        # Statistics and affine algebra stay in float32 whatever the policy.
        self.scale = self.add_weight("scale", channels, initializer=self.scale_initial,
                                     experimental_autocast=False)
        self.shift = self.add_weight("shift", channels, initializer="zeros",
                                     experimental_autocast=False)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] -> the same shape and dtype."""
        return group_norm(inputs, tf.convert_to_tensor(self.scale),
                          tf.convert_to_tensor(self.shift), self.groups)


def group_norm(x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor, groups: int) -> tf.Tensor:
    """Normalises x [B, H, W, C] over H, W and the C / groups channels of each group.

    Full-size work is two channel sums and one scale-and-shift; the rest is algebra on [B, C].
    The gradient is written by hand in the same form: three times faster on a CPU than the one
    that differentiation finds. Sums are float32 also where x is bfloat16.

    Args:
      x: [B, H, W, C], float32 or bfloat16.
      scale: float32 [C].
      shift: float32 [C].
      groups: divides C.
    """
    height, width, channels = x.shape[1:]
    group_size = height * width * channels // groups

    def group_mean(sums: tf.Tensor) -> tf.Tensor:
        """[B, C] channel sums -> [B, C] means of each channel's group."""
        by_group = tf.reshape(sums, [-1, groups, channels // groups])
        means = tf.reduce_sum(by_group, axis=-1, keepdims=True) / group_size
        return tf.reshape(tf.broadcast_to(means, tf.shape(by_group)), [-1, channels])

    @tf.custom_gradient
    def normalise(
        x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
        mean = group_mean(_channel_sums(x))
        variance = tf.nn.relu(group_mean(_channel_sums(x, x)) - tf.square(mean))
        inverse = tf.math.rsqrt(variance + GROUP_NORM_EPSILON)

        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            dy_sums = _channel_sums(dy)
            # sum of dy * x_hat per channel
            dy_x_hat_sums = (_channel_sums(dy, x) - mean * dy_sums) * inverse
            slope = -tf.square(inverse) * group_mean(dy_x_hat_sums * scale)
            offset = -inverse * group_mean(dy_sums * scale) - slope * mean
            dx = _affine(dy, scale * inverse) + _affine(x, slope, offset)
            return dx, tf.reduce_sum(dy_x_hat_sums, 0), tf.reduce_sum(dy_sums, 0)

        return _affine(x, scale * inverse, shift - mean * scale * inverse), gradient

    return normalise(x, scale, shift)


def _channel_sums(x: tf.Tensor, y: tf.Tensor | None = None) -> tf.Tensor:
    """Sum of x, or of x * y, over H and W: float32 [B, C]."""
    x = tf.cast(x, tf.float32)
    return tf.reduce_sum(x if y is None else x * tf.cast(y, tf.float32), axis=[1, 2])


def _affine(x: tf.Tensor, slope: tf.Tensor, offset: tf.Tensor | None = None) -> tf.Tensor:
    """x * slope (+ offset) with slope and offset float32 [B, C], in x's dtype."""
    x = x * tf.cast(slope, x.dtype)[:, None, None]
    return x if offset is None else x + tf.cast(offset, x.dtype)[:, None, None]
