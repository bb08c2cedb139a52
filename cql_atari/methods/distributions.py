"""Return distributions as pure functions: supports, expected values, projections, targets.

Symbols as in `losses`: Q_theta' the target network, z the support's atoms, r the n-step reward,
gamma^n the discount (0 after a terminal).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

HL_GAUSS_SIGMA = 0.75  # in bin widths ("Stop Regressing", arXiv 2403.03950)


def support(v_min: float, v_max: float, num_atoms: int) -> tf.Tensor:
    """C51's atoms z, float32 [N]: evenly spaced, both ends included."""
    return tf.linspace(tf.constant(v_min, tf.float32), v_max, num_atoms)


def bin_centres(v_min: float, v_max: float, num_bins: int) -> tf.Tensor:
    """HL-Gauss's z, float32 [N]: the centres of N equal bins that tile [v_min, v_max]."""
    half = (v_max - v_min) / num_bins / 2
    return support(v_min + half, v_max - half, num_bins)


def q_values(logits: tf.Tensor, support: tf.Tensor) -> tf.Tensor:
    """Expected values sum_i z_i softmax_i(logits): [..., N], [N] -> [...]."""
    return tf.linalg.matvec(tf.nn.softmax(logits), support)


def project(
    probabilities: tf.Tensor, rewards: tf.Tensor, discounts: tf.Tensor, support: tf.Tensor
) -> tf.Tensor:
    """Projects a distribution on r + gamma^n z back onto z (Bellemare et al. 2017, equation 7).

    Each shifted atom, clipped to the support, shares its mass between its two neighbours by linear
    interpolation. Dense [N, N] triangular kernels do it, since TPUs dislike scatters.

    Args:
      probabilities: [B, N], on the support's atoms.
      rewards: [B].
      discounts: [B].
      support: [N], evenly spaced.

    Returns:
      [B, N].
    """
    shifted = rewards[:, None] + discounts[:, None] * support
    shifted = tf.clip_by_value(shifted, support[0], support[-1])
    distances = tf.abs(shifted[:, None, :] - support[:, None]) / (support[1] - support[0])
    return tf.linalg.matvec(tf.nn.relu(1 - distances), probabilities)


def gaussian_histogram(values: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
    """The mass that N(value, sigma) has in each bin, normalised over the bins (HL-Gauss).

    Args:
      values: [B]; clipped to the range of the bins.
      centres: [N], evenly spaced; sigma is 0.75 of a bin's width.

    Returns:
      [B, N].
    """
    width = centres[1] - centres[0]
    edges = tf.concat([centres - width / 2, centres[-1:] + width / 2], axis=0)
    values = tf.clip_by_value(values, edges[0], edges[-1])
    scaled = (edges - values[:, None]) / (HL_GAUSS_SIGMA * width)
    cumulative = tf.math.erf(scaled / 2**0.5)
    mass = cumulative[:, 1:] - cumulative[:, :-1]
    return mass / (cumulative[:, -1:] - cumulative[:, :1])


def two_hot(values: tf.Tensor, support: tf.Tensor) -> tf.Tensor:
    """Each value's mass on its two neighbouring atoms, so that their mean is the value.

    Args:
      values: [B]; clipped to the support's ends.
      support: [N], evenly spaced.

    Returns:
      [B, N].
    """
    values = tf.clip_by_value(values, support[0], support[-1])
    return tf.nn.relu(1 - tf.abs(values[:, None] - support) / (support[1] - support[0]))


def c51_target(  # noqa: PLR0917
    next_logits: tf.Tensor,
    chooser: tf.Tensor,
    rewards: tf.Tensor,
    discounts: tf.Tensor,
    support: tf.Tensor,
    available: tf.Tensor,
) -> tf.Tensor:
    """The projection of r + gamma^n Z_theta'(s', a*) onto the support, [B, N].

    Args:
      next_logits: [B, A, N], target network at s'.
      chooser: [B, A, N], the logits whose expected values choose a*.
      rewards: [B].
      discounts: [B].
      support: [N].
      available: bool, the actions that can be a*, [B, A] or what broadcasts to it.
    """
    next_actions = tf.argmax(mask_actions(q_values(chooser, support), available), axis=-1)
    next_probabilities = tf.nn.softmax(at(next_logits, next_actions))
    return project(next_probabilities, rewards, discounts, support)


def scalar_target(  # noqa: PLR0917
    spread: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    next_logits: tf.Tensor,
    chooser: tf.Tensor,
    rewards: tf.Tensor,
    discounts: tf.Tensor,
    support: tf.Tensor,
    available: tf.Tensor,
) -> tf.Tensor:
    """The scalar r + gamma^n Q_theta'(s', a*) as a distribution, [B, N].

    `spread` makes it of values [B] and the support; for the other arguments see `c51_target`.
    """
    next_actions = tf.argmax(mask_actions(q_values(chooser, support), available), axis=-1)
    values = rewards + discounts * at(q_values(next_logits, support), next_actions)
    return spread(values, support)


# "Stop Regressing" (arXiv 2403.03950), section 3.1; there the two neighbouring atoms do no better
# than regression.
hl_gauss_target = functools.partial(scalar_target, gaussian_histogram)
two_hot_target = functools.partial(scalar_target, two_hot)


def at(values: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """values [B, A, ...] of each row's action: [B, ...]."""
    return tf.gather(values, actions, batch_dims=1)


def mask_actions(q: tf.Tensor, available: tf.Tensor) -> tf.Tensor:
    """q [B, A] with its dtype's least value where `available` [B, A] is false, which neither argmax
    nor softmax takes.
    """
    return tf.where(available, q, q.dtype.min)
