"""Packed segments: exact, complete, of nearly equal length, refused with the wrong n."""

from __future__ import annotations

import lz4.frame
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_episodes import make_episode

from cql_atari.feed.replay.segments import ROWS, pack_segments, unpack_segment
from cql_atari.feed.transitions import pad


@given(st.integers(0, 70), st.integers(1, 5), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=40)
def test_every_valid_row_once_and_unchanged(length, n_step, terminal, starts):
    whole = pad(make_episode(1, length, terminal=terminal, starts=starts), n_step, 0.9)
    rows = np.flatnonzero(whole.valid)
    lengths = []
    for packed, count in pack_segments(whole, n_step):
        segment = unpack_segment(packed, n_step)
        mine = rows[sum(lengths) : sum(lengths) + count]
        np.testing.assert_array_equal(segment.actions, whole.actions[mine])
        np.testing.assert_array_equal(segment.rewards, whole.rewards[mine])
        np.testing.assert_array_equal(segment.discounts, whole.discounts[mine])
        assert len(segment.frames) == count + 3 + n_step
        for r, row in enumerate(mine):
            window = whole.frames[row : row + 4 + n_step]
            np.testing.assert_array_equal(segment.frames[r : r + 4 + n_step], window)
        lengths.append(count)
    assert sum(lengths) == len(rows)
    assert not lengths or (max(lengths) <= ROWS and max(lengths) - min(lengths) <= 1)
    assert len(lengths) == -(-len(rows) // ROWS)


def test_bytes_that_are_no_segment_are_refused():
    """Seven bytes once ended a learner with an error of the library that decompresses."""
    packed, _ = next(pack_segments(pad(make_episode(0, 40), 1, 0.9), 1))
    bomb = lz4.frame.compress(bytes(1 << 28))
    flipped = packed[:40] + bytes([packed[40] ^ 1]) + packed[41:]
    cut = (packed[:-1], packed[:-9])
    for wrong in (b"", b"no LZ4", flipped, *cut, packed + b"x", bomb):
        with pytest.raises(ValueError, match=f"{len(wrong)} bytes"):
            unpack_segment(wrong, 1)


def test_another_n_is_refused():
    packed, _ = next(pack_segments(pad(make_episode(0, 40), 3, 0.9), 3))
    for n_step in (1, 2, 4):
        with pytest.raises(ValueError, match=f"n_step={n_step}"):
            unpack_segment(packed, n_step)
