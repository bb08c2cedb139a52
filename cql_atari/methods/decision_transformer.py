"""The multi-game decision transformer (Lee et al. 2022) and its cloning twin without returns."""

from __future__ import annotations

import tensorflow as tf

from cql_atari.networks.transformer import NUM_RETURNS, Logits, Tokens

# 1 / classes, as the notebook's loss has it: it means over classes, of which it has 120, 18 and 4.
CLASS_WEIGHTS = (1 / 120, 1 / 18, 1 / 4)
BEST_OF = 128  # the notebook's samples of the return, of which it takes the highest ...
RETURN_SCALE = 0.75  # ... after scaling their logits
EXCLUDED = -1e9  # a log-probability that is never drawn, but finite


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


def draw_return(logits: tf.Tensor, uniform: tf.Tensor, *, kappa: float, best_of: int) -> tf.Tensor:
    """Draws a return's bin as an expert would have it (section 3.4).

    log P(R | expert) = log P(R) + kappa (R - low) / (high - low) + constant. Of several draws the
    highest has the distribution function F^n, so that one uniform number does.

    Args:
      logits: [N, 121] of P(R).
      uniform: [N], in [0, 1).
      kappa: how strongly high returns are preferred; 0: not at all.
      best_of: n.

    Returns:
      int32 [N].
    """
    bins = tf.linspace(0.0, 1.0, NUM_RETURNS)
    distribution = tf.cumsum(tf.nn.softmax(logits + kappa * bins), axis=-1)
    wanted = distribution[:, -1:] * tf.cast(uniform[:, None], tf.float32) ** (1 / best_of)
    drawn = tf.reduce_sum(tf.cast(distribution <= wanted, tf.int32), axis=-1)
    return tf.minimum(drawn, NUM_RETURNS - 1)


def score_actions(
    logits: tf.Tensor, available: tf.Tensor, noise: tf.Tensor, *, upper_half: bool
) -> tf.Tensor:
    """Scores whose argmax is a draw of the softmax over a game's actions (the Gumbel trick).

    Args:
      logits: [N, 18].
      available: bool [N, 18], the actions that the row's game has.
      noise: [N, 18], uniform in [0, 1).
      upper_half: draw from the better half of the game's actions only; of an odd number it has one
        more.

    Returns:
      float32 [N, 18].
    """
    logits = tf.where(available, logits, EXCLUDED)
    if upper_half:
        counts = tf.reduce_sum(tf.cast(available, tf.int32), axis=-1)
        best_first = tf.sort(logits, axis=-1, direction="DESCENDING")
        least = tf.gather(best_first, (counts - 1) // 2, batch_dims=1)
        logits = tf.where(logits >= least[:, None], logits, EXCLUDED)
    tiny = tf.constant(1e-20)  # log 0 is not finite
    return tf.nn.log_softmax(logits) - tf.math.log(-tf.math.log(tf.maximum(noise, tiny)))
