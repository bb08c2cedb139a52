"""Checking RLDS splits without stopping; what is left out lets the reader pass."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from rlds_sets import GAME, Play, change_record, fake_play, shard_of, write_set

from cql_atari.data.rlds import check as verify_rlds
from cql_atari.data.rlds.format import RLDS


def play(steps: int, seed: int) -> Play:
    """As `fake_play`, with something to see."""
    made = fake_play(steps, value=seed)
    return made._replace(frames=np.where(np.arange(84) < 40, made.frames, 0).astype(np.uint8))


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """Five episodes in shards of 2, 2 and 1."""
    plays = [play(20 + n, 10 * n) for n in range(5)]
    return write_set(tmp_path_factory.mktemp("verify"), {0: plays})


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    return shutil.copytree(sound, tmp_path / "set")


def check(folder: Path) -> tuple[dict[int, list[int | None]], list[tuple[int, int]]]:
    """{shard: places of its problems} and what to leave out, with which the reader must pass."""
    files, left_out = verify_rlds.check_suffix(folder, GAME, 0, lambda _: None)
    assert [file.entries for file in files] == [2, 2, 1]
    episodes = list(RLDS.read_episodes(folder, GAME, [0], left_out={0: left_out}))
    assert len(episodes) == 5 - sum(stop - start for start, stop in left_out)
    wrong = {i: [p.entry for p in f.problems] for i, f in enumerate(files) if f.problems}
    return wrong, left_out


def test_a_sound_split_has_no_problems(sound):
    done = []
    assert check(sound) == ({}, [])
    verify_rlds.check_suffix(sound, GAME, 0, done.append)
    total = verify_rlds.total_bytes(sound, 0)
    assert 0.9 * total < sum(done) <= total


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_damaged_records_are_stepped_over(folder):
    flip(shard_of(folder, 0, 0), 1000)
    flip(shard_of(folder, 0, 1), -1000)
    assert check(folder) == ({0: [0], 1: [1]}, [(0, 1), (3, 4)])


def test_a_damaged_length_costs_the_rest_of_the_shard(folder):
    flip(shard_of(folder, 0, 1), 0)
    assert check(folder) == ({1: [0, 1]}, [(2, 4)])


def test_what_cannot_be_stepped_over_is_tried_once(tmp_path):
    folder = write_set(tmp_path, {0: [play(20, n) for n in range(6)]}, per_shard=6)
    data = shard_of(folder).read_bytes()
    second = 16 + int.from_bytes(data[:8], "little")
    flip(shard_of(folder), second)
    (file,), left_out = verify_rlds.check_suffix(folder, GAME, 0, lambda _: None)
    assert [problem.entry for problem in file.problems] == [1, 2] and left_out == [(1, 6)]


def test_a_cut_shard_costs_what_is_gone(folder):
    path = shard_of(folder, 0, 1)
    path.write_bytes(path.read_bytes()[:-10])
    assert check(folder) == ({1: [1]}, [(3, 4)])


def test_a_missing_shard(folder):
    shard_of(folder, 0, 2).unlink()
    assert check(folder) == ({2: [0]}, [(4, 5)])


def test_a_shard_that_goes_on(folder):
    path = shard_of(folder, 0, 0)
    path.write_bytes(path.read_bytes() + b"more")
    assert check(folder) == ({0: [None]}, [(0, 2)])


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [("action", "int64_list", 4), ("reward", "float_list", np.nan), ("reward", "float_list", -2)],
)
def test_wrong_values(folder, name, kind, value):
    def change(features) -> None:
        getattr(features[f"steps/{name}"], kind).value[3] = value

    change_record(folder, change, index=1)
    assert check(folder) == ({1: [0]}, [(2, 3)])


def test_a_damaged_frame(folder):
    def change(features) -> None:
        frames = features["steps/observation"].bytes_list.value
        frames[5] = frames[5][:60]

    change_record(folder, change, index=2)
    assert check(folder) == ({2: [0]}, [(4, 5)])


@pytest.mark.parametrize("still", [True, False])
def test_implausible_frames(tmp_path, still):
    """Frames of one colour are wrong; frames that never change are merely strange."""
    odd = play(20, 1)
    frames = odd.frames[:1].repeat(21, 0) if still else fake_play(20).frames
    plays = [play(20, 5), odd._replace(frames=frames), *(play(20, n) for n in (7, 8, 9))]
    folder = write_set(tmp_path, {0: plays})
    assert check(folder) == ({0: [1]}, [] if still else [(1, 2)])
    files, _ = verify_rlds.check_suffix(folder, GAME, 0, lambda _: None)
    assert [file.is_wrong for file in files] == [not still, False, False]
