"""What several methods share: networks and optimizers from the settings, the gradient step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from cql_atari.core.settings import Config
from cql_atari.methods import optimizers as optimizers_lib
from cql_atari.methods.method import Learner, Part
from cql_atari.networks.q_network import QNetwork, build_q_network


class Sums(NamedTuple):
    """What a gradient step tells.

    Attributes:
      by_game: name -> float32 [G], this replica's sums over rows, and "count", the rows.
      gradient_norm: float32 [], global, before it is clipped.
    """

    by_game: dict[str, tf.Tensor]
    gradient_norm: tf.Tensor


def make_network(config: Config, num_atoms: int) -> QNetwork:
    """The network that a configuration names, with `num_atoms` outputs an action."""
    network = build_q_network(
        config.network,
        num_games=len(config.data.games),
        num_atoms=num_atoms,
        seed=config.train.seed,
    )
    network.encoder.trainable = config.optimizer.encoder_learning_rate != 0
    return network


def make_optimizers(config: Config, network: QNetwork) -> tuple[Part, ...]:
    """One optimizer of everything trainable; a second one for an encoder with a rate of its own."""
    encoder = network.encoder.trainable_variables
    known = {id(variable) for variable in encoder}
    rest = [v for v in network.trainable_variables if id(v) not in known]
    encoder_rate = config.optimizer.encoder_learning_rate
    if encoder_rate is None:
        rates = [(config.optimizer.learning_rate, encoder + rest)]
    else:
        rates = [(config.optimizer.learning_rate, rest), (encoder_rate, encoder)]
    # A frozen encoder has no variables.
    return tuple(make_part(config, rate, variables) for rate, variables in rates if variables)


def make_part(config: Config, rate: float, variables: list[tf.Variable]) -> Part:
    """The configured optimizer of some variables.

    Its moments exist at once, so that restoring a checkpoint can be checked to be whole.
    """
    chosen = config.optimizer
    peak: Any = rate
    if chosen.warmup_steps or chosen.cosine:
        end = config.train.steps if chosen.cosine else None
        peak = optimizers_lib.Schedule(rate, chosen.warmup_steps, end)
    options: dict[str, Any] = {"epsilon": chosen.epsilon, "beta_2": chosen.beta_2}
    make: Callable[..., Any] = tf.keras.optimizers.legacy.Adam
    if chosen.kind == "lamb" or chosen.weight_decay:
        make = optimizers_lib.Lamb if chosen.kind == "lamb" else optimizers_lib.AdamW
        options["weight_decay"] = chosen.weight_decay
    optimizer = make(peak, **options)
    optimizer._create_all_weights(variables)
    return Part(optimizer, variables)


def make_learner(
    config: Config,
    network: tf.keras.Model,
    optimizers: tuple[Part, ...],
    loss: Callable[[Any], dict[str, tf.Tensor]],
) -> Learner:
    """What trains one network; a checkpoint holds that and its optimizers."""
    return Learner(
        config.data.games,
        config.batch_size,
        loss,
        optimizers,
        {"network": network, **saved_optimizers(optimizers)},
        clip_norm=config.optimizer.clip_norm,
    )


def saved_optimizers(parts: tuple[Part, ...]) -> dict[str, tf.keras.optimizers.Optimizer]:
    """The optimizers by the names that checkpoints have for them."""
    return dict(zip(("optimizer", "encoder_optimizer"), (part.optimizer for part in parts)))


def random_seed(config: Config, part: Part, salt: int) -> tf.Tensor:
    """A seed int64 [2] that differs from step to step, replica to replica and salt to salt.

    It is a function of the run's seed and these, so that a resumed run draws what it would have.
    """
    seed = tf.constant([config.train.seed % 2**62, salt], tf.int64)
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    for number in (part.optimizer.iterations, replica):
        seed = tf.random.experimental.stateless_fold_in(seed, tf.cast(number, tf.int64))
    return seed


def gradients(learner: Learner, batch: Any) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
    """This replica's share of the gradient of the global mean, and its sums by game.

    The shares add up over replicas: the loss is divided by the global batch, not the local one.
    """
    variables = [variable for part in learner.parts for variable in part.variables]
    with tf.GradientTape() as tape:
        columns = learner.loss(batch)
        loss = tf.reduce_sum(columns["loss/total"]) / learner.batch_size
    found = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    columns = {"count": tf.ones_like(columns["loss/total"]), **columns}
    sums = {
        name: tf.math.unsorted_segment_sum(column, batch.games, len(learner.games))
        for name, column in columns.items()
    }
    return found, sums


def gradient_step(learner: Learner, batch: Any) -> Sums:
    """One step of all optimizers on one replica's rows of a batch; all of it compiles by XLA."""
    found, sums = gradients(learner, batch)
    replica = tf.distribute.get_replica_context()
    found = replica.all_reduce(tf.distribute.ReduceOp.SUM, found)
    norm = tf.linalg.global_norm(found)
    if learner.clip_norm is not None:
        found, _ = tf.clip_by_global_norm(found, learner.clip_norm, norm)
    rest = iter(found)
    for optimizer, variables in learner.parts:
        pairs = [(next(rest), variable) for variable in variables]
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
    return Sums(sums, norm)
