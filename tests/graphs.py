"""What a module of tests leaves in memory: graphs that TensorFlow would keep, and freed pages."""

from __future__ import annotations

import ctypes
import gc


def let_go() -> None:
    """Drops graphs that nothing else needs, and gives what is free back to the system.

    Tracing a function with `tf.custom_gradient` leaves its gradient, and with it the graph, in
    TensorFlow's registry: nothing in a run, gigabytes after a thousand traces. Its context keeps a
    kernel for each function that was called, some 30 MB a module that trains. And TensorFlow's
    threads allocate in arenas of their own, whose free pages the C library keeps until it is asked.
    """
    from tensorflow.python.eager import context
    from tensorflow.python.framework import ops

    gradients = ops.gradient_registry._registry
    for name in [name for name in gradients if name.startswith("CustomGradient-")]:
        del gradients[name]
    gc.collect()
    context.context().clear_kernel_cache()
    ctypes.CDLL(None).malloc_trim(0)
