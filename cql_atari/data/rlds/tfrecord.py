"""Reads TFRecord files record by record, from disk or a bucket, never trusting the file.

A record is its length (8 bytes), that length's checksum (4), the data and the data's checksum (4),
little-endian. TensorFlow's own reader allocates whatever a length says (a forged one ends the
process), takes a file cut between two records for a whole one, and can't step over a damaged
record; this one holds each length against the file's size, knows how many records there must be,
and passes over records unread.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from cql_atari.core.types import UserError
from cql_atari.data.remote_file import MEND, blaming, open_file

_CASTAGNOLI = 0x82F63B78  # CRC-32C's polynomial, reversed
_SEED = bytes.fromhex("54641f64")  # leaves the register at all ones, where every message starts
_HEADER, _FOOTER = 12, 4  # bytes


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
                raise UserError(f"{where} is missing; the file is cut. {MEND}")
            if not _matches(header[:8], header[8:]):
                raise UserError(f"{where}: the checksum of its length is wrong. {MEND}")
            length = int.from_bytes(header[:8], "little")
            start += _HEADER + length + _FOOTER
            if start > size:
                raise UserError(f"{where} goes beyond the file's end; the file is cut. {MEND}")
            if not keep[position]:
                file.seek(start)
                continue
            body = file.read(length + _FOOTER)
            if not _matches(body[:length], body[length:]):
                raise UserError(f"{where}: its checksum is wrong. {MEND}")
            yield position, body[:length]
        if keep[-1] and start != size:
            raise UserError(f"{path} goes on after its {len(keep)} records. {MEND}")


def _matches(data: bytes, stored: bytes) -> bool:
    """Whether `stored` is the masked checksum of `data`, as TFRecord files hold it."""
    crc = crc32c(data)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return masked.to_bytes(4, "little") == stored


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), at some 250 MB/s in plain NumPy.

    The register is linear in the message: that of two runs of words is that of the left one,
    advanced over as many zeros as the right one is long, XOR that of the right one. So words are
    joined to pairs, pairs to fours, and so on; zeros in front change nothing.
    """
    message = _SEED + data
    words = np.frombuffer(bytes(-len(message) % 4) + message, "<u4")
    level = 0
    while len(words) > 1:
        if len(words) % 2:
            words = np.concatenate([np.zeros(1, "<u4"), words])
        words = _advance(words[0::2], level) ^ words[1::2]
        level += 1
    return int(_advance(words, 0)[0]) ^ 0xFFFFFFFF


def _advance(registers: np.ndarray, level: int) -> np.ndarray:
    """Registers, uint32, after 2^level words of zeros."""
    low, high = _advanced(level)
    return low.take(registers & 0xFFFF) ^ high.take(registers >> 16)


@functools.cache
def _advanced(level: int) -> np.ndarray:
    """Every register of which one half is zero, after 2^level words of zeros.

    Returns uint32 [2, 65536], first by the low half, then by the high one.
    """
    if level:
        return _advance(_advanced(level - 1), level - 1)
    registers = np.arange(1 << 16, dtype="<u4") << np.array([[0], [16]], "<u4")
    for _ in range(32):
        registers = (registers >> 1) ^ (registers & 1) * np.uint32(_CASTAGNOLI)
    return registers
