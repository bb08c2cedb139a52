"""Optimizers and learning rates beyond plain Adam; checkpoints know Keras' legacy optimizers."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf


class AdamW(tf.keras.optimizers.legacy.Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): x -= rate * decay * x, too.

    Vectors (biases, scales and shifts of norms) don't decay; the biases of the games' heads, which
    are one matrix, do.
    """

    def __init__(self, learning_rate: Any, *, weight_decay: float, **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self._weight_decay = weight_decay

    def _resource_apply_dense(self, grad, var, apply_state=None):
        if _is_matrix(var):
            rate = apply_state[(var.device, var.dtype.base_dtype)]["lr_t"]
            var.assign_sub(rate * self._weight_decay * var, use_locking=self._use_locking)
        return super()._resource_apply_dense(grad, var, apply_state)


class Lamb(tf.keras.optimizers.legacy.Optimizer):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2), every matrix a layer of its own.

    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2, both corrected for their start at zero;
    r = m / (sqrt(v) + epsilon); x -= rate * |x| / |r + decay x| * (r + decay x).

    As in the authors' code, vectors (biases, scales and shifts of norms) neither decay nor have
    their rate scaled: many begin at zero, and a scaled rate would keep them there. Neither is a
    matrix of zeros scaled.
    """

    def __init__(
        self,
        learning_rate: Any,
        *,
        weight_decay: float = 0.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__("Lamb")
        self._set_hyper("learning_rate", learning_rate)
        self._weight_decay, self._betas, self._epsilon = weight_decay, (beta_1, beta_2), epsilon

    def _create_slots(self, var_list):
        for slot in ("m", "v"):
            for var in var_list:
                self.add_slot(var, slot)

    def _resource_apply_dense(self, grad, var, apply_state=None):
        beta_1, beta_2 = self._betas
        step = tf.cast(self.iterations + 1, tf.float32)
        m = self.get_slot(var, "m")
        v = self.get_slot(var, "v")
        m = m.assign(beta_1 * m + (1 - beta_1) * grad)
        v = v.assign(beta_2 * v + (1 - beta_2) * tf.square(grad))
        unbiased = tf.sqrt(v / (1 - beta_2**step))
        update = m / (1 - beta_1**step) / (unbiased + self._epsilon)
        rate = apply_state[(var.device, var.dtype.base_dtype)]["lr_t"]
        if _is_matrix(var):
            update += self._weight_decay * var
            size, change = tf.norm(var), tf.norm(update)
            rate *= tf.where((size > 0) & (change > 0), size / change, 1.0)
        return var.assign_sub(rate * update, use_locking=self._use_locking)

    def get_config(self) -> dict[str, Any]:
        """As Keras asks for it: `training.start` takes the configured rate from here."""
        return {"learning_rate": self._serialize_hyperparameter("learning_rate")}


class RateSchedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises in a line from 0 over the warm-up, then stays or falls along a cosine to 0.

    Args:
      peak: the rate after the warm-up.
      warmup_steps: gradient steps of the rise.
      cosine_steps: step at which it is 0 again; None: it stays.
    """

    def __init__(self, peak: float, warmup_steps: int, cosine_steps: int | None = None) -> None:
        self._peak, self._warmup, self._end = peak, warmup_steps, cosine_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Steps made, float32 [] as Keras passes them -> float32 []."""
        rate = self._peak * tf.minimum(1.0, (step + 1) / max(self._warmup, 1))
        if self._end is None:
            return rate
        share = (step - self._warmup) / max(self._end - self._warmup, 1)
        return rate * (1 + tf.cos(math.pi * tf.clip_by_value(share, 0.0, 1.0))) / 2

    def get_config(self) -> dict[str, Any]:
        """As Keras asks for it: an optimizer's own configuration has its schedule's."""
        return {"peak": self._peak, "warmup_steps": self._warmup, "cosine_steps": self._end}


def _is_matrix(var: tf.Variable) -> bool:
    return var.shape.rank > 1
