"""What converting leaves in a recording's folder: `conversion.json`, and unfinished files.

`conversion.json` lists for each suffix the files that it was made of and the extents of its
episodes, so that they needn't be counted again.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cql_atari.core.types import Extent, UserError
from cql_atari.data.shared import BAD_JSON, PathLike
from cql_atari.data.untrusted import exists, open_file
from cql_atari.system.files import parse_json, writing

CONVERSION = "conversion.json"
CONVERSION_FORMAT = "cql_atari conversion 1"


class Converted(NamedTuple):
    """A suffix that was converted.

    Attributes:
      source: fingerprints of the files that it was made of.
      extents: of its episodes.
    """

    source: Mapping[str, Any]
    extents: list[Extent]


def read_conversion(path: PathLike) -> dict[int, Converted]:
    """What is noted in a recording's folder, by suffix; nothing where there is no such file.

    Raises:
      UserError: where the file can't be read or wasn't written by `tools.convert`.
    """
    name = f"{path}/{CONVERSION}"
    if not exists(name):
        return {}
    try:
        with open_file(name) as (file, size):
            content = parse_json(file.read(size))
        if content["format"] != CONVERSION_FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        return {
            int(suffix): Converted(dict(split["source"]), [_extent(*e) for e in split["extents"]])
            for suffix, split in content["splits"].items()
        }
    except BAD_JSON as error:
        raise UserError(
            f"{name} wasn't written by cql_atari.tools.convert ({error!r}); remove it."
        ) from error


def to_text(noted: Mapping[int, Converted]) -> str:
    """The file's text, which `read_conversion` reads back."""
    splits = {suffix: converted._asdict() for suffix, converted in noted.items()}
    return json.dumps({"format": CONVERSION_FORMAT, "splits": splits}) + "\n"


@contextlib.contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """An empty hidden folder in a recording's folder, for unfinished files; removed at the end.

    Raises:
      UserError: for any OSError in the context: there is no room, or a file can't be written.
    """
    partial = folder / ".partial"
    try:
        with writing(folder):
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            partial.mkdir(parents=True)
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def noted_extents(path: PathLike, suffix: int, number: int) -> list[Extent] | None:
    """What is noted of a suffix's episodes, of which there are `number`; None where nothing is.

    Raises:
      UserError: where the number of episodes differs, and as `read_conversion`.
    """
    if (converted := read_conversion(path).get(suffix)) is None:
        return None
    if len(converted.extents) != number:
        raise UserError(
            f"{path}/{CONVERSION} has {len(converted.extents)} episodes of suffix {suffix}, the "
            f"data {number}: it is of another data set; remove it."
        )
    return converted.extents


def check_extents(path: PathLike, where: str, noted: Extent, found: Sequence[Extent]) -> None:
    """Compares the noted extent of the episode `where` with what was found.

    Raises:
      UserError: naming the file.
    """
    if [extent[:3] for extent in found] != [noted[:3]] or noted.total not in (None, found[0].total):
        raise UserError(
            f"{path}/{CONVERSION} says that {where} has {tuple(noted)} (steps, terminal, starts, "
            f"return), but it has {[*map(tuple, found)]}: it is of another data set; remove it."
        )


def _extent(steps: Any, terminal: Any, starts: Any, total: Any = None) -> Extent:
    total = None if total is None else float(total)
    return Extent(int(steps), bool(terminal), bool(starts), total)
