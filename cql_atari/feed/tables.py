"""What both replays share: a Reverb server, its tables, and batches that a thread makes in advance.

Reverb can't be bound to loopback: the server listens on all interfaces, without authentication.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import reverb
import tensorflow as tf

from cql_atari.core.types import Batch
from cql_atari.system import ports

FETCH = 16  # items that are read from Reverb at a time
# How soon those that wait see that they should stop.
_STARVED_MS, _PATIENCE_MS, _POLL_SECONDS = 1_000, 200, 0.2


class Ended(Exception):
    """A reader was told to end."""


@contextmanager
def serve(tables: Sequence[reverb.Table], port: int = 0) -> Iterator[str]:
    """Runs a server for as long as the context lasts; yields its address on this host.

    Args:
      tables: what it serves.
      port: to listen on; 0: any free one.

    Raises:
      UserError: if the port is taken.
    """
    if port:
        ports.check_free(port)
    # Without a folder of its own the server makes one in /tmp, and leaves it there.
    with tempfile.TemporaryDirectory(prefix="reverb_") as folder:
        checkpointer = reverb.checkpointers.DefaultCheckpointer(folder)
        server = reverb.Server(list(tables), port=port or None, checkpointer=checkpointer)
        ports.warn_if_open(server.port)
        try:
            yield f"localhost:{server.port}"
        finally:
            server.stop()


def newest(name: str) -> reverb.Table:
    """A table that holds one item, the newest."""
    return reverb.Table(
        name=name,
        sampler=reverb.selectors.Fifo(),
        remover=reverb.selectors.Fifo(),
        max_size=1,
        rate_limiter=reverb.rate_limiters.MinSize(1),
    )


def put_text(client: reverb.Client, table: str, text: str) -> None:
    """Puts a text into a table."""
    client.insert([np.array(text.encode(), object)], {table: 1.0})


def get_text(client: reverb.Client, table: str) -> bytes:
    """The text that `put_text` has put into a table."""
    return bytes(next(client.sample(table))[0].data[0].item())


def flush(writer: reverb.TrajectoryWriter, pending: int, should_stop: Callable[[], bool]) -> bool:
    """Waits until at most `pending` items are unconfirmed; False if told to stop before."""
    while not should_stop():
        with suppress(reverb.errors.DeadlineExceededError):
            writer.flush(pending, timeout_ms=_PATIENCE_MS)
            return True
    return False


def read_items(
    address: str,
    table: str,
    signature: Mapping[str, tf.TensorSpec],
    in_flight: int,
    ended: Callable[[], bool],
) -> Iterator[tuple[Any, ...]]:
    """The items of a table as it gives them out; each has the columns of the signature.

    Args:
      address: of the server.
      table: its name.
      signature: the columns of an item, by name.
      in_flight: the most items that are on their way.
      ended: whether to end.

    Raises:
      Ended: when told to.
    """
    items = reverb.TrajectoryDataset(
        address,
        table,
        dtypes={name: spec.dtype for name, spec in signature.items()},
        shapes={name: spec.shape for name, spec in signature.items()},
        max_in_flight_samples_per_worker=in_flight,
        num_workers_per_iterator=1,  # more would change the order
        rate_limiter_timeout_ms=_STARVED_MS,  # the data set ends then; nothing is lost
    ).batch(FETCH)
    while not ended():
        for sample in items:
            for item in zip(*(sample.data[name].numpy() for name in signature)):
                if ended():
                    raise Ended
                yield item
    raise Ended


def prefetch(
    make: Callable[[], Iterator[Batch]],
    ended: threading.Event,
    wait: Callable[[], bool],
    started: Callable[[threading.Thread], None] = lambda thread: None,
) -> Iterator[Batch]:
    """The elements of an iterator, which a thread makes one ahead; it begins at once.

    Args:
      make: makes the iterator, in the thread.
      ended: set to end; set here when no more elements are wanted.
      wait: called again and again while there is no element; False: to end.
      started: called with the thread.

    Raises:
      Exception: what the iterator or `wait` raises.
    """
    ready: queue.Queue[Batch | Exception | None] = queue.Queue(1)  # None: there is no more

    def put(item: Batch | Exception | None) -> None:
        while not ended.is_set():
            try:
                return ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                pass
        raise Ended

    def fill() -> None:
        with suppress(Ended):
            try:
                for item in make():
                    put(item)
                put(None)
            except Ended:
                raise
            except Exception as error:
                put(error)

    def elements() -> Iterator[Batch]:
        try:
            while not ended.is_set():
                try:
                    item = ready.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    if not wait():
                        return
                    continue
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            ended.set()

    thread = threading.Thread(target=fill, name="draw", daemon=True)
    started(thread)
    thread.start()
    return elements()
