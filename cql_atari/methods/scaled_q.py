"""Scaled Q-learning: C51, MSE, HL-Gauss or two-hot with CQL, on TF-Agents' `TFAgent`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
from tf_agents.agents import tf_agent

from cql_atari.core import games as games_lib
from cql_atari.core.settings import Config, Loss
from cql_atari.core.types import STACK, Batch, UserError
from cql_atari.methods import (
    augmentation,
    distributions,
    gradient,
    losses,
    measures,
    policy,
    shared,
)
from cql_atari.methods.method import Method, Transitions, crossed
from cql_atari.networks.q_network import QNetwork


class Objective(NamedTuple):
    """The meaning of the network's outputs, and how they are trained.

    Attributes:
      num_atoms: outputs an action that stand for its value.
      q_values: logits [B, A, N] -> Q-values [B, A].
      loss: (logits, actions, next_target_logits, rewards, discounts, next_online_logits=None,
        available=None) -> Losses, per example.
      target: (next_target_logits, chooser, rewards, discounts, available=) -> target distributions
        [B, N]; None where targets are scalars.
      support: [N], the values that the outputs stand for; None where they are values themselves.
    """

    num_atoms: int
    q_values: Callable[[tf.Tensor], tf.Tensor]
    loss: Callable[..., losses.Losses]
    target: Callable[..., tf.Tensor] | None = None
    support: tf.Tensor | None = None


def make_objective(config: Loss) -> Objective:
    """The objective that a configuration names."""
    if config.kind == "mse":
        loss = functools.partial(losses.mse_cql_loss, cql_alpha=config.cql_alpha)
        return Objective(1, lambda logits: logits[..., 0], loss)
    # C51's atoms are points from end to end; HL-Gauss' are the centres of bins that tile the range.
    kinds: dict[str, tuple[Callable[..., tf.Tensor], Callable[..., tf.Tensor]]] = {
        "c51": (distributions.c51_target, distributions.support),
        "hl_gauss": (distributions.hl_gauss_target, distributions.bin_centres),
        "two_hot": (distributions.two_hot_target, distributions.support),
    }
    target, atoms = kinds[config.kind]
    v_min = -config.v_max if config.v_min is None else config.v_min
    support = atoms(v_min, config.v_max, config.num_atoms)
    return Objective(
        num_atoms=config.num_atoms,
        q_values=functools.partial(distributions.q_values, support=support),
        loss=functools.partial(
            losses.categorical_cql_loss, target, support=support, cql_alpha=config.cql_alpha
        ),
        target=functools.partial(target, support=support),
        support=support,
    )


def make(config: Config) -> Method:
    """The method of a configuration."""
    network, objective = make_network(config), make_objective(config.loss)
    outputs = make_outputs(objective, network)
    return Method(
        Transitions(config.feed.n_step, config.feed.discount),
        network,
        policy.greedy(outputs, config.data.games),
        lambda: make_agent(config, network).learner,
        outputs,
        None if objective.support is None else objective.support.numpy(),
        policy.watching(outputs),
    )


def make_network(config: Config) -> QNetwork:
    """The network: an action's atoms, and behind them the auxiliary cloning's output, if any.

    Raises:
      UserError: where another method is configured, whose networks have no Q-values.
    """
    if config.train.method != "scaled_q":
        raise UserError(
            f"train.method = {config.train.method!r} has no Q-values; 'scaled_q' has. "
            "methods.build.build builds what there is."
        )
    extra = int(config.loss.has_auxiliary_cloning)
    return shared.make_network(config, make_objective(config.loss).num_atoms + extra)


def make_outputs(objective: Objective, network: QNetwork) -> policy.Outputs:
    """`Method.outputs`: Q-values, and distributions where there are any; the auxiliary cloning's
    output has no part in them.
    """

    def outputs(frames: tf.Tensor, games: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = network(frames, games)[..., : objective.num_atoms]
        found = {"q_values": objective.q_values(logits)}
        if objective.support is not None:
            found["distributions"] = tf.nn.softmax(logits)
        return found

    return outputs


def make_agent(config: Config, network: QNetwork | None = None) -> ScaledQAgent:
    """The agent that trains a network (None: a new one) from its present weights."""
    agent = ScaledQAgent(config, network or make_network(config), make_network(config))
    agent.initialize()
    return agent


class ScaledQAgent(tf_agent.TFAgent):
    """Multi-game offline Q-learning: one trunk, one head a game, a hard-copied target network.

    Args:
      config: the run's.
      network: the online network.
      target_network: same shape, for bootstrapped targets.
    """

    def __init__(self, config: Config, network: QNetwork, target_network: QNetwork):
        self.network = network
        self.target_network = target_network
        self.objective = make_objective(config.loss)
        self._config = config
        self._own = tf.constant(games_lib.action_mask(config.data.games))
        self._available = self._own | (not config.loss.mask_unused_actions)
        groups = shared.make_parameter_groups(config, network)
        self._augment = augmentation.augmenter(config, groups[0])
        learner = shared.make_learner(config, network, groups, self.losses)
        saved = {**learner.saved, "target_network": target_network}
        self.learner = learner._replace(
            saved=saved,
            after_steps=self._after_steps,
            warnings=functools.partial(measures.narrow_support, support=self.objective.support),
        )
        outputs = make_outputs(self.objective, network)
        greedy = policy.GreedyPolicy(network, outputs, config.data.games)
        super().__init__(
            greedy.time_step_spec,
            greedy.action_spec,
            greedy,
            greedy,
            train_sequence_length=None,
            train_step_counter=groups[0].optimizer.iterations,
        )

    def _initialize(self):
        self.update_target()

    def _after_steps(self, before: int, now: int) -> None:
        if crossed(self._config.train.target_period, before, now):
            self.update_target()

    def update_target(self) -> None:
        """Copies the online network into the target network [App. B.3: every 2,000 steps]."""
        for target, online in zip(self.target_network.variables, self.network.variables):
            target.assign(online)

    def losses(self, batch: Batch) -> dict[str, tf.Tensor]:
        """The loss's parts and the measures, each float32 [B]; no update."""
        feed = self._config.feed
        heads = batch.games[:: feed.transitions_per_draw]
        state = self._augment(batch.frames[:, :STACK], 0)
        successor = self._augment(batch.frames[:, feed.n_step :], 1)
        num_atoms, cloning = self.objective.num_atoms, self._config.loss.auxiliary_cloning
        outputs = self.network(state, heads)
        logits = outputs[..., :num_atoms]
        next_target = tf.stop_gradient(self.target_network(successor, heads)[..., :num_atoms])
        next_online = None
        if self._config.loss.double_q:
            next_online = tf.stop_gradient(self.network(successor, heads)[..., :num_atoms])
        available = tf.gather(self._available, batch.games)
        found = self.objective.loss(
            logits, batch.actions, next_target, batch.rewards, batch.discounts,
            next_online_logits=next_online, available=available,
        )  # fmt: skip
        named = found._asdict()
        if cloning:
            clone = losses.behaviour_cloning_loss(outputs[..., num_atoms], batch.actions, available)
            named |= {"auxiliary_cloning": clone, "total": found.total + cloning * clone}
        chooser = next_target if next_online is None else next_online
        return {
            **{f"loss/{name}": part for name, part in named.items()},
            **self._measures(batch, tf.stop_gradient(logits), next_target, chooser),
        }

    def _measures(
        self, batch: Batch, logits: tf.Tensor, next_target: tf.Tensor, chooser: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        own, available = (tf.gather(m, batch.games) for m in (self._own, self._available))
        target, pull = None, {}
        if self.objective.target is not None:
            target = self.objective.target(
                next_target, chooser, batch.rewards, batch.discounts, available=available
            )
            pull["cql_pull"] = measures.pull_of_cql(
                distributions.at(logits, batch.actions),
                self.objective.support,
                self._config.loss.cql_alpha,
            )
        return {
            **measures.of_values(self.objective.q_values(logits), batch.actions, batch.games, own),
            **measures.of_targets(self.objective.q_values(chooser), own, available, target),
            **pull,
        }

    def _train(self, experience: Batch, weights: Any = None):
        """One gradient step, as TF-Agents asks for it; the extra is `gradient.Sums`."""
        del weights
        sums = gradient.gradient_step(self.learner, experience)
        loss = tf.reduce_sum(sums.by_game["loss/total"]) / self.learner.batch_size
        return tf_agent.LossInfo(loss, sums)
