"""RLDS of TensorFlow Datasets, as a format."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from cql_atari.data.format import Format, Writing
from cql_atari.data.rlds import check, files, reader, writer
from cql_atari.data.shared import Recording, list_folder

NAMES = (files.NAME, "rlu_atari_checkpoints")
_RUN = re.compile(r"([A-Za-z]+)_run_(0|[1-9][0-9]{0,8})")
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*")


def locate(directory: str, game: str, run: int) -> str | None:
    """The newest version of one run's data set below a data folder or address, if there is any."""
    for name in NAMES:
        base = f"{directory.rstrip('/')}/{name}/{game}_run_{run}"
        if versions := list_versions(base):
            return f"{base}/{versions[-1]}"
    return None


def list_versions(path: str) -> list[str]:
    """Names of the version folders in a directory, oldest first; none where it doesn't exist."""
    if "://" in path:
        import tensorflow as tf

        names = tf.io.gfile.listdir(path) if tf.io.gfile.isdir(path) else []
        names = [name.rstrip("/") for name in names]
    else:
        names = [p.name for p in Path(path).iterdir()] if Path(path).is_dir() else []
    versions = filter(_VERSION.fullmatch, names)
    return sorted(versions, key=lambda version: [int(part) for part in version.split(".")])


def find_recordings(folder: Path) -> list[Recording]:
    """The data sets in a folder at any level; of several versions the newest, as training takes."""
    return list(_find(Path(os.path.abspath(folder))))


def _find(folder: Path) -> Iterator[Recording]:
    if match := _RUN.fullmatch(folder.name):
        versions = list_versions(str(folder))
        path = folder / versions[-1] if versions else folder
        yield Recording(match[1], int(match[2]), str(path), str(folder.parents[1]))
    elif (match := _RUN.fullmatch(folder.parent.name)) and (folder / files.INFO).exists():
        yield Recording(match[1], int(match[2]), str(folder), str(folder.parents[2]))
    elif folder.is_dir():
        for name in list_folder(folder):
            child = folder / name
            if (name in NAMES or _RUN.fullmatch(name)) and child.is_dir():
                yield from _find(child)


def folder_of(out_dir: Path, game: str, run: int) -> Path:
    """Where `tools.convert` puts one run."""
    return out_dir / files.NAME / f"{game}_run_{run}" / files.VERSION


def suffixes_there(folder: Path) -> list[int]:
    """The splits that a data set's folder holds whole."""
    return files.list_suffixes(folder) if (folder / files.INFO).exists() else []


RLDS = Format(
    name="rlds",
    layout=f"{files.NAME}/<Game>_run_<run>/<version>/, as TensorFlow Datasets prepares it "
    f"(or {NAMES[1]}/...)",
    locate=locate,
    find_recordings=find_recordings,
    list_suffixes=files.list_suffixes,
    read_suffix=reader.read_suffix,
    survey=reader.survey,
    count=reader.count,
    fingerprints=files.fingerprints,
    total_bytes=check.total_bytes,
    check_suffix=check.check_suffix,
    writing=Writing(folder_of, suffixes_there, writer.write_split),
)
