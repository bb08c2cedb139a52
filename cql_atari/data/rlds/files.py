"""The files of an RLDS data set: finds its splits and shards, reads and checks their records.

`reader.py` says what a data set is. A record of a TFRecord file is its length (8 bytes), that
length's checksum (4), the data and the data's checksum (4), little-endian. TensorFlow's own reader
allocates whatever a length says (a forged one kills the process), accepts a file that is cut
between two records, and can't skip a damaged record. `records` compares each length with the
file's size and the number of records with the expected one, and can skip records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cql_atari.core.types import UserError
from cql_atari.data.rlds.crc32c import crc32c
from cql_atari.data.shared import BAD_JSON, Fingerprints, PathLike, Ranges, first_part
from cql_atari.data.untrusted import FIX, blaming, exists, fingerprint, open_file
from cql_atari.system.files import parse_json

NAME, VERSION = "rlu_atari_checkpoints_ordered", "1.1.0"  # as TensorFlow Datasets 4.9.10 has them
INFO = "dataset_info.json"

_SPLIT = re.compile(r"checkpoint_([0-9]{1,9})")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # TFDS's, where a split names none
_HEADER, _FOOTER = 12, 4  # bytes of a TFRecord file around each record
_MOST_EPISODES = 10**7  # of a split; DQN-Replay's splits have a million steps
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


def list_shards(path: PathLike, game: str | None, suffix: int) -> list[Shard]:
    """The shards of a split, in order.

    Raises:
      UserError: as `list_suffixes`; where there is no such split, or it is another game's data set.
    """
    config_name, splits = _read_splits(str(path))
    if game and config_name and not config_name.startswith(f"{game}_run_"):
        raise UserError(f"{path} holds {config_name} ({INFO}), not {game}; rename its folder.")
    if suffix not in splits:
        raise UserError(f"no split of suffix {suffix} in {path}; there are {sorted(splits)}.")
    return splits[suffix]


def keep(shards: Sequence[Shard], fraction: float, gaps: Ranges) -> list[bool]:
    """For each record of a split, in order: whether it is in the first part and in no gap."""
    total = sum(shard.records for shard in shards)
    end = first_part(total, fraction)
    return [p < end and not any(low <= p < high for low, high in gaps) for p in range(total)]


def kept_records(shards: Sequence[Shard], kept: Sequence[bool]) -> Iterator[tuple[int, str, bytes]]:
    """Yields (position in the split, where it is, data) of a split's kept records.

    Raises:
      UserError: as `records`.
    """
    start = 0
    for path, number in shards:
        for position, data in records(path, kept[start : start + number]):
            nth = start + position
            yield nth, f"{path}: record {position} (episode {nth} of the split)", data
        start += number


def records(path: str, keep: Sequence[bool]) -> Iterator[tuple[int, bytes]]:
    """Yields (position, data) of the records to keep; each checksum is verified.

    Memory: one record. Nothing is read behind the last record to keep; if that is the file's last,
    the file must end there.

    Args:
      path: local, or an address that `tf.io.gfile` knows.
      keep: whether to yield each record; as long as the file has records.

    Raises:
      UserError: naming path and record, where the file can't be read, is no TFRecord file, is
        damaged or cut, or holds another number of records.
    """
    wanted = [position for position, kept in enumerate(keep) if kept]
    if not wanted:
        return
    with open_file(path) as (file, size), blaming(path):
        start = 0
        for position in range(wanted[-1] + 1):
            where = f"{path}: record {position} of {len(keep)}"
            header = file.read(_HEADER)
            if len(header) < _HEADER:
                raise UserError(f"{where} is missing; the file is cut. {FIX}")
            if not _matches(header[:8], header[8:]):
                raise UserError(f"{where}: the checksum of its length is wrong. {FIX}")
            length = int.from_bytes(header[:8], "little")
            start += _HEADER + length + _FOOTER
            if start > size:
                raise UserError(f"{where} goes beyond the file's end; the file is cut. {FIX}")
            if not keep[position]:
                file.seek(start)
                continue
            body = file.read(length + _FOOTER)
            if not _matches(body[:length], body[length:]):
                raise UserError(f"{where}: its checksum is wrong. {FIX}")
            yield position, body[:length]
        if keep[-1] and start != size:
            raise UserError(f"{path} goes on after its {len(keep)} records. {FIX}")


def _matches(data: bytes, stored: bytes) -> bool:
    """Whether `stored` is the masked checksum of `data`, as TFRecord files hold it."""
    crc = crc32c(data)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return masked.to_bytes(4, "little") == stored


def fingerprints(path: PathLike, suffix: int) -> Fingerprints:
    """Size and a checksum of both ends of each of a split's shards.

    Each record has a checksum of its own, which is verified when it is read.
    """
    shards = list_shards(path, None, suffix)
    return {shard.path.rpartition("/")[2]: fingerprint(shard.path) for shard in shards}


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
    except BAD_JSON as error:
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
            raise ValueError(f"{split['name']} has its files in {name!r}")
        shards.append(Shard(f"{path}/{name}", length))
    return shards


def _read_json(path: str) -> Any:
    with open_file(path) as (file, size):
        return parse_json(file.read(size))
