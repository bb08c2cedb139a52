"""Checkpoints: saved whole or not at all, several kept, the newest intact one restored."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import tensorflow as tf
from absl import logging

from cql_atari.types import UserError

PREFIX = "variables"
DAMAGE = (tf.errors.OpError, IndexError, OSError)  # a flipped bit, a cut file, a missing file


def save(directory: Path, checkpoint: tf.train.Checkpoint, step: int, keep: int) -> Path:
    """Writes `directory/<step>/` under another name first, so that it exists whole or not at all.

    Returns:
      The checkpoint's folder. The `keep` newest ones stay.

    Raises:
      UserError: where it can't be written (no space, no permission); older ones are untouched.
    """
    final, partial = directory / f"{step:010d}", directory / f"partial-{step:010d}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        checkpoint.write(str(partial / PREFIX))
        for file in partial.iterdir():
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    except (tf.errors.OpError, OSError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"can't save step {step} in {directory}: {error}. Free some space or mend the "
            "permissions, then run the same command: it goes on from the newest checkpoint."
        ) from error
    for old in steps(directory)[:-keep]:
        shutil.rmtree(directory / f"{old:010d}")
    return final


def steps(directory: Path) -> list[int]:
    """Steps with a checkpoint, ascending."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())


def restore_latest(directory: Path, checkpoint: tf.train.Checkpoint) -> int | None:
    """Restores the newest intact checkpoint into existing variables, every one of them.

    A damaged one is reported and passed over.

    Returns:
      Its step, or None where there is no checkpoint at all.

    Raises:
      UserError: where all are damaged, or one doesn't fit the variables.
    """
    found = steps(directory)
    for step in reversed(found):
        try:
            restore(directory / f"{step:010d}", checkpoint)
            return step
        except DAMAGE as error:
            logging.warning("checkpoint %s/%010d is damaged (%s); trying an older one",
                            directory, step, str(error).splitlines()[0])  # fmt: skip
    if found:
        raise UserError(
            f"all checkpoints in {directory} are damaged ({found}). Delete the folder to start "
            "from scratch."
        )
    return None


def restore(path: Path, checkpoint: tf.train.Checkpoint) -> None:
    """Restores one checkpoint folder; fails unless every existing variable is in it.

    Raises:
      UserError: where a variable is missing or has another shape.
      One of `DAMAGE`: where the files are damaged.
    """
    try:
        checkpoint.read(str(path / PREFIX)).assert_existing_objects_matched()
    except (AssertionError, ValueError) as error:
        raise UserError(f"checkpoint {path} doesn't fit this network: {error}") from error
