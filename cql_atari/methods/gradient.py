"""The gradient step, the same for every method."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from cql_atari.methods.method import Learner
from cql_atari.system import pieces


class Sums(NamedTuple):
    """The result of a gradient step.

    Attributes:
      by_game: name -> float32 [G], this replica's sums over rows, and "count", the rows.
      gradient_norm: float32 [], global, before it is clipped.
    """

    by_game: dict[str, tf.Tensor]
    gradient_norm: tf.Tensor


def gradients(learner: Learner, batch: Any) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
    """This replica's share of the gradient of the global mean, and its sums by game.

    The shares add up over replicas: the loss is divided by the global batch, not the local one.
    """
    variables = [v for group in learner.parameter_groups for v in group.variables]
    zero = tf.UnconnectedGradients.ZERO
    with pieces.compiled():
        with tf.GradientTape() as tape:
            columns = learner.loss(batch)
            loss = tf.reduce_sum(columns["loss/total"]) / learner.batch_size
        found = tape.gradient(loss, variables, unconnected_gradients=zero)
    columns = {"count": tf.ones_like(columns["loss/total"]), **columns}
    sums = {
        name: tf.math.unsorted_segment_sum(column, batch.games, len(learner.games))
        for name, column in columns.items()
    }
    return found, sums


def gradient_step(learner: Learner, batch: Any) -> Sums:
    """One step of all optimizers on one replica's rows of a batch; XLA can compile all of it."""
    found, sums = gradients(learner, batch)
    replica = tf.distribute.get_replica_context()
    found = replica.all_reduce(tf.distribute.ReduceOp.SUM, found)
    norm = tf.linalg.global_norm(found)
    if learner.clip_norm is not None:
        found, _ = tf.clip_by_global_norm(found, learner.clip_norm, norm)
    rest = iter(found)
    for optimizer, variables in learner.parameter_groups:
        pairs = [(next(rest), variable) for variable in variables]
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
    return Sums(sums, norm)
