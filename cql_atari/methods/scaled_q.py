"""The agent: networks + objective behind TF-Agents' `TFAgent`. One `train` is one gradient step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.policies import tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step, time_step

from cql_atari.core import games as games_lib
from cql_atari.core.settings import Loss, Optimizer
from cql_atari.core.types import FRAME_SHAPE, NUM_ACTIONS, STACK, Batch, Losses
from cql_atari.methods import losses
from cql_atari.networks.q_network import QNetwork


class Objective(NamedTuple):
    """What the network's outputs mean and how they are trained.

    Attributes:
      num_atoms: outputs an action.
      q_values: logits [B, A, N] -> Q-values [B, A].
      loss: (logits, actions, next_target_logits, rewards, discounts, next_online_logits=None,
        available=None) -> Losses, per example.
      bootstraps: whether the loss reads the successor's logits.
      double_q: whether it also reads the online network's logits there.
    """

    num_atoms: int
    q_values: Callable[[tf.Tensor], tf.Tensor]
    loss: Callable[..., Losses]
    bootstraps: bool = True
    double_q: bool = False


def make_objective(config: Loss) -> Objective:
    """The objective that a configuration names."""
    if config.kind == "cloning":

        def cloning(logits, actions, *_, available=None, **__):
            return losses.behaviour_cloning_loss(logits[..., 0], actions, available)

        return Objective(1, lambda logits: logits[..., 0], cloning, bootstraps=False)
    if config.kind == "mse":
        loss = functools.partial(losses.mse_cql_loss, cql_alpha=config.cql_alpha)
        return Objective(1, lambda logits: logits[..., 0], loss, double_q=config.double_q)
    # C51's atoms are points from end to end; HL-Gauss' are the centres of bins that tile the range.
    cql_loss, atoms = {
        "c51": (losses.c51_cql_loss, losses.support),
        "hl_gauss": (losses.hl_gauss_cql_loss, losses.bin_centres),
    }[config.kind]
    support = atoms(-config.v_max, config.v_max, config.num_atoms)
    return Objective(
        num_atoms=config.num_atoms,
        q_values=functools.partial(losses.q_values, support=support),
        loss=functools.partial(cql_loss, support=support, cql_alpha=config.cql_alpha),
        double_q=config.double_q,
    )


def make_optimizers(
    config: Optimizer, network: QNetwork
) -> list[tf.keras.optimizers.legacy.Optimizer]:
    """Adam of everything trainable; a second one for an encoder with a rate of its own.

    Their slots exist at once, so that restoring a checkpoint can be checked to be whole.
    """
    encoder = network.encoder.trainable_variables
    rest = network.feed_forward.trainable_variables + network.heads.trainable_variables
    if config.encoder_learning_rate is None:
        parts = [(config.learning_rate, encoder + rest)]
    else:
        parts = [(config.learning_rate, rest), (config.encoder_learning_rate, encoder)]
    optimizers = []
    for rate, variables in parts:
        if variables:  # a frozen encoder has none
            optimizers.append(tf.keras.optimizers.legacy.Adam(rate, epsilon=config.epsilon))
            optimizers[-1]._create_all_weights(variables)
    return optimizers


class GreedyPolicy(tf_policy.TFPolicy):
    """argmax of Q over the game's minimal action set; observations are {"frames", "game"}."""

    def __init__(self, network: QNetwork, objective: Objective, games: Sequence[str]):
        observation = {
            "frames": tf.TensorSpec((STACK, *FRAME_SHAPE), tf.uint8),
            "game": tf.TensorSpec((), tf.int32),
        }
        super().__init__(
            time_step.time_step_spec(observation),
            tensor_spec.BoundedTensorSpec((), tf.int32, 0, NUM_ACTIONS - 1),
        )
        self._network = network
        self._objective = objective
        self._unused = tf.constant(~games_lib.action_mask(games))

    def _variables(self):
        return self._network.variables

    def _action(self, time_step, policy_state, seed):
        del seed
        frames, game = time_step.observation["frames"], time_step.observation["game"]
        q_values = self._objective.q_values(self._network(frames, game))
        q_values = tf.where(tf.gather(self._unused, game), q_values.dtype.min, q_values)
        return policy_step.PolicyStep(
            tf.argmax(q_values, -1, output_type=tf.int32), policy_state, ()
        )


class ScaledQAgent(tf_agent.TFAgent):
    """Multi-game offline Q-learning: one trunk, one head a game, a hard-copied target network.

    Args:
      network: the online network.
      target_network: same shape, for bootstrapped targets; None where the objective needs none.
      optimizers: as `make_optimizers`; the first one counts the steps.
      objective: see `make_objective`.
      games: the heads' games, in order.
      batch_size: transitions a gradient step over all replicas; the loss is their mean.
      n_step: distance of the successor state in a batch's frames.
      transitions_per_draw: rows of a batch that share a game.
      mask_unused_actions: whether the loss knows only the actions that a row's game has.
    """

    def __init__(
        self,
        network: QNetwork,
        target_network: QNetwork | None,
        optimizers: Sequence[tf.keras.optimizers.Optimizer],
        objective: Objective,
        games: Sequence[str],
        *,
        batch_size: int,
        n_step: int,
        transitions_per_draw: int,
        mask_unused_actions: bool = True,
    ):
        self.network = network
        self.target_network = target_network
        self.optimizer = optimizers[0]
        self.encoder_optimizer = optimizers[1] if len(optimizers) > 1 else None
        self.objective = objective
        self.games = tuple(games)
        self._batch_size = batch_size
        self._n_step = n_step
        self._per_draw = transitions_per_draw
        mask = games_lib.action_mask(games)
        self._available = tf.constant(mask if mask_unused_actions else np.ones_like(mask))
        policy = GreedyPolicy(network, objective, games)
        super().__init__(
            policy.time_step_spec,
            policy.action_spec,
            policy,
            policy,
            train_sequence_length=None,
            train_step_counter=self.optimizer.iterations,
        )

    def _initialize(self):
        self.update_target()

    def update_target(self) -> None:
        """Copies the online network into the target network [App. B.3: every 2,000 steps]."""
        if self.target_network is not None:
            for target, online in zip(self.target_network.variables, self.network.variables):
                target.assign(online)

    def losses(self, batch: Batch) -> tuple[Losses, tf.Tensor]:
        """Per-example losses [B] and the Q-value of each data action [B]; no update."""
        heads = batch.games[:: self._per_draw]
        state, successor = batch.frames[:, :STACK], batch.frames[:, self._n_step :]
        logits = self.network(state, heads)
        next_target = next_online = None
        if self.target_network is not None:
            next_target = tf.stop_gradient(self.target_network(successor, heads))
        if self.objective.double_q:
            next_online = tf.stop_gradient(self.network(successor, heads))
        parts = self.objective.loss(
            logits, batch.actions, next_target, batch.rewards, batch.discounts,
            next_online_logits=next_online, available=tf.gather(self._available, batch.games),
        )  # fmt: skip
        q_values = self.objective.q_values(logits)
        return parts, tf.gather(q_values, batch.actions, axis=1, batch_dims=1)

    def gradients(self, batch: Batch) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """This replica's share of the gradient of the global mean, and per-game sums [G].

        The shares add up over replicas: the loss is divided by the global batch, not the local.
        """
        variables = self.network.trainable_variables
        with tf.GradientTape() as tape:
            parts, q_data = self.losses(batch)
            loss = tf.reduce_sum(parts.total) / self._batch_size
        gradients = tape.gradient(loss, variables)
        columns = {"count": tf.ones_like(q_data), "q_data": q_data, **parts._asdict()}
        sums = {
            name: tf.math.unsorted_segment_sum(column, batch.games, len(self.games))
            for name, column in columns.items()
        }
        return gradients, sums

    def _train(self, experience: Batch, weights: Any = None):
        del weights
        gradients, sums = self.gradients(experience)
        replica = tf.distribute.get_replica_context()
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        pairs = list(zip(gradients, self.network.trainable_variables))
        if self.encoder_optimizer is not None:
            count = len(self.network.encoder.trainable_variables)  # they come first
            self.encoder_optimizer.apply_gradients(
                pairs[:count], experimental_aggregate_gradients=False
            )
            pairs = pairs[count:]
        self.optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
        loss = tf.reduce_sum(sums["total"]) / self._batch_size
        return tf_agent.LossInfo(
            loss, {"sums": sums, "gradient_norm": tf.linalg.global_norm(gradients)}
        )
