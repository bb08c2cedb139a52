"""The multi-headed Q-network: encoder and feed-forward layers for all, one linear head per game."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from cql_atari.core.settings import Network
from cql_atari.core.types import FRAME_SHAPE, NUM_ACTIONS, STACK
from cql_atari.networks import encoders
from cql_atari.networks.encoders import Style
from cql_atari.networks.normalisation import l2_normalised
from cql_atari.networks.pooling import SpatialEmbedding
from cql_atari.networks.products import Dense
from cql_atari.system import devices, pieces

layers = tf.keras.layers


class GameHeads(tf.keras.layers.Layer):
    """One linear head per game: kernel [G, F, A * N], bias [G, A * N], always float32.

    Args:
      num_games: G.
      num_actions: A.
      num_atoms: N.
      num_features: F.
      seed: of the initialiser (Glorot-uniform by each game's own fans; reconstructed).
    """

    def __init__(
        self, num_games: int, num_actions: int, num_atoms: int, num_features: int, seed: int
    ) -> None:
        super().__init__(name="heads", dtype="float32")
        self.output_shape_per_row = (num_actions, num_atoms)
        width = num_actions * num_atoms
        limit = (6 / (num_features + width)) ** 0.5
        self.kernel = self.add_weight(
            "kernel",
            (num_games, num_features, width),
            initializer=tf.keras.initializers.RandomUniform(-limit, limit, seed),
        )
        self.bias = self.add_weight("bias", (num_games, width), initializer="zeros")
        self.built = True

    def call(self, features: tf.Tensor, games: tf.Tensor) -> tf.Tensor:
        """features [B, F], games int32 [D] -> float32 [B, A, N]; B = D * c, runs of c rows share
        a game.

        A game's rows are multiplied by its own head only. How many they are is known to no
        compiler, so that XLA gets another form, in which each draw's kernel is gathered.
        """
        kernel, bias = (tf.convert_to_tensor(v) for v in (self.kernel, self.bias))
        product = gathered if devices.in_xla() else by_game
        outputs = product(features, games, kernel, bias)
        return tf.reshape(outputs, [features.shape[0] or -1, *self.output_shape_per_row])


def by_game(features: tf.Tensor, games: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Features [B, F], games [D], kernel [G, F, W], bias [G, W] -> [B, W]: a product a game."""
    num_games, rows = kernel.shape[0], tf.shape(features)[0]
    games = tf.repeat(tf.cast(games, tf.int32), rows // tf.shape(games)[0])
    places = tf.dynamic_partition(tf.range(rows), games, num_games)
    parts = tf.dynamic_partition(features, games, num_games)
    heads = zip(parts, tf.unstack(kernel), tf.unstack(bias))
    return tf.dynamic_stitch(places, [tf.matmul(x, k) + b for x, k, b in heads])


def gathered(
    features: tf.Tensor, games: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
) -> tf.Tensor:
    """As `by_game`, in static shapes: a product a draw."""
    num_draws = games.shape[0] or tf.shape(games)[0]
    draws = tf.reshape(features, [num_draws, -1, features.shape[-1]])
    return tf.matmul(draws, gather_rows(kernel, games)) + gather_rows(bias, games)[:, None]


@tf.custom_gradient
def gather_rows(
    table: tf.Tensor, indices: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None]]]:
    """table [G, ...], indices [D] -> [D, ...], with a dense gradient: TensorFlow's own is sparse,
    which misses the fused Adam and has no static shape on a TPU.
    """

    def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, None]:
        return tf.math.unsorted_segment_sum(dy, indices, table.shape[0]), None

    return tf.gather(table, indices), gradient


class Pixels(tf.keras.layers.Layer):
    """Frames uint8 [B, 4, 84, 84] -> [B, 84, 84, 4] from 0 to 1, in the policy's dtype."""

    def call(self, frames: tf.Tensor) -> tf.Tensor:
        """[B, 4, 84, 84] -> [B, 84, 84, 4]."""
        return _pixels(frames, self.compute_dtype)


@pieces.piece
def _pixels(frames: tf.Tensor, dtype: str) -> tf.Tensor:
    # Floats are turned, not bytes, which would take twice as long.
    return tf.transpose(tf.cast(frames, dtype) * (1 / 255), [0, 2, 3, 1])


class QNetwork(tf.keras.Model):
    """Encoder and feed-forward part, together the trunk, and the heads.

    Attributes:
      encoder: frames uint8 [B, 4, 84, 84] -> pooled features [B, P]; what transfers to other games.
        With `encoder.trainable = False` no gradient goes into it.
      feed_forward: pooled features [B, P] -> features float32 [B, F].
      heads: (features [B, F], games int32 [D]) -> float32 [B, A, N].
    """

    def __init__(
        self, encoder: tf.keras.Model, feed_forward: tf.keras.Model, heads: GameHeads
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.feed_forward = feed_forward
        self.heads = heads
        self.built = True

    def trunk(self, frames: tf.Tensor) -> tf.Tensor:
        """frames uint8 [B, 4, 84, 84] -> features float32 [B, F]."""
        pooled = self.encoder(frames)
        # Needed here: a tape watches variables whether or not their layer is trainable.
        return self.feed_forward(pooled if self.encoder.trainable else tf.stop_gradient(pooled))

    def call(self, frames: tf.Tensor, games: tf.Tensor) -> tf.Tensor:
        """frames uint8 [B, 4, 84, 84], games int32 [D] -> logits float32 [B, A, N], where
        B = D * c and each run of c rows shares a game.
        """
        return self.heads(self.trunk(frames), games)


ENCODERS = {"resnet": encoders.resnet, "impala": encoders.impala, "nature": encoders.nature}


def build_encoder(style: Style) -> tf.keras.Model:
    """The encoder that the settings describe: uint8 [B, 4, 84, 84] -> pooled features [B, P].

    Its last layer is the pooling, whose input is the feature map [B, H, W, C].

    Raises:
      UserError: where the stages don't match.
    """
    network, dtype = style.network, style.dtype
    encode = ENCODERS[network.encoder]
    pool = {
        "spatial_embedding": SpatialEmbedding(network.embedding_blocks, style.seed(), dtype=dtype),
        "flatten": layers.Flatten(dtype=dtype),
        "mean": layers.GlobalAveragePooling2D(dtype=dtype),
    }[network.pooling]
    frames = tf.keras.Input((STACK, *FRAME_SHAPE), dtype=tf.uint8)
    x = Pixels(dtype=dtype)(frames)
    return tf.keras.Model(frames, pool(encode(x, style)), name="encoder")


def add_dense(
    encoder: tf.keras.Model, widths: Sequence[int], style: Style
) -> tuple[tf.Tensor, tf.Tensor]:
    """(input, output) of dense layers with ReLU that take an encoder's pooled features."""
    pooled = x = tf.keras.Input(encoder.output_shape[1:], dtype=encoder.output.dtype)
    for width in widths:
        initialiser = tf.keras.initializers.HeNormal(style.seed())
        x = Dense(width, "relu", kernel_initializer=initialiser, dtype=style.dtype)(x)
    return pooled, x


def build_q_network(network: Network, *, num_games: int, num_atoms: int, seed: int) -> QNetwork:
    """Builds the Q-network that the settings describe (§4).

    Args:
      network: encoder, pooling and sizes.
      num_games: G, number of heads.
      num_atoms: N outputs an action: atoms or bins; 1 for scalar values.
      seed: fixes all initial weights.

    Raises:
      UserError: as `build_encoder`.
    """
    style = Style(np.random.default_rng(seed), network)
    encoder = build_encoder(style)
    pooled, x = add_dense(encoder, network.feed_forward, style)
    x = l2_normalised(x) if network.feature_norm else tf.cast(x, tf.float32)
    feed_forward = tf.keras.Model(pooled, x, name="feed_forward")
    heads = GameHeads(num_games, NUM_ACTIONS, num_atoms, x.shape[-1], style.seed())
    return QNetwork(encoder, feed_forward, heads)
