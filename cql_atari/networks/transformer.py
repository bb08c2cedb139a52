"""The multi-game decision transformer (Lee et al. 2022, arXiv 2205.15241): it predicts the
return to go, the action and the reward of each step in a window.

A step is 39 tokens: 36 patches of its frame, its return to go, its action and its reward, in this
order. Padding needs no mask: in a window shorter than the context the real steps come first, and no
token sees a later step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from cql_atari.core.settings import Transformer
from cql_atari.core.types import FRAME_SHAPE, NUM_ACTIONS, UserError

PATCH = 14  # pixels; the frame's 84 are 6 patches
PATCHES = (FRAME_SHAPE[0] // PATCH) * (FRAME_SHAPE[1] // PATCH)
HEAD_WIDTH = 64
LOWEST_RETURN, HIGHEST_RETURN = -20, 100  # footnote 2; bins of width 1, both ends included
NUM_RETURNS = HIGHEST_RETURN - LOWEST_RETURN + 1
NUM_REWARDS = 3  # the sign: minus, zero, plus
MASKED = -1e9  # added to the scores of tokens that must not be seen: their weights become 0
NORM_EPSILON = 1e-5


class Tokens(NamedTuple):
    """What a window holds beside its frames: inputs of the network, and targets of its predictions.

    Attributes:
      returns: int32 [B, T], bins of the return to go, see `return_bins`.
      actions: int32 [B, T], full 18-action set.
      rewards: int32 [B, T], see `reward_signs`.
    """

    returns: tf.Tensor
    actions: tf.Tensor
    rewards: tf.Tensor


class Logits(NamedTuple):
    """Logits of what the transformer predicts for each step.

    Attributes:
      returns: float32 [B, T, 121], of the return to go, given the frame; None where the network
        isn't conditioned on returns.
      actions: float32 [B, T, 18], given the frame and the return.
      rewards: float32 [B, T, 3], given the frame, the return and the action.
    """

    returns: tf.Tensor | None
    actions: tf.Tensor
    rewards: tf.Tensor


def return_bins(returns: tf.Tensor) -> tf.Tensor:
    """Returns to go, float [...] -> their bin, int32 [...]: rounded, then cut to [-20, 100]."""
    rounded = tf.cast(tf.round(returns), tf.int32)
    return tf.clip_by_value(rounded, LOWEST_RETURN, HIGHEST_RETURN) - LOWEST_RETURN


def reward_signs(rewards: tf.Tensor) -> tf.Tensor:
    """Rewards, float [...] -> int32 [...]: 0 for negative ones, 1 for zero, 2 for positive ones."""
    return tf.cast(tf.sign(rewards), tf.int32) + 1


def patches(frames: tf.Tensor) -> tf.Tensor:
    """uint8 [B, T, 84, 84] -> uint8 [B, T, 36, 196], row by row.

    A matrix product with the patches is the 14 x 14 convolution of stride 14.
    """
    rows, columns = (size // PATCH for size in FRAME_SHAPE)
    cut = tf.reshape(frames, [-1, rows, PATCH, columns, PATCH])
    cut = tf.transpose(cut, [0, 1, 3, 2, 4])
    return tf.reshape(cut, [-1, frames.shape[1], PATCHES, PATCH * PATCH])


def attention_mask(steps: int, others: int, hidden: tuple[int, ...] = ()) -> np.ndarray:
    """What each token sees: bool [S, S], S = steps * (36 + others), [i, j] whether i sees j.

    Everything before it and itself; the patches of a frame also see each other.

    Args:
      steps: T.
      others: tokens of a step after its patches.
      hidden: positions that no token sees.
    """
    width = PATCHES + others
    step, place = np.divmod(np.arange(steps * width), width)
    same_frame = (step[:, None] == step) & (place[:, None] < PATCHES) & (place < PATCHES)
    sees = np.tril(np.ones((len(step), len(step)), bool)) | same_frame
    sees[:, list(hidden)] = False
    return sees


class DecisionTransformer(tf.keras.Model):
    """Tokens, pre-norm transformer blocks, and three linear read-outs.

    Args:
      sizes: `width` must be a multiple of 64, the width of a head; dropout acts after attention
        and after the MLP.
      seed: fixes all initial weights.
      dtype: "float32", or "mixed_bfloat16" (variables, norms and read-outs stay float32).

    Raises:
      UserError: for a width that isn't a multiple of 64.
    """

    def __init__(self, sizes: Transformer, seed: int, dtype: str = "float32") -> None:
        super().__init__()
        depth, width, steps = sizes.depth, sizes.width, sizes.steps
        conditioned = sizes.return_token
        if width % HEAD_WIDTH:
            raise UserError(f"transformer.width = {width}: must be a multiple of {HEAD_WIDTH}.")
        rng = np.random.default_rng(seed)
        self.steps, self.conditioned = steps, conditioned
        others = 3 if conditioned else 2
        self.tokens_per_step = PATCHES + others
        # A hidden return token is all zeros and no other token sees it; it sees the others, as the
        # action is read from its place.
        places = np.arange(steps * self.tokens_per_step)
        hidden = places % self.tokens_per_step == PATCHES if conditioned else places < 0
        hidden &= (places >= self.tokens_per_step) & sizes.single_return_token
        self._hidden = hidden
        self._attention_mask = attention_mask(steps, others, tuple(np.flatnonzero(hidden)))

        def table(name: str, *shape: int) -> tf.Variable:
            initial = tf.keras.initializers.TruncatedNormal(stddev=0.02, seed=_seed(rng))
            return self.add_weight(name, shape, initializer=initial, dtype=tf.float32)

        def linear(
            name: str, inputs: int, outputs: int, dtype: str = "float32"
        ) -> tf.keras.layers.Dense:
            return _dense(name, inputs, outputs, 1.0, dtype, _seed(rng))

        self.patch_embedding = linear("patches", PATCH * PATCH, width, dtype)
        self.patch_positions = table("patch_positions", PATCHES, width)
        self.positions = table("positions", len(places), width)
        self.return_embedding = table("returns", NUM_RETURNS, width) if conditioned else None
        self.action_embedding = table("actions", NUM_ACTIONS, width)
        self.reward_embedding = table("rewards", NUM_REWARDS, width)
        self.blocks = [Block(width, 2 / depth, sizes.dropout, dtype, rng) for _ in range(depth)]
        self.norm = LayerNorm(width)
        self.return_readout = linear("return", width, NUM_RETURNS) if conditioned else None
        self.action_readout = linear("action", width, NUM_ACTIONS)
        self.reward_readout = linear("reward", width, NUM_REWARDS)
        self.built = True

    def call(
        self, frames: tf.Tensor, tokens: Tokens, dropout_seed: tf.Tensor | None = None
    ) -> Logits:
        """A window of T steps, at most `steps`.

        Args:
          frames: uint8 [B, T, 84, 84].
          tokens: [B, T] each.
          dropout_seed: integers [2]; None: no dropout.
        """
        steps = frames.shape[1]
        x = self._embed(frames, tokens)
        count, width = x.shape[1:]
        bias = tf.where(tf.constant(self._attention_mask[:count, :count]), 0.0, MASKED)
        for i, block in enumerate(self.blocks):
            seed = None if dropout_seed is None else _fold(dropout_seed, 2 * i)
            x = block(x, bias, seed)
        by_step = tf.reshape(self.norm(x), [-1, steps, self.tokens_per_step, width])
        last_patch, before_action = PATCHES - 1, self.tokens_per_step - 3
        return Logits(
            self.return_readout(by_step[:, :, last_patch]) if self.conditioned else None,
            self.action_readout(by_step[:, :, before_action]),
            self.reward_readout(by_step[:, :, before_action + 1]),
        )

    def _embed(self, frames: tf.Tensor, tokens: Tokens) -> tf.Tensor:
        """float32 [B, S, D]."""
        steps = frames.shape[1]
        pixels = tf.cast(patches(frames), tf.float32) / 255
        parts = [tf.cast(self.patch_embedding(pixels), tf.float32) + self.patch_positions]
        if self.conditioned:
            parts.append(_look_up(self.return_embedding, tokens.returns))
        parts += [
            _look_up(self.action_embedding, tokens.actions),
            _look_up(self.reward_embedding, tokens.rewards),
        ]
        count = steps * self.tokens_per_step
        x = tf.reshape(tf.concat(parts, axis=2), [-1, count, self.positions.shape[1]])
        full = tf.constant(~self._hidden[:count, None], tf.float32)
        return (x + self.positions[:count]) * full


class Block(tf.keras.layers.Layer):
    """x + attention(norm(x)), then x + MLP(norm(x)), each with dropout.

    Args:
      width: D; the MLP's inner layer has 4 D and GELU.
      scale: variance of the initial weights, times 1 / inputs.
      dropout: share.
      dtype: Keras policy of the matrix products.
      rng: source of the initialisers' seeds.
      head_width: of an attention head; divides D.
    """

    def __init__(  # noqa: PLR0917
        self,
        width: int,
        scale: float,
        dropout: float,
        dtype: str,
        rng: np.random.Generator,
        head_width: int = HEAD_WIDTH,
    ) -> None:
        super().__init__(dtype=dtype, autocast=False)  # the sum over blocks stays float32
        self.dropout, self.head_width = dropout, head_width

        def linear(name: str, inputs: int, outputs: int) -> tf.keras.layers.Dense:
            return _dense(name, inputs, outputs, scale, dtype, _seed(rng))

        self.attention_norm, self.mlp_norm = LayerNorm(width), LayerNorm(width)
        self.query = linear("query", width, width)
        self.key = linear("key", width, width)
        self.value = linear("value", width, width)
        self.out = linear("out", width, width)
        self.expand = linear("expand", width, 4 * width)
        self.contract = linear("contract", 4 * width, width)
        self.built = True

    def call(self, x: tf.Tensor, bias: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """x float32 [B, S, D], bias float32 [S, S] (added to the scores), seed [2] of the
        dropout or None -> float32 [B, S, D].
        """
        y = self._attend(self.attention_norm(x), bias)
        x += self._drop(y, seed)
        y = self.expand(self.mlp_norm(x))
        y = self.contract(tf.nn.gelu(y, approximate=True))
        return x + self._drop(y, None if seed is None else _fold(seed, 1))

    def _attend(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        count, width = x.shape[1:]

        def by_head(y: tf.Tensor) -> tf.Tensor:
            heads = tf.reshape(y, [-1, count, width // self.head_width, self.head_width])
            return tf.transpose(heads, [0, 2, 1, 3])

        query = by_head(self.query(x) * self.head_width**-0.5)
        scores = tf.matmul(query, by_head(self.key(x)), transpose_b=True)
        weights = tf.nn.softmax(tf.cast(scores, tf.float32) + bias)
        seen = tf.matmul(tf.cast(weights, scores.dtype), by_head(self.value(x)))
        return self.out(tf.reshape(tf.transpose(seen, [0, 2, 1, 3]), [-1, count, width]))

    def _drop(self, y: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        y = tf.cast(y, tf.float32)
        if seed is None or not self.dropout:
            return y
        return tf.nn.experimental.stateless_dropout(y, self.dropout, seed)


class LayerNorm(tf.keras.layers.Layer):
    """Layer normalisation over the last axis, with scale and shift; always float32."""

    def __init__(self, width: int) -> None:
        super().__init__(dtype="float32")
        self.scale = self.add_weight("scale", (width,), initializer="ones")
        self.shift = self.add_weight("shift", (width,), initializer="zeros")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[..., D] -> the same."""
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
        return centred * tf.math.rsqrt(variance + NORM_EPSILON) * self.scale + self.shift


def _look_up(table: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """table [N, D], indices [B, T] -> [B, T, 1, D], with a dense gradient."""
    chosen = tf.one_hot(indices, table.shape[0], dtype=table.dtype)
    return tf.matmul(chosen, table)[:, :, None]


def _dense(  # noqa: PLR0917
    name: str, inputs: int, outputs: int, scale: float, dtype: str, seed: int
) -> tf.keras.layers.Dense:
    """A built linear layer."""
    initial = tf.keras.initializers.VarianceScaling(scale, seed=seed)
    layer = tf.keras.layers.Dense(outputs, kernel_initializer=initial, dtype=dtype, name=name)
    layer.build((None, inputs))
    return layer


def _fold(seed: tf.Tensor, number: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, number)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))
