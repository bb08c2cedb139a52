"""What several methods share: networks and optimizers from the settings, a seed for every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from cql_atari.core.settings import Config
from cql_atari.methods import optimizers as optimizers_lib
from cql_atari.methods.method import Learner, ParameterGroup
from cql_atari.networks.q_network import QNetwork, build_q_network


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


def make_parameter_groups(config: Config, network: QNetwork) -> tuple[ParameterGroup, ...]:
    """All trainable variables with an optimizer; two groups, where the encoder has its own rate."""
    encoder = network.encoder.trainable_variables
    known = {id(variable) for variable in encoder}
    rest = [v for v in network.trainable_variables if id(v) not in known]
    encoder_rate = config.optimizer.encoder_learning_rate
    if encoder_rate is None:
        rates = [(config.optimizer.learning_rate, encoder + rest)]
    else:
        rates = [(config.optimizer.learning_rate, rest), (encoder_rate, encoder)]
    # A frozen encoder has no variables.
    return tuple(make_parameter_group(config, *pair) for pair in rates if pair[1])


def make_parameter_group(
    config: Config, rate: float, variables: list[tf.Variable]
) -> ParameterGroup:
    """The configured optimizer of some variables.

    Its moments exist at once, so that restoring a checkpoint can be checked to be whole.

    Args:
      config: the run's.
      rate: learning rate after the warm-up.
      variables: what it trains.
    """
    chosen = config.optimizer
    peak: Any = rate
    if chosen.warmup_steps or chosen.cosine:
        end = config.train.steps if chosen.cosine else None
        peak = optimizers_lib.RateSchedule(rate, chosen.warmup_steps, end)
    options: dict[str, Any] = {"epsilon": chosen.epsilon, "beta_2": chosen.beta_2}
    make: Callable[..., Any] = tf.keras.optimizers.legacy.Adam
    if chosen.kind == "lamb" or chosen.weight_decay:
        make = optimizers_lib.Lamb if chosen.kind == "lamb" else optimizers_lib.AdamW
        options["weight_decay"] = chosen.weight_decay
    optimizer = make(peak, **options)
    optimizer._create_all_weights(variables)
    return ParameterGroup(optimizer, variables)


def make_learner(
    config: Config,
    network: tf.keras.Model,
    groups: tuple[ParameterGroup, ...],
    loss: Callable[[Any], dict[str, tf.Tensor]],
) -> Learner:
    """What trains one network; a checkpoint holds the network and its optimizers.

    Args:
      config: the run's.
      network: with an encoder or without.
      groups: its variables that are trained; the second group, if any, is the encoder's.
      loss: as `Learner.loss`.
    """
    optimizers = (group.optimizer for group in groups)
    return Learner(
        config.data.games,
        config.batch_size,
        loss,
        groups,
        {"network": network, **dict(zip(("optimizer", "encoder_optimizer"), optimizers))},
        clip_norm=config.optimizer.clip_norm,
    )


def random_seed(config: Config, group: ParameterGroup, salt: int) -> tf.Tensor:
    """A seed int64 [2] that differs from step to step, replica to replica and salt to salt.

    It depends on nothing else than the run's seed, so that a resumed run draws the same.
    """
    seed = tf.constant([config.train.seed % 2**62, salt], tf.int64)
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    for number in (group.optimizer.iterations, replica):
        seed = tf.random.experimental.stateless_fold_in(seed, tf.cast(number, tf.int64))
    return seed
