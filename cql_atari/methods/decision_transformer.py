"""The multi-game decision transformer (Lee et al. 2022) and its cloning twin without returns."""

from __future__ import annotations

import tensorflow as tf

from cql_atari.core import games as games_lib
from cql_atari.core.settings import Config
from cql_atari.core.types import Policy, SequenceBatch, UserError
from cql_atari.methods import augmentation, shared
from cql_atari.methods.method import Learner, Method, Sequences
from cql_atari.methods.transformer_policy import EXCLUDED, TransformerPolicy
from cql_atari.networks.transformer import (
    DecisionTransformer,
    Logits,
    Tokens,
    return_bins,
    reward_signs,
)

# 1 / classes, as the notebook's loss has it: it means over classes, of which it has 120, 18 and 4.
CLASS_WEIGHTS = (1 / 120, 1 / 18, 1 / 4)


def make(config: Config) -> Method:
    """The decision transformer of a configuration.

    Raises:
      UserError: for an encoder's learning rate, since it has no encoder.
    """
    chosen = config.transformer
    if config.optimizer.encoder_learning_rate is not None:
        raise UserError(
            f"optimizer.encoder_learning_rate = {config.optimizer.encoder_learning_rate} with "
            "train.method = 'decision_transformer', which has no encoder: leave it None."
        )
    network = DecisionTransformer(chosen, config.train.seed, config.network.dtype)
    mask = games_lib.action_mask(config.data.games) | (not config.loss.mask_unused_actions)
    available = tf.constant(mask)

    def learner() -> Learner:
        rate = config.optimizer.learning_rate
        group = shared.make_parameter_group(config, rate, network.trainable_variables)
        augment = augmentation.augmenter(config, group)

        def loss(batch: SequenceBatch) -> dict[str, tf.Tensor]:
            mask, frames, returns, actions, rewards = align(
                batch.mask, augment(batch.frames, 0), batch.returns, batch.actions, batch.rewards
            )
            tokens = Tokens(return_bins(returns), actions, reward_signs(rewards))
            return losses(
                network(frames, tokens, shared.random_seed(config, group, salt=0)),
                tokens,
                mask,
                tf.gather(available, batch.games),
                weights=CLASS_WEIGHTS if chosen.class_weights else (1.0, 1.0, 1.0),
                single_return_token=chosen.single_return_token,
            )

        return shared.make_learner(config, network, (group,), loss)

    def act() -> Policy:
        return Policy(config.data.games, TransformerPolicy(config, network))

    return Method(
        Sequences(chosen.steps),
        network,
        act,
        learner,
        watch=lambda: TransformerPolicy(config, network).watch,
    )


def align(mask: tf.Tensor, *channels: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Moves the real steps of each row to the front, in order: what pads a window follows it.

    A causal network then needs no mask: no real step sees a padded one.

    Args:
      mask: bool [B, T], whether a step is real; false ones come first.
      *channels: [B, T, ...].

    Returns:
      The mask and the channels, moved alike.
    """
    steps = mask.shape[1]
    padded = steps - tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
    order = (tf.range(steps) + padded[:, None]) % steps
    return tuple(tf.gather(channel, order, batch_dims=1) for channel in (mask, *channels))


def losses(
    logits: Logits,
    tokens: Tokens,
    mask: tf.Tensor,
    available: tf.Tensor,
    *,
    weights: tuple[float, float, float],
    single_return_token: bool,
) -> dict[str, tf.Tensor]:
    """Cross-entropies of what follows each token, as means over a row's real steps.

    Args:
      logits: of a window whose real steps come first.
      tokens: of the same window.
      mask: bool [B, T], the real steps.
      available: bool [B, 18], the actions that the row's game has.
      weights: of the return's, the action's and the reward's.
      single_return_token: whether only the first return is trained.

    Returns:
      "loss/return" (not of the cloning twin), "loss/action", "loss/reward", "loss/total" (their
      weighted mean) and "accuracy/action", each float32 [B].
    """
    real = tf.cast(mask, tf.float32)

    def over_steps(values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(values * real, axis=1) / tf.reduce_sum(real, axis=1)

    def entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    known = tf.where(available[:, None], logits.actions, EXCLUDED)
    found = {
        "loss/action": over_steps(entropy(tokens.actions, known)),
        "loss/reward": over_steps(entropy(tokens.rewards, logits.rewards)),
    }
    terms = [weights[1] * found["loss/action"], weights[2] * found["loss/reward"]]
    if logits.returns is not None:
        by_step = entropy(tokens.returns, logits.returns)
        found["loss/return"] = by_step[:, 0] if single_return_token else over_steps(by_step)
        terms.append(weights[0] * found["loss/return"])
    hits = tf.argmax(known, -1, output_type=tf.int32) == tokens.actions
    found["accuracy/action"] = over_steps(tf.cast(hits, tf.float32))
    found["loss/total"] = tf.add_n(terms) / len(terms)
    return found
