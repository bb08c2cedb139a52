"""What training knows of a feed: batches, its state for checkpoints, and scalars for the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Feed(NamedTuple):
    """An open feed, of any kind.

    Attributes:
      batches: gives an endless data set, or iterable, of batches [K, B, ...] of a slice of every
        batch's rows.
      state: what the checkpoint of a learner step must keep of the feed, JSON-ready; it is
        passed in when the feed is opened again at that step. Steps that are asked for never go
        down.
      saved: called once the checkpoint with the last `state` is on disk.
      scalars: numbers for the log since it was last asked, by flat names. They may be asked for
        when the feed is closed, too.
      check: raises the error of the feed's own threads, if there is one: iterating over its
        batches only raises an error of TensorFlow's then.
    """

    batches: Callable[[slice], Iterable[Any]]
    state: Callable[[int], dict[str, Any]] = lambda step: {}
    saved: Callable[[], None] = lambda: None
    scalars: Callable[[], dict[str, float]] = dict
    check: Callable[[], None] = lambda: None
