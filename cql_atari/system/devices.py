"""The devices that TensorFlow sees."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def on_accelerator() -> bool:
    """Whether a GPU or TPU is visible."""
    return bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))


def in_xla() -> bool:
    """Whether what is traced now will be compiled by XLA, which wants static shapes.

    On accelerators everything is. TensorFlow has no public question for the rest.
    """
    graph = tf.compat.v1.get_default_graph()
    return on_accelerator() or control_flow_util.GraphOrParentsInXlaContext(graph)


def accelerators() -> list[str]:
    """Names of the visible GPUs and TPU cores; a GPU's own name where TensorFlow knows it."""
    found = []
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        found.append(str(details.get("device_name", "GPU")))
    return found + ["TPU core"] * len(tf.config.list_logical_devices("TPU"))
