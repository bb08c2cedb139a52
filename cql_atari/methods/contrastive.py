"""Contrastive predictive coding (van den Oord et al. 2018) in the form of arXiv 2205.15241, section
4.5: which of the batch's states follows this one, n steps later?

It pre-trains an encoder and does not act.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from cql_atari.core.settings import Config
from cql_atari.core.types import STACK, Array, Batch, UserError
from cql_atari.methods import augmentation, shared
from cql_atari.methods.method import Learner, Method, Transitions
from cql_atari.networks.contrastive import ContrastiveNetwork

_EXCLUDED = -1e9  # the score of what is no candidate
_QUERIES, _NEIGHBOURS, _POOL = 6, 6, 512  # rows and columns of the picture, states to choose from
_GAP = 4  # white pixels between a state and its neighbours


def make(config: Config) -> Method:
    """Contrastive coding of a configuration.

    Raises:
      UserError: for a discount of 0, which looks like an episode's end; and as the network.
    """
    if not config.feed.discount:
        raise UserError(
            "feed.discount = 0 with train.method = 'contrastive': a discount of 0 marks successors "
            "that don't exist; set it above 0. Its size doesn't matter."
        )
    network = ContrastiveNetwork(config.network, config.contrastive.projection, config.train.seed)
    reads = Transitions(config.feed.n_step, config.feed.discount)

    def learner() -> Learner:
        groups = shared.make_parameter_groups(config, network)
        augment = augmentation.augmenter(config, groups[0])

        def loss(batch: Batch) -> dict[str, tf.Tensor]:
            # Each is changed in its own way: a common shift would reveal the pair.
            states = network(augment(batch.frames[:, :STACK], 0))
            successors = network(augment(batch.frames[:, config.feed.n_step :], 1))
            return losses(network.scores(states, successors), batch.discounts > 0)

        return shared.make_learner(config, network, groups, loss)

    @tf.function(autograph=False, reduce_retracing=False)
    def encode(frames: tf.Tensor) -> tf.Tensor:
        return tf.cast(network.encoder(frames), tf.float32)

    def pictures(batch: Batch) -> dict[str, Array]:
        frames = batch.frames[:_POOL, :STACK]
        return {"nearest_neighbours": nearest(frames.numpy(), encode(frames).numpy())}

    return Method(reads, network, None, learner, pictures=pictures)


def losses(scores: tf.Tensor, exists: tf.Tensor) -> dict[str, tf.Tensor]:
    """Cross-entropy of each state's own successor among all of this replica's rows (InfoNCE).

    Args:
      scores: [B, B], of state i with successor j.
      exists: bool [B], whether the row's successor exists; where the episode ended before, the row
        has no loss and is no candidate of others.

    Returns:
      "loss/total" and "accuracy/successor", each float32 [B].
    """
    known = tf.where(exists[None], scores, _EXCLUDED)
    own = tf.range(scores.shape[0])
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(own, known)
    hits = exists & (tf.argmax(known, -1, output_type=tf.int32) == own)
    return {
        "loss/total": tf.where(exists, entropy, 0.0),
        "accuracy/successor": tf.cast(hits, tf.float32),
    }


def nearest(frames: np.ndarray, features: np.ndarray) -> np.ndarray:
    """A picture of states, each followed by those whose features have the least angle to its own.

    Args:
      frames: uint8 [B, 4, 84, 84]; the newest is shown.
      features: float32 [B, F].

    Returns:
      uint8 [height, width, 1]: a row for each of up to 6 states, spread over the batch.
    """
    sizes = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.maximum(sizes, 1e-12)
    queries = np.linspace(0, len(frames) - 1, min(_QUERIES, len(frames))).astype(int)
    likeness = directions[queries] @ directions.T
    likeness[np.arange(len(queries)), queries] = np.inf  # itself comes first
    order = np.argsort(-likeness, axis=1, kind="stable")[:, : _NEIGHBOURS + 1]
    white = np.full((frames.shape[2], _GAP), 255, np.uint8)
    rows = [np.hstack([row[0], white, *row[1:]]) for row in frames[order, -1]]
    return np.vstack(rows)[..., None]
