"""Files that are written whole or not at all, JSON of unknown origin, locks, which end with their
process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cql_atari.core.types import UserError

_ATTEMPTS = 5
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some mounts of NFS and Lustre
_JSON_LIMIT = 1 << 26  # bytes; the largest file that we write has some millions


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file: a reader finds the old content or the new, also after a power cut.

    Raises:
      OSError: if it can't be written; the old file is untouched.
    """
    writer = f"{socket.gethostname()}.{os.getpid()}"  # pids of two hosts may be the same
    partial = path.with_name(f".{path.name}.{writer}.partial")
    try:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode())
        sync(partial)
        move(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def move(source: Path, target: Path) -> None:
    """Renames a file or folder whose content is synced; afterwards the new name is on the disk."""
    os.replace(source, target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Returns once a file's content, or a folder's list of names, will outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(
    what: object, advice: str = "choose another folder, or free some space if the disk is full"
) -> Iterator[None]:
    """Turns an OSError into a UserError: what can't be written, why, and what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(f"can't write {what}: {error.strerror or error}; {advice}") from error


def parse_json(text: str | bytes) -> Any:
    """What JSON text holds.

    Raises:
      ValueError: for anything else, also for text that is too long or nested too deeply.
    """
    if len(text) > _JSON_LIMIT:
        raise ValueError(f"it has {len(text):,} bytes")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def take_lock(path: Path) -> int | None:
    """Locks a folder, or a file that is made if need be, for this process.

    The kernel frees the lock however the process ends.

    Returns:
      The descriptor that holds the lock until it is closed; None where another process has it.

    Raises:
      UserError: where the file system has no locks.
    """
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(0.02)  # `is_locked` in another process holds it for a moment
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError) and error.errno in _NO_LOCKS:
            raise UserError(
                f"{path} can't be locked ({error.strerror}): its file system has no locks, which "
                "keep a second process away. Choose a folder on another one, or have it mounted "
                "with them (Lustre: -o flock)."
            ) from error
        raise
    os.close(descriptor)
    return None


def is_locked(path: Path) -> bool:
    """Whether a process holds `take_lock` of a file; no file, no lock."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def hold_folder(folder: Path, in_use: str, flag: str) -> Iterator[None]:
    """Makes a folder and holds `take_lock` of it as long as the context lasts.

    Raises:
      UserError: where it can't be made, naming the `flag` that gives it; saying `in_use`, where
        another process has the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't use {folder} ({error.strerror}); give another {flag}.") from error
    with locked(folder, in_use):
        yield


@contextlib.contextmanager
def locked(path: Path, in_use: str) -> Iterator[None]:
    """Holds `take_lock` as long as the context lasts.

    Raises:
      UserError: saying `in_use`, where another process has the lock.
    """
    if (descriptor := take_lock(path)) is None:
        raise UserError(in_use)
    try:
        yield
    finally:
        os.close(descriptor)
