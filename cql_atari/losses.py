"""Losses as pure functions of tensors: C51, MSE and HL-Gauss with CQL, and behaviour cloning.

Symbols: Q_theta the online network, Q_theta' the target network, z the support's atoms, r the
n-step reward, gamma^n the discount (0 after a terminal), alpha the weight of CQL.
"""

from __future__ import annotations

import tensorflow as tf

from cql_atari.types import Losses


def support(v_min: float, v_max: float, num_atoms: int) -> tf.Tensor:
    """C51's atoms z_i, float32 [N], evenly spaced with both ends included."""
    return tf.linspace(tf.constant(v_min, tf.float32), v_max, num_atoms)


def q_values(logits: tf.Tensor, support: tf.Tensor | None) -> tf.Tensor:
    """[..., N] logits -> [...] expected values sum_i softmax_i z_i.

    With `support` None the last axis (N = 1) holds the value itself.
    """
    if support is None:
        return tf.squeeze(logits, axis=-1)
    return tf.linalg.matvec(tf.nn.softmax(logits), support)


def project(
    probabilities: tf.Tensor, rewards: tf.Tensor, discounts: tf.Tensor, support: tf.Tensor
) -> tf.Tensor:
    """Projects the distribution on r + gamma^n z onto z (Bellemare et al. 2017, equation 7).

    Each shifted atom, clipped to the support, gives its mass to its two neighbours by linear
    interpolation: a dense [N, N] triangular kernel for each example, without scatters.

    Args:
      probabilities: [B, N] on the support's atoms.
      rewards: [B].
      discounts: [B].
      support: [N], evenly spaced.

    Returns:
      [B, N].
    """
    shifted = rewards[:, None] + discounts[:, None] * support
    shifted = tf.clip_by_value(shifted, support[0], support[-1])
    distance = tf.abs(shifted[:, None, :] - support[:, None]) / (support[1] - support[0])
    return tf.linalg.matvec(tf.nn.relu(1 - distance), probabilities)


def c51_cql_loss(
    logits: tf.Tensor,
    actions: tf.Tensor,
    next_target_logits: tf.Tensor,
    rewards: tf.Tensor,
    discounts: tf.Tensor,
    support: tf.Tensor,
    cql_alpha: float,
    next_online_logits: tf.Tensor | None = None,
) -> Losses:
    """C51 cross-entropy plus CQL on expected values (§3, equation 1; §4).

    td = -sum_i m_i log p_i(s, a) with m the projection of r + gamma^n Z_theta'(s', a*), and
    a* = argmax_a E Z(s', a); cql = log sum_a exp Q(s, a) - Q(s, a_data), unweighted.

    Args:
      logits: float32 [B, A, N], online network at s.
      actions: int32 [B], of the data.
      next_target_logits: float32 [B, A, N], target network at s'.
      rewards: float32 [B].
      discounts: float32 [B].
      support: float32 [N].
      cql_alpha: alpha.
      next_online_logits: float32 [B, A, N], online network at s'; where given it chooses a*
        (double Q-learning).

    Returns:
      Losses, each float32 [B].
    """
    next_actions = _best_actions(next_target_logits, next_online_logits, support)
    next_probabilities = tf.nn.softmax(tf.gather(next_target_logits, next_actions, batch_dims=1))
    target = tf.stop_gradient(project(next_probabilities, rewards, discounts, support))
    log_p = tf.nn.log_softmax(tf.gather(logits, actions, batch_dims=1))
    td = -tf.reduce_sum(target * log_p, axis=-1)
    return _with_cql(td, q_values(logits, support), actions, cql_alpha)


def _best_actions(
    next_target_logits: tf.Tensor, next_online_logits: tf.Tensor | None, support: tf.Tensor | None
) -> tf.Tensor:
    """argmax_a Q(s', a) int32 [B], by the online network where it is given."""
    chooser = next_target_logits if next_online_logits is None else next_online_logits
    return tf.argmax(q_values(chooser, support), axis=-1, output_type=tf.int32)


def _with_cql(td: tf.Tensor, q: tf.Tensor, actions: tf.Tensor, cql_alpha: float) -> Losses:
    """Adds the CQL term on q [B, A] to td [B]."""
    cql = tf.reduce_logsumexp(q, axis=-1) - tf.gather(q, actions, batch_dims=1)
    return Losses(td, cql, td + cql_alpha * cql)
