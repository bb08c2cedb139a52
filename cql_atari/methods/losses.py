"""Losses as pure functions of tensors: C51, MSE, HL-Gauss, two-hot with CQL, and cloning.

Symbols: Q_theta the online network, Q_theta' the target network, z the support's atoms, r the
n-step reward, gamma^n the discount (0 after a terminal), alpha the weight of CQL. Arithmetic is
float32, or float64 where the logits are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from cql_atari.core.types import Array
from cql_atari.methods.distributions import at, mask_actions, q_values


class Losses(NamedTuple):
    """Per-example parts of a loss, each [B]; total = td + alpha * cql."""

    td: tf.Tensor
    cql: tf.Tensor
    total: tf.Tensor


def categorical_cql_loss(  # noqa: PLR0917
    make_target: Callable[..., tf.Tensor],
    logits: Array,
    actions: Array,
    next_target_logits: Array,
    rewards: Array,
    discounts: Array,
    support: Array,
    cql_alpha: float,
    next_online_logits: Array | None = None,
    available: Array | None = None,
) -> Losses:
    """Cross-entropy with a target distribution, plus CQL on expected values (sections 3 and 4).

    td = -sum_i m_i log p_i(s, a) with m the target; a* = argmax_a E Z_theta'(s', a);
    cql = log sum_a exp Q(s, a) - Q(s, a_data), unweighted.

    Args:
      make_target: what makes m: `distributions.c51_target` (equation 1), `hl_gauss_target` or
        `two_hot_target`.
      logits: [B, A, N], online network at s.
      actions: int [B], of the data.
      next_target_logits: [B, A, N], target network at s'.
      rewards: [B].
      discounts: [B].
      support: [N], what the outputs stand for, see `distributions.support` and `bin_centres`.
      cql_alpha: alpha.
      next_online_logits: [B, A, N], online network at s'; where given it chooses a* (double Q).
      available: bool [B, A], the actions that the row's game has: only these can be a*, and only
        these are summed in the CQL term. None: all.

    Returns:
      Losses, each [B].

    Raises:
      ValueError: for shapes that don't fit each other.
      TypeError: for dtypes that don't fit.
    """
    logits, actions, next_logits, chooser, rewards, discounts, available = _checked(
        logits, actions, next_target_logits, rewards, discounts,
        chooser=next_online_logits, available=available,
    )  # fmt: skip
    support = _floats("support", support, logits.shape[2:], logits.dtype)
    target = make_target(next_logits, chooser, rewards, discounts, support, available)
    td = _cross_entropy(target, at(logits, actions))
    return _with_cql(td, q_values(logits, support), actions, cql_alpha, available)


def mse_cql_loss(  # noqa: PLR0917
    logits: Array,
    actions: Array,
    next_target_logits: Array,
    rewards: Array,
    discounts: Array,
    cql_alpha: float,
    next_online_logits: Array | None = None,
    available: Array | None = None,
) -> Losses:
    """td = (r + gamma^n Q_theta'(s', a*) - Q(s, a))^2 plus CQL (the MSE variant, section 4).

    For arguments, result and errors see `categorical_cql_loss`, but "logits" are the Q-values
    themselves, [B, A, 1], as a network with one atom gives them.
    """
    logits, actions, next_logits, chooser, rewards, discounts, available = _checked(
        logits, actions, next_target_logits, rewards, discounts,
        chooser=next_online_logits, available=available,
    )  # fmt: skip
    logits.shape.assert_is_compatible_with([None, None, 1])
    q, next_q = logits[..., 0], next_logits[..., 0]
    next_actions = tf.argmax(mask_actions(chooser[..., 0], available), axis=-1)
    values = rewards + discounts * at(next_q, next_actions)
    td = tf.square(tf.stop_gradient(values) - at(q, actions))
    return _with_cql(td, q, actions, cql_alpha, available)


def behaviour_cloning_loss(
    logits: Array, actions: Array, available: Array | None = None
) -> tf.Tensor:
    """-log softmax(logits)[a_data].

    Args:
      logits: [B, A].
      actions: int [B].
      available: bool [B, A], the actions that the row's game has; the softmax is over these.
        None: all.

    Returns:
      [B].
    """
    logits = _floats("logits", logits, [None, None])
    actions = _integers("actions", actions, logits.shape[:1])
    return _log_sum_minus_data(logits, actions, _booleans(available, logits.shape))


def _cross_entropy(target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """-sum_i target_i log softmax_i(logits), [B, N] -> [B]; no gradient reaches the target."""
    return -tf.reduce_sum(tf.stop_gradient(target) * tf.nn.log_softmax(logits), axis=-1)


def _log_sum_minus_data(q: tf.Tensor, actions: tf.Tensor, available: tf.Tensor) -> tf.Tensor:
    """log sum_a exp q(a) - q(a_data), [B, A] -> [B]."""
    found = tf.reduce_logsumexp(mask_actions(q, available), axis=-1) - at(q, actions)
    found.shape.assert_is_compatible_with(actions.shape)
    return found


def _with_cql(
    td: tf.Tensor, q: tf.Tensor, actions: tf.Tensor, cql_alpha: float, available: tf.Tensor
) -> Losses:
    """Adds the CQL term of q [B, A] to td [B] (Kumar et al. 2020, equation 4)."""
    cql = _log_sum_minus_data(q, actions, available)
    td.shape.assert_is_compatible_with(actions.shape)
    return Losses(td, cql, td + cql_alpha * cql)


def _checked(
    logits: Array,
    actions: Array,
    next_target_logits: Array,
    rewards: Array,
    discounts: Array,
    *,
    chooser: Array | None,
    available: Array | None,
) -> tuple[tf.Tensor, ...]:
    """(logits, actions, next_target_logits, chooser, rewards, discounts, available), checked.

    The chooser, the logits that choose a*, is `next_target_logits` where None. Without these
    checks some wrong shapes would broadcast silently.
    """
    logits = _floats("logits", logits, [None, None, None])
    shape, batch, dtype = logits.shape, logits.shape[:1], logits.dtype
    next_target_logits = _floats("next_target_logits", next_target_logits, shape, dtype)
    if chooser is None:
        chooser = next_target_logits
    chooser = _floats("next_online_logits", chooser, shape, dtype)
    rewards = _floats("rewards", rewards, batch, dtype)
    discounts = _floats("discounts", discounts, batch, dtype)
    actions = _integers("actions", actions, batch)
    available = _booleans(available, shape[:2])
    return logits, actions, next_target_logits, chooser, rewards, discounts, available


def _floats(
    name: str, value: Array, shape: tf.TensorShape, dtype: tf.DType | None = None
) -> tf.Tensor:
    """`value` as a tensor of `dtype`; without one, float64 stays and the rest becomes float32."""
    value = tf.convert_to_tensor(value)
    if not value.dtype.is_floating:
        raise TypeError(f"{name} must hold floats, not {value.dtype.name}.")
    _check_shape(name, value, shape)
    return tf.cast(value, dtype or (tf.float64 if value.dtype == tf.float64 else tf.float32))


def _integers(name: str, value: Array, shape: tf.TensorShape) -> tf.Tensor:
    value = tf.convert_to_tensor(value)
    if not value.dtype.is_integer:
        raise TypeError(f"{name} must hold integers, not {value.dtype.name}.")
    _check_shape(name, value, shape)
    return value


def _booleans(value: Array | None, shape: tf.TensorShape) -> tf.Tensor:
    """`available` as a tensor; where None, a True that fits every shape."""
    if value is None:
        return tf.constant(True)
    value = tf.convert_to_tensor(value, tf.bool)
    _check_shape("available", value, shape)
    return value


def _check_shape(name: str, value: tf.Tensor, shape: tf.TensorShape) -> None:
    if not value.shape.is_compatible_with(shape):
        raise ValueError(f"{name} must have shape {shape}, not {value.shape}.")
