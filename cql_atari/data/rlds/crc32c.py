"""CRC-32C, the checksum of TFRecord files, in NumPy."""

from __future__ import annotations

import functools

import numpy as np

_CASTAGNOLI = 0x82F63B78  # the polynomial, reversed
_SEED = bytes.fromhex("54641f64")  # leaves the register at all ones, where every message starts


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), at some 250 MB/s in plain NumPy.

    The register is linear in the message: for two runs of words it is the register of the left one,
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
