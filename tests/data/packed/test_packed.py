"""Packed play: what is written is read, in order; a damaged file is told and never passes."""

from __future__ import annotations

import errno
import json
import os
import zlib

import numpy as np
import pytest
from synthetic_episodes import extent, make_episode

from cql_atari.core.types import UserError
from cql_atari.data.packed import files, reader, writer
from cql_atari.data.packed.format import PACKED
from cql_atari.data.shared import EVERYTHING
from cql_atari.data.steps import returns_to_go

EPISODES = [
    make_episode(0, 40),
    make_episode(1, 0),
    make_episode(2, 16, terminal=False),
    make_episode(3, 33, starts=False),
]
SOURCE = {"format": "dopamine", "files": {}, "left_out": [[3, 9]]}


@pytest.fixture
def folder(tmp_path):
    writer.write_suffix(tmp_path, 4, EPISODES, SOURCE)
    return tmp_path


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert (a.game, a.terminal, a.starts) == (b.game, b.terminal, b.starts)
        for x, y in zip(a[1:4], b[1:4]):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype


def test_reading_gives_what_was_written(folder):
    assert files.list_suffixes(folder) == [4]
    same(list(PACKED.read_episodes(folder, "Pong")), EPISODES)
    assert reader.survey(folder, "Pong", 4) == [extent(e) for e in EPISODES]
    assert sorted(p.name for p in folder.iterdir()) == ["4.index", "4.segments"]


def test_a_count_tells_the_returns_of_whole_games(folder):
    """Of the four, the third has no end and the fourth no start."""
    whole = [EPISODES[0].rewards.sum(), 0.0]
    assert whole[0] != 0
    assert [e.total for e in reader.count(folder, "Pong", 4)] == [*whole, None, None]
    cut = [e.total for e in reader.count(folder, "Pong", 4, fraction=0.4)]  # 36 of 89 steps
    assert cut == [None]


@pytest.mark.parametrize("fraction", [0.001, 0.44, 0.5, 0.63, 0.999])
def test_a_fraction_is_the_first_steps(folder, fraction):
    found = list(PACKED.read_episodes(folder, "Pong", fraction=fraction))
    assert [extent(e) for e in found] == reader.survey(folder, "Pong", 4, fraction=fraction)
    steps = sum(len(e.frames) for e in found)
    assert steps == int(np.ceil(round(89 * fraction, 6)))
    frames = np.concatenate([e.frames for e in EPISODES])
    np.testing.assert_array_equal(np.concatenate([e.frames for e in found]), frames[:steps])
    for ours, whole in zip(found, EPISODES):
        assert ours.terminal == (whole.terminal and len(ours.frames) == len(whole.frames))


def test_a_fraction_that_ends_with_an_episode_takes_nothing_of_the_next(folder):
    found = reader.survey(folder, "Pong", 4, fraction=56 / 89)
    assert found == [extent(e) for e in EPISODES[:3]]


def test_hand_numbers_of_returns_to_go():
    rewards = np.array([1, 0, -1, 1, 1], np.float32)
    np.testing.assert_array_equal(returns_to_go(rewards), [2, 1, 1, 2, 1])
    assert returns_to_go(rewards).dtype == np.float32


@pytest.mark.parametrize("position", [0.01, 0.5, 0.99])
def test_any_flipped_byte_is_told(folder, position):
    for name in ("4.segments", "4.index"):
        content = (folder / name).read_bytes()
        at = int(position * len(content))
        (folder / name).write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(UserError, match=rf"{name} is damaged.*Delete.*pack it again"):
            list(PACKED.read_episodes(folder, "Pong"))
        (folder / name).write_bytes(content)
    same(list(PACKED.read_episodes(folder, "Pong")), EPISODES)


def test_a_check_finds_every_damaged_segment_and_reports_as_it_reads(folder):
    """Segments of 8 steps: 5 of the first episode, none, 2, and 5 of the fourth."""
    path, reported = folder / "4.segments", []
    index = files.read_index(folder, 4)
    (sound,) = PACKED.check_suffix(folder, "Pong", 4, reported.append).files
    assert (sound.path, sound.entries, sound.problems) == (path, 89, ())
    assert len(reported) > 10 and sum(reported) == PACKED.total_bytes(folder, 4)

    content = bytearray(path.read_bytes())
    for segment in (1, 6, 11):
        content[index.offsets[segment] + 3] ^= 4
    path.write_bytes(content)
    check = PACKED.check_suffix(folder, "Pong", 4, reported.append)
    (wrong,) = check.files
    assert [problem.entry for problem in wrong.problems] == [8, 48, 88]
    assert all("segment's checksum is wrong" in problem.text for problem in wrong.problems)
    assert wrong.entries == 89 and check.left_out == [EVERYTHING]


def test_a_check_of_a_damaged_index_counts_as_done(folder):
    (folder / "4.index").write_bytes(b"00000000 {}")
    reported = []
    check = PACKED.check_suffix(folder, "Pong", 4, reported.append)
    assert [problem.entry for problem in check.files[0].problems] == [None]
    assert sum(reported) == PACKED.total_bytes(folder, 4) and check.left_out == [EVERYTHING]


@pytest.mark.parametrize("name", ["4.segments", "4.index"])
@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_cut_file_is_told(folder, name, length):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:length])
    with pytest.raises(UserError, match=rf"{name}.*Delete"):
        reader.survey(folder, "Pong", 4)


def test_missing_segments_are_told(folder):
    (folder / "4.segments").unlink()
    with pytest.raises(UserError, match=r"4.segments cannot be read.*Delete"):
        reader.survey(folder, "Pong", 4)


@pytest.mark.parametrize(
    "change",
    [{"episodes": 2**40}, {"segments": 1}, {"episodes": "many"}, {"version": "other"},
     {"source": None}],
)  # fmt: skip
def test_a_forged_index_is_refused_before_anything_is_allocated(folder, change):
    path = folder / "4.index"
    line, body = path.read_bytes()[9:].split(b"\n", 1)
    content = json.dumps(json.loads(line) | change).encode() + b"\n" + body
    path.write_bytes(b"%08x " % zlib.crc32(content) + content)
    with pytest.raises(UserError, match=r"4.index is damaged"):
        reader.survey(folder, "Pong", 4)


def test_exclusions_other_than_those_when_it_was_packed_are_refused(folder):
    assert reader.survey(folder, "Pong", 4, gaps=[(3, 9)])
    with pytest.raises(UserError, match=r"without \[\[3, 9\]\].*\[\[3, 10\]\].*pack it again"):
        reader.survey(folder, "Pong", 4, gaps=[(3, 10)])


def test_a_fingerprint_changes_with_any_step(folder):
    before = files.fingerprints(folder, 4)
    changed = [*EPISODES[:3], EPISODES[3]._replace(rewards=1 - EPISODES[3].rewards)]
    writer.write_suffix(folder, 4, changed, SOURCE)
    assert files.fingerprints(folder, 4) != before
    assert files.fingerprints(folder, 4).keys() == {"4.index"}


def test_what_fails_leaves_no_suffix_behind(tmp_path, monkeypatch):
    def failing():
        yield EPISODES[0]
        raise UserError("observation.3.gz is cut short")

    with pytest.raises(UserError, match="cut short"):
        writer.write_suffix(tmp_path, 3, failing(), SOURCE)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No")))
    with pytest.raises(UserError, match=r"can't write to .*No; free some space"):
        writer.write_suffix(tmp_path, 3, EPISODES, SOURCE)
    assert not (tmp_path / "3.index").exists()
