"""Files as DQN-Replay has them, read back by Dopamine's buffer and by our reader."""

from __future__ import annotations

import gzip
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from dopamine.replay_memory.circular_replay_buffer import OutOfGraphReplayBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.dopamine.writer import ReplayWriter

NAMES = {"observation": np.uint8, "action": np.int32, "reward": np.float32, "terminal": np.uint8}


def write(directory: Path, lengths: list[int], slots_per_file: int, last_ends: bool = True):
    """Episodes of these lengths; returns the stream of slots, padding included, as arrays."""
    directory.mkdir(exist_ok=True)
    writer = ReplayWriter(directory, slots_per_file)
    slots = []
    for episode, length in enumerate(lengths):
        slots += [(np.zeros((84, 84), np.uint8), 0, 0.0, 0)] * 3
        for t in range(length):
            frame = np.full((84, 84), 1 + len(slots) % 255, np.uint8)
            end = t == length - 1 and (last_ends or episode < len(lengths) - 1)
            slots.append((frame, len(slots) % 4, float(len(slots) % 3 - 1), int(end)))
            writer.add(*slots[-1])
    writer.finish()
    return {name: np.array(column, NAMES[name]) for name, column in zip(NAMES, zip(*slots))}


def load(directory: Path, suffix: int, slots: int) -> OutOfGraphReplayBuffer:
    buffer = OutOfGraphReplayBuffer((84, 84), 4, slots, 32)
    buffer.load(str(directory), str(suffix))
    return buffer


def test_a_run_of_one_file_by_hand(tmp_path):
    """Two episodes: 3 + 5 + 3 + 4 slots and the stale one; the cursor stands on the latter."""
    stream = write(tmp_path, [5, 4], slots_per_file=1_000_000)
    buffer = load(tmp_path, 0, 16)
    for name, dtype in NAMES.items():
        stored = buffer._store[name]
        assert stored.dtype == dtype and len(stored) == 16
        np.testing.assert_array_equal(stored[:15], stream[name])
        assert not stored[15].any()
        assert not stored[[0, 1, 2, 8, 9, 10]].any()  # padding
    assert buffer._store["terminal"].tolist() == [0] * 7 + [1] + [0] * 6 + [1, 0]
    assert buffer.add_count == 15 and buffer.add_count.shape == ()
    assert buffer.invalid_range.tolist() == [14, 15, 0, 1, 2]


def test_full_files_and_the_last_one_by_hand(tmp_path):
    """31 slots in files of 10, written at 9, 19 and 29; then at 31, whose cursor is 1."""
    stream = write(tmp_path, [28], slots_per_file=10)
    filled = [value[0, 0] for value in stream["observation"]]
    files = [load(tmp_path, suffix, 10) for suffix in range(4)]
    screens = [buffer._store["observation"][:, 0, 0].tolist() for buffer in files]
    assert screens[0] == [*filled[:9], 0]
    assert screens[1] == [*filled[10:19], filled[9]]
    assert screens[2] == [*filled[20:29], filled[19]]
    assert screens[3] == [filled[30], *filled[21:29], filled[29]]
    assert [int(buffer.add_count) for buffer in files] == [9, 19, 29, 31]
    assert files[2].invalid_range.tolist() == [8, 9, 0, 1, 2]
    assert files[3].invalid_range.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("steps, last", [(6, 0), (7, 0), (8, 1), (16, 1), (17, 1), (18, 2)])
def test_the_number_of_files(tmp_path, steps, last):
    """Files of 10 are written at 9 and 19 slots; slot 10 or 20 alone gets no file of its own."""
    write(tmp_path, [steps], slots_per_file=10)
    assert sorted({path.name.split(".")[-2] for path in tmp_path.iterdir()}) == [
        str(suffix) for suffix in range(last + 1)
    ]


def test_six_files_of_plain_gzip_and_npy_and_no_pickle(tmp_path):
    write(tmp_path, [5], slots_per_file=100)
    stores = [f"$store$_{name}_ckpt.0.gz" for name in NAMES]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*stores, "add_count_ckpt.0.gz", "invalid_range_ckpt.0.gz"]
    )
    for path in tmp_path.iterdir():
        np.load(io.BytesIO(gzip.decompress(path.read_bytes())), allow_pickle=False)


def test_the_same_play_gives_the_same_bytes(tmp_path):
    for name in "ab":
        write(tmp_path / name, [5, 9], slots_per_file=8)
    for path in (tmp_path / "a").iterdir():
        data = path.read_bytes()
        assert data == (tmp_path / "b" / path.name).read_bytes()
        assert data[4:8] == bytes(4)  # no time of writing in gzip's header


def test_memory_is_bounded_by_what_is_played(tmp_path):
    """These slots would take 1.4 GB, the bucket's million 7."""
    before = _resident_mb()
    writer = ReplayWriter(tmp_path, 200_000)
    for _ in range(500):
        writer.add(np.full((84, 84), 7, np.uint8), 1, 0.0, 0)
    writer.finish()
    assert _resident_mb() - before < 100


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    slots_per_file=st.integers(5, 40),
    last_ends=st.booleans(),
)
def test_files_joined_are_the_stream_and_our_reader_finds_every_step(
    lengths, slots_per_file, last_ends
):
    """Wherever a file's edge falls, in a step, an end or the padding."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        stream = write(directory, lengths, slots_per_file, last_ends)
        total = len(stream["action"])
        capacity = min(slots_per_file, total + 1)
        suffixes = range(len(list(directory.glob("add_count*"))))

        seen = np.zeros(total, bool)
        for suffix in suffixes:
            buffer = load(directory, suffix, capacity)
            count = int(buffer.add_count)
            for slot in range(capacity):
                # The newest entry that was written to this slot, if any.
                entry = (count - 1 - slot) // capacity * capacity + slot
                for name, values in stream.items():
                    expected = values[entry] if entry >= 0 else 0
                    np.testing.assert_array_equal(buffer._store[name][slot], expected)
                seen[max(entry, 0)] = True
        alone = total % capacity == 0  # in the stale place at the very end
        assert seen[: total - alone].all()

        stale = np.arange(total) % capacity == capacity - 1
        steps = (stream["observation"][:, 0, 0] > 0) & ~stale
        episodes = list(DOPAMINE.read_episodes(directory, "Breakout", list(suffixes)))
        for field, name in (("frames", "observation"), ("rewards", "reward")):
            read = np.concatenate([getattr(episode, field) for episode in episodes])
            np.testing.assert_array_equal(read, stream[name][steps])
        terminals = stream["terminal"][steps].sum()
        assert sum(episode.terminal for episode in episodes) == terminals
