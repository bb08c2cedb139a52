"""Measures of a Q-network for the log, each float32 [B]; to add one, add an entry.

They explain a run: whether targets bootstrap from actions that a game doesn't have, whether the
support is too narrow, how far apart actions are, how strong CQL is against TD.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from cql_atari.core.types import NUM_ACTIONS
from cql_atari.methods.distributions import at, mask_actions

TOO_MUCH_AT_ENDS = 0.05


def of_values(
    q: tf.Tensor, actions: tf.Tensor, games: tf.Tensor, own: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Measures of the online network's values in the states of a batch.

    Args:
      q: [B, A].
      actions: int [B], the data's.
      games: int [B], the rows' games.
      own: bool [B, A], the actions that the row's game has.

    Returns:
      q_data: of the data's action.
      q_largest_used: over the game's actions.
      q_largest_unused: over the others; 0 where there are none.
      q_gap: between the game's two best actions.
      greedy_is_datas: 1 where the best of the game's actions is the data's.
      greedy_is_most_frequent: 1 where it is the one that the game's rows of this batch have most
        often. Near 1: the network has learned the majority and nothing about the states.
    """
    mine = mask_actions(q, own)
    greedy = tf.argmax(mine, axis=-1, output_type=actions.dtype)
    best = tf.math.top_k(mine, 2).values
    others = tf.reduce_max(mask_actions(q, ~own), axis=-1)
    return {
        "q_data": at(q, actions),
        "q_largest_used": best[:, 0],
        "q_largest_unused": tf.where(tf.reduce_all(own, axis=-1), tf.zeros_like(others), others),
        "q_gap": best[:, 0] - best[:, 1],
        "greedy_is_datas": tf.cast(greedy == actions, q.dtype),
        "greedy_is_most_frequent": tf.cast(greedy == most_frequent(actions, games), q.dtype),
    }


def most_frequent(actions: tf.Tensor, games: tf.Tensor) -> tf.Tensor:
    """The action that most rows of the same game have: int [B]; of equals the lowest.

    Args:
      actions: int [B].
      games: int [B].
    """
    same_game = tf.cast(games[:, None] == games[None, :], tf.float32)
    counts = tf.matmul(same_game, tf.one_hot(actions, NUM_ACTIONS))
    return tf.argmax(counts, axis=-1, output_type=actions.dtype)


def of_targets(
    chooser: tf.Tensor, own: tf.Tensor, available: tf.Tensor, target: tf.Tensor | None
) -> dict[str, tf.Tensor]:
    """Measures of the targets.

    Args:
      chooser: [B, A], the values at s' whose argmax over `available` is the target's action.
      own: bool [B, A], the actions that the row's game has.
      available: bool [B, A], the actions that the loss knows.
      target: [B, N], the target distributions; None where targets are scalars.

    Returns:
      target_action_unused: 1 where the target's action isn't in the game's set.
      target_at_ends: the share of the target's mass on the first and last atom.
    """
    chosen = tf.argmax(mask_actions(chooser, available), axis=-1)
    found = {"target_action_unused": tf.cast(~at(own, chosen), chooser.dtype)}
    if target is not None:
        found["target_at_ends"] = target[:, 0] + target[:, -1]
    return found


def narrow_support(scalars: Mapping[str, float], support: tf.Tensor | None) -> dict[str, str]:
    """`Learner.warnings`: the games whose returns lie beyond the support.

    Where returns fit, a trained network's targets have next to no mass on the first and last atom;
    an untrained one's have 2 / N of it there, which is no reason to warn.

    Args:
      scalars: of a log line; "target_at_ends/<Game>" among them.
      support: [N]; None where targets are scalars.
    """
    if support is None:
        return {}
    name, most = "target_at_ends/", max(TOO_MUCH_AT_ENDS, 2 / len(support))
    return {
        key: f"{key.removeprefix(name)}: {share:.0%} of the targets' mass is on the ends of the "
        f"support, {support[0]:g} and {support[-1]:g}. Returns beyond them are cut off, so that "
        "the best play looks no better than the rest: widen it with loss.v_max or loss.v_min."
        for key, share in scalars.items()
        if key.startswith(name) and share > most
    }


def pull_of_cql(logits: tf.Tensor, support: tf.Tensor, cql_alpha: float) -> tf.Tensor:
    """alpha times the variance of a distribution: about how far CQL moves a common action's Q.

    Reconstructed by us: near its optimum the TD cross-entropy is (dQ)^2 / (2 variance).

    Args:
      logits: [B, N], of the data's action.
      support: [N].
      cql_alpha: alpha.
    """
    probabilities = tf.nn.softmax(logits)
    mean = tf.linalg.matvec(probabilities, support)
    return cql_alpha * tf.reduce_sum(probabilities * tf.square(support - mean[:, None]), axis=-1)
