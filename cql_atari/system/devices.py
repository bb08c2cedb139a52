"""What TensorFlow computes on."""

from __future__ import annotations

import tensorflow as tf


def on_accelerator() -> bool:
    """Whether a GPU or TPU is visible."""
    return bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))
