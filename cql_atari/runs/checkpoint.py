"""Checkpoints: saved whole or not at all, several kept, the newest intact one restored."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from absl import logging

from cql_atari.core.types import UserError
from cql_atari.system import files

PREFIX = "variables"
EXTRA = "extra.json"
# A flipped bit, a cut file, a missing file, broken JSON.
DAMAGE = (tf.errors.OpError, IndexError, OSError, ValueError)
# Without the optimizer's slots, whose names go on after the variable's.
_ENCODER_VARIABLE = re.compile(
    r"network/encoder/layer_with_weights-(\d+)/(\w+)/\.ATTRIBUTES/VARIABLE_VALUE"
)
_SHOWN = 10  # differences that an error lists
T = TypeVar("T")


def save(
    directory: Path,
    checkpoint: tf.train.Checkpoint,
    step: int,
    keep: int,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `directory/<step>/` under another name first, so that it exists whole or not at all.

    Args:
      directory: of all checkpoints.
      checkpoint: the variables.
      step: the learner step.
      keep: how many checkpoints stay.
      extra: what else to go on from, JSON-ready; `read_extra` returns it.

    Returns:
      The checkpoint's folder. The `keep` newest ones stay.

    Raises:
      UserError: where it can't be written (no space, no permission); older ones are untouched.
    """
    final, partial = directory / f"{step:010d}", directory / f"partial-{step:010d}"
    try:
        for cut_short in directory.glob("partial-*"):
            shutil.rmtree(cut_short, ignore_errors=True)
        partial.mkdir(parents=True)
        checkpoint.write(str(partial / PREFIX))
        text = json.dumps(extra or {})
        (partial / EXTRA).write_text(f"{zlib.crc32(text.encode()):08x} {text}")
        for file in partial.iterdir():
            files.sync(file)
        # The same step again: the old one goes only when the new one stands in its place.
        aside = directory / f"replaced-{step:010d}"
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
            files.move(final, aside)
        files.move(partial, final)
        shutil.rmtree(aside, ignore_errors=True)
    except (tf.errors.OpError, OSError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"can't save step {step} in {directory}: {error}. Free some space or fix the "
            "permissions, then run the same command: it goes on from the newest checkpoint."
        ) from error
    # A later one that is damaged stands beside it where the run went on from an older one.
    others = [other for other in steps(directory) if other != step]
    for old in others[: max(0, len(others) + 1 - keep)]:
        # Where another process reads it, NFS keeps a file in it: the next call tries again.
        shutil.rmtree(directory / f"{old:010d}", ignore_errors=True)
    return final


def put_back(directory: Path) -> None:
    """Puts a checkpoint back in its place that was moved aside when its process died, before the
    new one of that step was there. For those who hold the run's folder: to others it may be a save.
    """
    for aside in directory.glob("replaced-*"):
        final = directory / aside.name.removeprefix("replaced-")
        if not final.exists():
            with contextlib.suppress(FileNotFoundError):  # another host was first
                aside.rename(final)


def steps(directory: Path) -> list[int]:
    """Steps with a checkpoint, ascending.

    Raises:
      UserError: where a plain file stands in place of a folder.
    """
    if not directory.is_dir():
        if directory.is_file():  # not `exists`: a run may just be making it
            raise UserError(f"{directory} is a file where checkpoints should be; move it away.")
        return []
    found = [path for path in directory.iterdir() if re.fullmatch("[0-9]+", path.name)]
    if files := [path for path in found if not path.is_dir()]:
        raise UserError(f"{files[0]} is a file where a checkpoint should be; move it away.")
    return sorted(int(path.name) for path in found)


def restore(path: Path, checkpoint: tf.train.Checkpoint, partial: bool = False) -> None:
    """Restores one checkpoint folder; fails unless every existing variable is in it.

    Args:
      path: the checkpoint's folder.
      checkpoint: the variables.
      partial: whether the folder may hold more than these; otherwise the log warns of what it has
        beside them.

    Raises:
      UserError: where a variable is missing or has another shape.
      One of `DAMAGE`: where the files are damaged.
    """
    try:
        with _prefix(path) as prefix:
            status = checkpoint.read(prefix)
            (status.expect_partial() if partial else status).assert_existing_objects_matched()
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"checkpoint {path} doesn't fit this network and optimizer: their settings (network, "
            "loss, optimizer, data.games) aren't those that it was saved with. Take back the "
            f"change, or choose another --workdir. TensorFlow says: {error}"
        ) from error


@contextlib.contextmanager
def _prefix(path: Path) -> Iterator[str]:
    """What TensorFlow reads a checkpoint folder's variables by, as long as the context lasts.

    It takes a name for a pattern, and so doesn't find what lies in a folder such as `lr=[0.1]`,
    where it has written: there it goes by a link.
    """
    if not re.search(r"[\[*?\\]", str(path)):
        yield str(path / PREFIX)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "checkpoint"
        link.symlink_to(path.resolve())
        yield str(link / PREFIX)


def restore_network(path: Path, network: tf.keras.Model) -> None:
    """Restores a network alone, as `restore`: what else the checkpoint holds isn't missed."""
    restore(path, tf.train.Checkpoint(network=network), partial=True)


def restore_latest(
    directory: Path, target: T, restore_one: Callable[[Path, T], None] = restore
) -> int | None:
    """Restores the newest intact checkpoint into existing variables, every one of them.

    A damaged one is reported and passed over.

    Args:
      directory: of all checkpoints.
      target: what is restored.
      restore_one: how, from one checkpoint folder.

    Returns:
      Its step, or None where there is no checkpoint at all.

    Raises:
      UserError: where all are damaged, or one doesn't fit the variables.
    """
    found = steps(directory)
    for step in reversed(found):
        try:
            restore_one(directory / f"{step:010d}", target)
            read_extra(directory, step)
            return step
        except DAMAGE as error:
            logging.warning("checkpoint %s/%010d is damaged (%s); trying an older one",
                            directory, step, str(error).splitlines()[0])  # fmt: skip
    if found:
        raise UserError(
            f"all checkpoints in {directory} are damaged ({found}). A run starts from scratch "
            "where that folder is gone."
        )
    return None


def read_extra(directory: Path, step: int) -> dict[str, Any]:
    """What was saved with a step beside its variables; {} where that is nothing, or step is 0.

    Raises:
      One of `DAMAGE`: where the file is missing, or not what was written. Files from before it had
        a checksum are plain JSON.
    """
    folder = directory / f"{step:010d}"
    if not folder.exists():
        return {}
    try:
        content = (folder / EXTRA).read_text()
        if not content.startswith("{"):
            checksum, _, content = content.partition(" ")
            if checksum != f"{zlib.crc32(content.encode()):08x}":
                raise ValueError("its checksum is wrong")
        extra = files.parse_json(content)
        if not isinstance(extra, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise tf.errors.DataLossError(None, None, f"{folder / EXTRA}: {error}") from error
    return extra


def not_finite(variables: Sequence[tf.Variable]) -> list[str]:
    """Names of the variables that hold infinity or NaN."""
    floats = (v for v in variables if v.dtype.is_floating)
    return [v.name for v in floats if not bool(tf.reduce_all(tf.math.is_finite(v)))]


def restore_encoder(path: Path, encoder: tf.keras.Model) -> None:
    """Restores a network's encoder alone from one checkpoint folder of another run.

    Raises:
      UserError: where the encoder there is another one; says which layers.
      One of `DAMAGE`: where the files are damaged.
    """
    with _prefix(path) as prefix:
        reader = tf.train.load_checkpoint(prefix)
        there = {
            "layer {} {}".format(*match.groups()): (name, tuple(shape))
            for name, shape in reader.get_variable_to_shape_map().items()
            if (match := _ENCODER_VARIABLE.fullmatch(name))
        }
        here = _by_layer(encoder)
        differences = [
            f"{layer}: {there[layer][1] if layer in there else 'absent'} there, "
            f"{tuple(here[layer].shape) if layer in here else 'absent'} here"
            for layer in sorted(there.keys() | here.keys(), key=lambda name: int(name.split()[1]))
            if layer not in there or layer not in here or there[layer][1] != here[layer].shape
        ]
        if differences:
            more = [f"and {len(differences) - _SHOWN} more"] if len(differences) > _SHOWN else []
            raise UserError(
                "\n  ".join(
                    [f"checkpoint {path} holds another encoder:", *differences[:_SHOWN], *more]
                )
            )
        for layer, variable in here.items():
            variable.assign(reader.get_tensor(there[layer][0]))


def restore_parts(
    path: Path, network: tf.keras.Model, there: Sequence[str], here: Sequence[str]
) -> None:
    """Restores encoder, feed-forward layers, and the heads of the games that are in both lists.

    Args:
      path: one checkpoint folder of another run.
      network: a `QNetwork` of the same shape, except for the number of heads.
      there: that run's games, in the order of its heads.
      here: the network's.

    Raises:
      UserError: where the layers there have other shapes.
      One of `DAMAGE`: where the files are damaged.
    """
    restore_encoder(path, network.encoder)
    with _prefix(path) as prefix:
        part = tf.train.Checkpoint(network=tf.train.Checkpoint(feed_forward=network.feed_forward))
        try:
            part.read(prefix).expect_partial().assert_existing_objects_matched()
        except (AssertionError, ValueError) as error:
            raise UserError(
                f"checkpoint {path} holds other feed-forward layers: {error}"
            ) from error
        reader = tf.train.load_checkpoint(prefix)
        for name in ("kernel", "bias"):
            variable = getattr(network.heads, name)
            stored = reader.get_tensor(f"network/heads/{name}/.ATTRIBUTES/VARIABLE_VALUE")
            rows = [stored[there.index(game)] if game in there else row
                    for game, row in zip(here, variable.numpy())]  # fmt: skip
            variable.assign(np.stack(rows))


def _by_layer(encoder: tf.keras.Model) -> dict[str, tf.Variable]:
    """Variables as "layer 3 kernel", counted as a checkpoint counts: layers that have some."""
    with_weights = (layer for layer in encoder.layers if layer.weights)
    return {
        f"layer {number} {variable.name.split('/')[-1].split(':')[0]}": variable
        for number, layer in enumerate(with_weights)
        for variable in layer.weights
    }
