"""Normalisation: group norm of feature maps (fast on CPUs) and L2 norm of the final features."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from cql_atari.system import devices, pieces

GROUP_NORM_EPSILON = 1e-5  # as in PTR's encoder (reconstructed)
FEATURE_NORM_EPSILON = 1e-12  # the paper divides by the norm; a ReLU feature can be all zero


def l2_normalised(features: tf.Tensor) -> tf.Tensor:
    """features / sqrt(sum features^2 + epsilon) over the last axis, in float32 (§4, "feature
    normalisation"; the form is that of the authors' Dopamine network, which has no epsilon).
    """
    features = tf.cast(features, tf.float32)
    squares = tf.reduce_sum(tf.square(features), axis=-1, keepdims=True)
    return features * tf.math.rsqrt(squares + FEATURE_NORM_EPSILON)


class GroupNorm(tf.keras.layers.Layer):
    """Group normalisation of [B, H, W, C] (Wu & He 2018) with a scale and a shift per channel.

    Args:
      groups: number of groups; divides C. 0: nothing is normalised, only scaled and shifted.
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
        self.scale = self.add_weight(
            "scale", channels, initializer=self.scale_initial, experimental_autocast=False
        )
        self.shift = self.add_weight(
            "shift", channels, initializer="zeros", experimental_autocast=False
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] -> the same shape and dtype."""
        scale, shift = tf.convert_to_tensor(self.scale), tf.convert_to_tensor(self.shift)
        if self.groups:
            return group_norm(inputs, scale, shift, self.groups)
        y = _affine(tf.cast(inputs, tf.float32), scale[None], shift[None])
        return tf.cast(y, inputs.dtype)


def group_norm(x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor, groups: int) -> tf.Tensor:
    """Normalises x [B, H, W, C] over H, W and the C / groups channels of each group.

    Full-size work is two means over the map and one scale-and-shift; the rest is algebra on
    [B, C]. The gradient is written by hand in the same form, about twice as fast on CPUs as
    Keras' layer. All arithmetic is float32, also where x is bfloat16.

    Args:
      x: [B, H, W, C], float32 or bfloat16.
      scale: float32 [C].
      shift: float32 [C].
      groups: divides C.

    Returns:
      [B, H, W, C] in x's dtype.
    """

    @tf.custom_gradient
    def normalise(
        x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
        y, mean, inverse = _normalise(x, scale, shift, groups)
        return y, lambda dy: _gradient(dy, x, scale, mean, inverse, groups)

    return normalise(x, scale, shift)


@pieces.piece
def _normalise(
    x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor, groups: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(y, mean, 1 / deviation), the last two [B, C]."""
    wide = tf.cast(x, tf.float32)
    mean = _group_mean(_map_mean(wide), groups)
    variance = _group_mean(_map_mean(tf.square(wide)), groups) - tf.square(mean)
    inverse = tf.math.rsqrt(tf.nn.relu(variance) + GROUP_NORM_EPSILON)
    y = _affine(wide, scale * inverse, shift - mean * scale * inverse)
    return tf.cast(y, x.dtype), mean, inverse


@pieces.piece
def _gradient(  # noqa: PLR0917
    dy: tf.Tensor, x: tf.Tensor, scale: tf.Tensor, mean: tf.Tensor, inverse: tf.Tensor, groups: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gradients of x, scale and shift.

    With g = dy * scale and x_hat = (x - mean) * inverse:
    dx = inverse * (g - mean of g - x_hat * mean of (g * x_hat)), means over the group.
    """
    wide, dy = tf.cast(x, tf.float32), tf.cast(dy, tf.float32)
    d_shift = _map_mean(dy)
    d_scale = (_map_mean(dy * wide) - mean * d_shift) * inverse
    slope = -tf.square(inverse) * _group_mean(d_scale * scale, groups)
    offset = -inverse * _group_mean(d_shift * scale, groups) - slope * mean
    dx = _affine(wide, slope, offset) + dy * (scale * inverse)[:, None, None]
    places = x.shape[1] * x.shape[2]
    d_scale, d_shift = (places * tf.reduce_sum(d, 0) for d in (d_scale, d_shift))
    return tf.cast(dx, x.dtype), d_scale, d_shift


def _group_mean(by_channel: tf.Tensor, groups: int) -> tf.Tensor:
    """[B, C] -> [B, C], the mean of each channel's group."""
    channels = by_channel.shape[1]
    by_group = tf.reshape(by_channel, [-1, groups, channels // groups])
    means = tf.reduce_mean(by_group, axis=-1, keepdims=True)
    return tf.reshape(means + tf.zeros_like(by_group), [-1, channels])


def _map_mean(x: tf.Tensor) -> tf.Tensor:
    """Means over H and W, [B, H, W, C] -> [B, C]."""
    if devices.in_xla():
        return tf.reduce_mean(x, [1, 2])
    # Faster on CPUs, op by op.
    return tf.nn.avg_pool2d(x, x.shape[1:3], 1, "VALID")[:, 0, 0]


def _affine(x: tf.Tensor, slope: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """x * slope + offset, slope and offset [B, C]."""
    return x * slope[:, None, None] + offset[:, None, None]
