"""What TensorFlow computes on."""

from __future__ import annotations

import tensorflow as tf


def on_accelerator() -> bool:
    """Whether a GPU or TPU is visible."""
    return bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))


def accelerators() -> list[str]:
    """What is visible beside processors, a name each; a GPU's own where TensorFlow tells it."""
    found = []
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        found.append(str(details.get("device_name", "GPU")))
    return found + ["TPU core"] * len(tf.config.list_logical_devices("TPU"))
