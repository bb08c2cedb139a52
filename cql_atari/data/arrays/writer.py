"""Writes episodes as plain arrays: a folder of `.npy` files a suffix, as `files.py` describes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.lib import format as npy

from cql_atari.core.types import FRAME_SHAPE, Episode, Extent, UserError
from cql_atari.data.conversion import (
    CONVERSION,
    Converted,
    partial_folder,
    read_conversion,
    to_text,
)
from cql_atari.data.format import Target
from cql_atari.data.shared import LONGEST, Report, extent_of
from cql_atari.system.files import move, sync, write_whole

_DTYPES: dict[str, np.dtype] = {
    "frames": np.dtype(np.uint8),
    "actions": np.dtype(np.int32),
    "rewards": np.dtype(np.float32),
    "terminals": np.dtype(bool),
    "starts": np.dtype(bool),
}


def write_suffix(
    target: Target, episodes: Iterable[Episode], source: Mapping[str, Any], report: Report
) -> list[Extent]:
    """Adds a suffix, see `format.Writing`; actions are indices of the full set.

    Raises:
      UserError: also where steps of a game are left out between two episodes, as in play that was
        packed with --exclude: nothing in the arrays would tell them apart.
    """
    folder = target.folder
    extents: list[Extent] = []
    with partial_folder(folder) as new:
        with contextlib.ExitStack() as stack:
            files = {n: stack.enter_context(open(new / f"{n}.npy", "wb+")) for n in _DTYPES}
            for name, file in files.items():
                _write_header(file, name, 0)
            for episode in episodes:
                before = extents[-1] if extents else None
                # Readers cut what is longer; its parts do belong together.
                if before and not (before.terminal or episode.starts or before.steps >= LONGEST):
                    raise UserError(
                        f"suffix {target.suffix} of {target.game} lacks steps in mid-game, and "
                        "arrays can't say so: the parts before and behind would be one episode. "
                        "Convert it to RLDS (--to=rlds)."
                    )
                _append(files, episode)
                extents.append(extent_of(episode))
                report(extents[-1].steps)
            for name, file in files.items():
                _write_header(file, name, sum(extent.steps for extent in extents))
        np.save(new / "game.npy", target.game, allow_pickle=False)
        np.save(new / "action_set.npy", "full", allow_pickle=False)
        for path in new.iterdir():
            sync(path)
        noted = {**read_conversion(folder), target.suffix: Converted(source, extents)}
        write_whole(folder / CONVERSION, to_text(noted))
        if extents:  # arrays without a step are no suffix
            move(new, folder / str(target.suffix))
    return extents


def _append(files: Mapping[str, Any], episode: Episode) -> None:
    flags = np.zeros((2, len(episode.frames)), bool)
    flags[0, -1], flags[1, 0] = episode.terminal, episode.starts
    columns: tuple[np.ndarray, ...] = (episode.frames, episode.actions, episode.rewards, *flags)
    for (name, dtype), values in zip(_DTYPES.items(), columns):
        files[name].write(np.ascontiguousarray(values, dtype).data)


def _write_header(file: Any, name: str, length: int) -> None:
    """Writes the header at the file's start; NumPy leaves room in it for longer lengths."""
    file.seek(0)
    shape = (length, *FRAME_SHAPE) if name == "frames" else (length,)
    fields = {"descr": npy.dtype_to_descr(_DTYPES[name]), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, fields)
