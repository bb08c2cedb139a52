"""Pieces of a train step that XLA compiles, each by itself, on CPUs.

XLA makes one loop of many small operations, but its convolutions and matrix products are slower
than TensorFlow's. So only what lies between these is compiled, and only in training: each new shape
of a batch costs a tenth of a second a piece, and those who act see many shapes.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from cql_atari.system import devices

_compiled = contextvars.ContextVar("compiled", default=False)


@contextlib.contextmanager
def compiled() -> Iterator[None]:
    """Pieces that are traced inside are compiled, unless all around them is."""
    before = _compiled.set(True)
    try:
        yield
    finally:
        _compiled.reset(before)


def piece(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a piece of a function of tensors, which must not read variables."""
    by_xla = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*inputs: Any) -> Any:
        return (by_xla if _compiled.get() and not devices.in_xla() else function)(*inputs)

    return call
