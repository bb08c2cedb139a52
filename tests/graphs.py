"""Traced graphs that TensorFlow would keep."""

from __future__ import annotations

import ctypes
import gc


def let_go() -> None:
    """Drops graphs that nothing else needs.

    Tracing a function with `tf.custom_gradient` leaves its gradient, and with it the graph, in
    TensorFlow's registry: nothing in a run, gigabytes after a thousand traces.
    """
    from tensorflow.python.framework import ops

    gradients = ops.gradient_registry._registry
    if names := [name for name in gradients if name.startswith("CustomGradient-")]:
        for name in names:
            del gradients[name]
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
