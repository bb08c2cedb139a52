"""Behaviour cloning: the network's outputs are logits of the data's actions; there is no target."""

from __future__ import annotations

import tensorflow as tf

from cql_atari.core import games as games_lib
from cql_atari.core.settings import Config
from cql_atari.core.types import STACK, Batch
from cql_atari.methods import augmentation, losses, policy, shared
from cql_atari.methods.method import Learner, Method, Transitions


def make(config: Config) -> Method:
    """Cloning with the Q-network's body and one output an action."""
    network = shared.make_network(config, num_atoms=1)

    def logits(frames: tf.Tensor, games: tf.Tensor) -> tf.Tensor:
        return network(frames, games)[..., 0]

    mask = games_lib.action_mask(config.data.games) | (not config.loss.mask_unused_actions)
    available = tf.constant(mask)

    def learner() -> Learner:
        groups = shared.make_parameter_groups(config, network)
        augment = augmentation.augmenter(config, groups[0])

        def loss(batch: Batch) -> dict[str, tf.Tensor]:
            heads = batch.games[:: config.feed.transitions_per_draw]
            total = losses.behaviour_cloning_loss(
                logits(augment(batch.frames[:, :STACK], 0), heads),
                batch.actions,
                tf.gather(available, batch.games),
            )
            return {"loss/total": total}

        return shared.make_learner(config, network, groups, loss)

    reads = Transitions(config.feed.n_step, config.feed.discount)

    def outputs(frames: tf.Tensor, games: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": logits(frames, games)}

    return Method(
        reads,
        network,
        policy.greedy(outputs, config.data.games),
        learner,
        outputs,
        watch=policy.watching(outputs),
    )
