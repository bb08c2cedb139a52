"""Writes episodes as plain arrays: a folder of `.npy` files a suffix, as `files.py` describes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from cql_atari.core.types import FRAME_SHAPE, Episode, Extent, UserError
from cql_atari.data.conversion import CONVERSION, Converted, read_conversion, to_text
from cql_atari.data.shared import Report, total_reward
from cql_atari.system.files import move, write_whole

_DTYPES: dict[str, np.dtype] = {
    "frames": np.dtype(np.uint8),
    "actions": np.dtype(np.int32),
    "rewards": np.dtype(np.float32),
    "terminals": np.dtype(bool),
    "starts": np.dtype(bool),
}


def write_suffix(
    folder: Path,
    partial: Path,
    *,
    game: str,
    run: int,
    suffix: int,
    episodes: Iterable[Episode],
    source: Mapping[str, Any],
    report: Report,
) -> list[Extent]:
    """Adds a suffix to a run's arrays; it is there whole or not at all.

    Actions are indices of the full set. Memory: one episode.

    Args:
      folder: `<data_dir>/<Game>/<run>/arrays`. May hold other suffixes.
      partial: an empty folder on the same file system, for unfinished files.
      game: CamelCase name.
      run: number of the run; the folder's name says it.
      suffix: K.
      episodes: exhausted before anything shows in `folder`.
      source: noted in `conversion.json`: fingerprints of what the suffix was made of.
      report: called with the number of steps written since it was last called.

    Returns:
      The episodes' extents.

    Raises:
      UserError: where there is no room, or a file can't be written.
    """
    extents: list[Extent] = []
    new = partial / str(suffix)
    try:
        new.mkdir()
        files = {name: open(new / f"{name}.npy", "wb+") for name in _DTYPES}  # noqa: SIM115
        try:
            for name, file in files.items():
                _write_header(file, name, 0)
            for episode in episodes:
                extents.append(_append(files, episode))
                report(extents[-1].steps)
            for name, file in files.items():
                _write_header(file, name, sum(extent.steps for extent in extents))
                file.flush()
                os.fsync(file.fileno())
        finally:
            for file in files.values():
                file.close()
        np.save(new / "game.npy", game, allow_pickle=False)
        np.save(new / "action_set.npy", "full", allow_pickle=False)
        noted = {**read_conversion(folder), suffix: Converted(source, extents)}
        write_whole(folder / CONVERSION, to_text(noted))
        if not extents:
            return extents  # arrays of no step are no suffix
        move(new, folder / str(suffix))
        return extents
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise UserError(
            f"can't write {folder} ({error}); free some space or give another folder."
        ) from error


def _append(files: Mapping[str, Any], episode: Episode) -> Extent:
    length = len(episode.frames)
    flags = np.zeros((2, length), bool)
    flags[0, -1], flags[1, 0] = episode.terminal, episode.starts
    columns: tuple[np.ndarray, ...] = (episode.frames, episode.actions, episode.rewards, *flags)
    for (name, dtype), values in zip(_DTYPES.items(), columns):
        files[name].write(np.ascontiguousarray(values, dtype).data)
    terminal, starts = bool(episode.terminal), bool(episode.starts)
    return Extent(length, terminal, starts, total_reward(episode.rewards, terminal, starts))


def _write_header(file: Any, name: str, length: int) -> None:
    """Writes the header at the file's start; NumPy leaves room in it for longer lengths."""
    file.seek(0)
    shape = (length, *FRAME_SHAPE) if name == "frames" else (length,)
    fields = {"descr": npy.dtype_to_descr(_DTYPES[name]), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, fields)
