"""A network's weights as one file of plain arrays (safetensors): no pickle, nothing executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf

from cql_atari.core.types import UserError
from cql_atari.system import files

FILE = "weights.safetensors"
_SHOWN = 10  # differences that an error lists


def is_export(directory: Path) -> bool:
    """Whether the folder is an exported run, which has its weights here and no checkpoints."""
    return (directory / FILE).is_file()


def named(network: tf.keras.Model) -> dict[str, tf.Variable]:
    """A network's variables, by the names that they have in checkpoints, e.g. "heads/kernel"."""
    view = tf.train.TrackableView(network)
    names: dict[int, tuple[str, ...]] = {id(network): ()}
    queue, found = [network], {}
    for node in queue:  # breadth first, as checkpoints name what several parts share
        for name, child in view.children(node).items():
            if id(child) in names:
                continue
            names[id(child)] = (*names[id(node)], name)
            queue.append(child)
            if isinstance(child, tf.Variable):
                found["/".join(names[id(child)])] = child
    return found


def save(path: Path, network: tf.keras.Model, notes: Mapping[str, str]) -> None:
    """Writes a network's variables to a new file, with notes beside them."""
    arrays = {name: variable.numpy() for name, variable in named(network).items()}
    files.write_whole(path, safetensors.numpy.save(arrays, metadata=dict(notes)))


def read_into(path: Path, network: tf.keras.Model) -> dict[str, str]:
    """Reads a file into a network: every variable takes its value from there.

    Args:
      path: what `save` wrote, or anyone else: it is only read.
      network: of the same shape.

    Returns:
      The notes.

    Raises:
      UserError: where the file is damaged, or doesn't hold exactly these variables.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            notes = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise UserError(f"{path} is damaged, or no safetensors file: {error}") from error
    variables = named(network)
    there = {name: _kind(array) for name, array in arrays.items()}
    here = {name: _kind(variable) for name, variable in variables.items()}
    wrong = [
        f"  {name}: {there.get(name, 'absent')} there, {here.get(name, 'absent')} expected"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if wrong:
        more = [f"  and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        raise UserError(
            "\n".join([f"{path} doesn't hold the network of its config.json:", *wrong[:_SHOWN]])
            + "\n".join(["", *more])
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return notes


def _kind(array: np.ndarray | tf.Variable) -> str:
    return f"{np.dtype(getattr(array.dtype, 'as_numpy_dtype', array.dtype))}{tuple(array.shape)}"
