"""The files of an RLDS data set: which splits and shards there are, and their records, checked.

`rlds.py` says what a data set is and makes episodes of its records.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cql_atari.core.types import Extent, UserError
from cql_atari.data.dopamine.files import PathLike, Ranges
from cql_atari.data.rlds.tfrecord import exists, open_file, records

NAME, VERSION = "rlu_atari_checkpoints_ordered", "1.1.0"  # as TensorFlow Datasets 4.9.10 has them
INFO = "dataset_info.json"
CONVERSION = "conversion.json"
CONVERSION_FORMAT = "cql_atari conversion 1"

_JSON_LIMIT = 1 << 26  # bytes; the extents of 50 splits take about one million
_SPLIT = re.compile(r"checkpoint_(\d{1,9})")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # TFDS's, where a split names none
_MOST_EPISODES = 10**7  # of a split; those of DQN-Replay have a million steps
_SAMPLE = 1 << 16  # bytes at either end of a shard that its fingerprint is taken of
_EXPECTED = (
    "expected <dir>/rlu_atari_checkpoints_ordered/<Game>_run_<run>/<version>, as "
    "tfds.builder(...).download_and_prepare() or `python -m cql_atari.tools.convert` makes it"
)


class Shard(NamedTuple):
    """A TFRecord file and how many records it must hold."""

    path: str
    records: int


def list_suffixes(path: PathLike) -> list[int]:
    """The K of the splits `checkpoint_K`, in numerical order.

    Raises:
      UserError: if there is no readable `dataset_info.json`, or it names no such split.
    """
    return sorted(_read_splits(str(path))[1])


def choose_shards(
    path: PathLike, game: str | None, suffixes: Sequence[int] | None
) -> dict[int, list[Shard]]:
    """The shards of the given splits, or of all, each in order.

    Raises:
      UserError: as `list_suffixes`; where a split isn't there, or it is another game's data set.
    """
    config_name, splits = _read_splits(str(path))
    if game and config_name and not config_name.startswith(f"{game}_run_"):
        raise UserError(f"{path} holds {config_name} ({INFO}), not {game}; rename its folder.")
    chosen = sorted(splits) if suffixes is None else suffixes
    if absent := [suffix for suffix in chosen if suffix not in splits]:
        raise UserError(f"no split of suffix {absent} in {path}; there are {sorted(splits)}.")
    return {suffix: splits[suffix] for suffix in chosen}


def keep(shards: Sequence[Shard], fraction: float, gaps: Ranges) -> list[bool]:
    """Of each of a split's records, in order, whether it is in the first part and in no gap."""
    total = sum(shard.records for shard in shards)
    end = math.ceil(round(total * fraction, 6))  # rounded as the .gz reader does
    return [p < end and not any(low <= p < high for low, high in gaps) for p in range(total)]


def kept_records(shards: Sequence[Shard], kept: Sequence[bool]) -> Iterator[tuple[str, bytes]]:
    """Yields (where it is, data) of a split's kept records.

    Raises:
      UserError: as `tfrecord.records`.
    """
    start = 0
    for path, number in shards:
        for position, data in records(path, kept[start : start + number]):
            yield f"{path}: record {position} (episode {start + position} of the split)", data
        start += number


def fingerprints(path: PathLike, suffix: int) -> dict[str, list[int | str]]:
    """Size in bytes and a checksum (hexadecimal) of each of a split's shards.

    The checksum is the CRC-32 of the first and the last 64 KiB: a TFRecord file has none of its
    own, and reading it all takes too long. (Each record's own is verified when it is read.)
    """
    found: dict[str, list[int | str]] = {}
    for shard in choose_shards(path, None, [suffix])[suffix]:
        with open_file(shard.path) as (file, size):
            checksum = zlib.crc32(file.read(_SAMPLE))
            file.seek(max(size - _SAMPLE, 0))
            checksum = zlib.crc32(file.read(_SAMPLE), checksum)
        found[shard.path.rpartition("/")[2]] = [size, f"{checksum:08x}"]
    return found


def read_conversion(path: PathLike) -> Mapping[int, Mapping[str, Any]]:
    """What `tools.convert` notes in `conversion.json`, by suffix; nothing where there is none.

    Each value holds `extents`, a list of `Extent`s, and `source`, the fingerprints of the `.gz`
    files.

    Raises:
      UserError: where the file can't be read or is none of convert's.
    """
    name = f"{path}/{CONVERSION}"
    if not exists(name):
        return {}
    try:
        content = _read_json(name)
        if content["format"] != CONVERSION_FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        return {
            int(suffix): {
                "source": split["source"],
                "extents": [Extent(int(n), bool(t), bool(s)) for n, t, s in split["extents"]],
            }
            for suffix, split in content["splits"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{name} is none of cql_atari.tools.convert's ({error!r}); remove it."
        ) from error


def _read_splits(path: str) -> tuple[str, dict[int, list[Shard]]]:
    """A data set's configuration ("" where it names none) and the shards by suffix."""
    name = f"{path}/{INFO}"
    if not exists(name):
        raise UserError(f"{path} is no TFDS data set: it has no {INFO}; {_EXPECTED}.")
    try:
        info = _read_json(name)
        file_format = info.get("fileFormat", "tfrecord")
        if file_format != "tfrecord":
            raise ValueError(f"its fileFormat is {file_format!r}, only 'tfrecord' can be read")
        splits = {
            int(match[1]): _shards(path, str(info["name"]), split)
            for split in info.get("splits", [])
            if (match := _SPLIT.fullmatch(split["name"]))
        }
        config_name = str(info.get("configName", ""))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{name} is no description of a TFDS data set ({error!r}).") from error
    if not splits:
        raise UserError(f"{name} names no split checkpoint_K; {_EXPECTED}.")
    return config_name, splits


def _shards(path: str, dataset: str, split: Mapping[str, Any]) -> list[Shard]:
    lengths = [int(length) for length in split.get("shardLengths", [])]
    if min(lengths, default=0) < 0 or sum(lengths) > _MOST_EPISODES:
        raise ValueError(f"{split['name']} has shardLengths {lengths}")
    shards = []
    for index, length in enumerate(lengths):
        name = str(split.get("filepathTemplate") or _TEMPLATE)
        for word, value in (
            ("SHARD_X_OF_Y", "{SHARD_INDEX}-of-{NUM_SHARDS}"),
            ("SHARD_INDEX", f"{index:05d}"),
            ("NUM_SHARDS", f"{len(lengths):05d}"),
            ("DATASET", dataset),
            ("SPLIT", split["name"]),
            ("FILEFORMAT", "tfrecord"),
        ):
            name = name.replace(f"{{{word}}}", value)
        if "/" in name or "{" in name:
            raise ValueError(f"{split['name']} lies in {name!r}")
        shards.append(Shard(f"{path}/{name}", length))
    return shards


def _read_json(path: str) -> Any:
    with open_file(path) as (file, size):
        if size > _JSON_LIMIT:
            raise ValueError(f"it has {size:,} bytes")
        return json.loads(file.read())
