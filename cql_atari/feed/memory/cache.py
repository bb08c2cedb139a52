"""The `memory` feed's arrays as files that are mapped: written once, whole or absent.

A store is a folder `<directory>/<key>/` of `.npy` files. One process at a time writes it, under
another name and with plain writes, so that its pages don't count as this process's memory. Mapped
pages that are read do count, so the feed gives them back at each read; the kernel keeps them in its
cache as long as there is memory.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from cql_atari.core.types import UserError
from cql_atari.feed.memory.store import COLUMNS, MemoryStore, Write, num_bytes
from cql_atari.feed.positions import Episodes
from cql_atari.system.files import move, sync, take_lock

_TABLE = ("counts", "steps", "terminal", "starts")  # the arrays of `Episodes`
_POLL_SECONDS = 0.2


def load(
    directory: Path,
    key: str,
    games: Sequence[str],
    *,
    make_table: Callable[[], Episodes],
    fill: Callable[[Write, Episodes], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> MemoryStore:
    """Maps a store, after writing it where it isn't there yet. Where it is, no source is read.

    A process that finds another one writing the same store waits for it.

    Args:
      directory: of the stores.
      key: a file name that says what is in the store; another content needs another key.
      games: their names in order, part of the key.
      make_table: what the store will hold.
      fill: writes all of it.
      should_stop: whether to stop waiting.

    Raises:
      UserError: if the directory can't be used, the disk is full, or a store is damaged.
      KeyboardInterrupt: if told to stop while waiting.
    """
    final = directory / key
    if not final.is_dir():
        with _blaming(directory, "write there"):
            directory.mkdir(parents=True, exist_ok=True)
            with _alone(directory / f"{key}.lock", should_stop):
                if not final.is_dir():
                    _write(final, make_table(), fill)
    try:
        maps = {name: _map(final / f"{name}.npy") for name in COLUMNS}
        table = {name: np.load(final / f"{name}.npy", allow_pickle=False) for name in _TABLE}
    except (OSError, ValueError, EOFError) as error:  # NumPy's for an empty file
        raise UserError(f"the cached data in {final} are damaged: {error}. Delete it.") from error

    def let_go() -> None:
        for _, pages in maps.values():
            pages.madvise(mmap.MADV_DONTNEED)

    episodes = Episodes(tuple(games), **table)
    columns = {name: array for name, (array, _) in maps.items()}
    return MemoryStore(episodes, episodes.firsts, **columns, let_go=let_go)


@contextlib.contextmanager
def _alone(path: Path, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Holds a lock, waiting for another process that has it."""
    waiting = False
    while (lock := take_lock(path)) is None:
        if not waiting:
            logging.info("another process is writing %s; waiting for it", path.stem)
        waiting = True
        if should_stop():
            raise KeyboardInterrupt
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _blaming(directory: Path, action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"feed.cache_dir = {str(directory)!r}: can't {action}: {error}. Free some space or "
            "fix the permissions, then run the same command; or choose another folder."
        ) from error


def _write(final: Path, table: Episodes, fill: Callable[[Write, Episodes], None]) -> None:
    partial = final.with_name(f"partial-{final.name}")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    files: dict[str, tuple[int, np.memmap]] = {}
    with (
        _blaming(final.parent, f"write {num_bytes(table) / 1e9:.3g} GB"),
        contextlib.ExitStack() as stack,
    ):
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        partial.mkdir()
        for name in _TABLE:
            np.save(partial / f"{name}.npy", getattr(table, name))
        steps = int(table.steps.sum())
        for name, (shape, dtype) in COLUMNS.items():
            path = partial / f"{name}.npy"
            # Writes the header; the size is set.
            array = np.lib.format.open_memmap(path, "w+", dtype, (steps, *shape))
            descriptor = os.open(path, os.O_RDWR)
            stack.callback(os.close, descriptor)
            # All the space at once: a full disk shows before the sources are read.
            os.posix_fallocate(descriptor, 0, path.stat().st_size)
            files[name] = descriptor, array

        def write(name: str, start: int, values: np.ndarray) -> None:
            descriptor, array = files[name]
            offset = array.offset + start * array.strides[0]
            values = np.ascontiguousarray(values, array.dtype)
            left = values.reshape(-1).view(np.uint8).data
            while left:
                done = os.pwrite(descriptor, left, offset)
                left, offset = left[done:], offset + done

        fill(write, table)
        for path in (*partial.iterdir(), partial):
            sync(path)
        move(partial, final)


def _map(path: Path) -> tuple[np.ndarray, mmap.mmap]:
    """An array in a file, read-only, and its pages."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)  # checks the header and the size
    with open(path, "rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    flat = np.frombuffer(pages, array.dtype, array.size, array.offset)
    return flat.reshape(array.shape), pages
