"""Losses as pure functions of tensors: C51, MSE and HL-Gauss with CQL, and behaviour cloning.

Symbols: Q_theta the online network, Q_theta' the target network, z the support's atoms, r the
n-step reward, gamma^n the discount (0 after a terminal), alpha the weight of CQL. Arithmetic is
float32, or float64 where the logits are.
"""

from __future__ import annotations

import tensorflow as tf

from cql_atari.core.types import Array, Losses

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
    next_actions = tf.argmax(_only(q_values(chooser, support), available), axis=-1)
    next_probabilities = tf.nn.softmax(_at(next_logits, next_actions))
    return project(next_probabilities, rewards, discounts, support)


def hl_gauss_target(  # noqa: PLR0917
    next_logits: tf.Tensor,
    chooser: tf.Tensor,
    rewards: tf.Tensor,
    discounts: tf.Tensor,
    support: tf.Tensor,
    available: tf.Tensor,
) -> tf.Tensor:
    """The histogram of r + gamma^n Q_theta'(s', a*), [B, N]; arguments as of `c51_target`."""
    next_actions = tf.argmax(_only(q_values(chooser, support), available), axis=-1)
    values = rewards + discounts * _at(q_values(next_logits, support), next_actions)
    return gaussian_histogram(values, support)


def c51_cql_loss(  # noqa: PLR0917
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
    """C51 cross-entropy plus CQL on expected values (section 3, equation 1; section 4).

    td = -sum_i m_i log p_i(s, a) with m the projection of r + gamma^n Z_theta'(s', a*) and
    a* = argmax_a E Z_theta'(s', a); cql = log sum_a exp Q(s, a) - Q(s, a_data), unweighted.

    Args:
      logits: [B, A, N], online network at s.
      actions: int [B], of the data.
      next_target_logits: [B, A, N], target network at s'.
      rewards: [B].
      discounts: [B].
      support: [N], see `support`.
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
    target = c51_target(next_logits, chooser, rewards, discounts, support, available)
    td = _cross_entropy(target, _at(logits, actions))
    return _with_cql(td, q_values(logits, support), actions, cql_alpha, available)


def hl_gauss_cql_loss(  # noqa: PLR0917
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
    """HL-Gauss cross-entropy ("Stop Regressing", arXiv 2403.03950, section 3.1) plus CQL.

    The scalar target y = r + gamma^n Q_theta'(s', a*) becomes a Gaussian histogram over the bins;
    Q is the expected bin centre. Arguments, result and errors are those of `c51_cql_loss`, but
    `support` holds bin centres, see `bin_centres` (in that paper 51 bins on +-10).
    """
    logits, actions, next_logits, chooser, rewards, discounts, available = _checked(
        logits, actions, next_target_logits, rewards, discounts,
        chooser=next_online_logits, available=available,
    )  # fmt: skip
    support = _floats("support", support, logits.shape[2:], logits.dtype)
    target = hl_gauss_target(next_logits, chooser, rewards, discounts, support, available)
    td = _cross_entropy(target, _at(logits, actions))
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

    Arguments, result and errors are those of `c51_cql_loss`, but "logits" are the Q-values
    themselves, [B, A, 1], as a network with one atom gives them.
    """
    logits, actions, next_logits, chooser, rewards, discounts, available = _checked(
        logits, actions, next_target_logits, rewards, discounts,
        chooser=next_online_logits, available=available,
    )  # fmt: skip
    logits.shape.assert_is_compatible_with([None, None, 1])
    q, next_q = logits[..., 0], next_logits[..., 0]
    values = rewards + discounts * _at(
        next_q, tf.argmax(_only(chooser[..., 0], available), axis=-1)
    )
    td = tf.square(tf.stop_gradient(values) - _at(q, actions))
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


def _at(values: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """values [B, A, ...] of each row's action: [B, ...]."""
    return tf.gather(values, actions, batch_dims=1)


def _cross_entropy(target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """-sum_i target_i log softmax_i(logits), [B, N] -> [B]; no gradient reaches the target."""
    return -tf.reduce_sum(tf.stop_gradient(target) * tf.nn.log_softmax(logits), axis=-1)


def _only(q: tf.Tensor, available: tf.Tensor) -> tf.Tensor:
    """q [B, A] with the actions that a game doesn't have out of reach of argmax and softmax."""
    return tf.where(available, q, q.dtype.min)


def _log_sum_minus_data(q: tf.Tensor, actions: tf.Tensor, available: tf.Tensor) -> tf.Tensor:
    """log sum_a exp q(a) - q(a_data), [B, A] -> [B]."""
    found = tf.reduce_logsumexp(_only(q, available), axis=-1) - _at(q, actions)
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
