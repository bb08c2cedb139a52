"""The RLDS reader: against the .gz reader on the same play, and what it makes of each record."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from rlds_sets import (
    GAME,
    NAME,
    change_record,
    check_error,
    fake_play,
    real_play,
    shard_of,
    write_set,
)

from cql_atari.core import games
from cql_atari.core.types import Episode, UserError
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.dopamine.writer import ReplayWriter
from cql_atari.data.rlds import files, records
from cql_atari.data.rlds import reader as rlds
from cql_atari.data.rlds.format import RLDS
from cql_atari.feed.transitions import pad

FULL = games.to_full_actions(GAME)
NARROW = tf.io.encode_png(np.zeros((84, 83, 1), np.uint8)).numpy()
COLOUR = tf.io.encode_png(np.zeros((84, 84, 3), np.uint8)).numpy()
DEEP = tf.io.encode_png(np.zeros((84, 84, 1), np.uint16)).numpy()
CUT_SHORT = tf.io.encode_png(np.zeros((84, 84, 1), np.uint8)).numpy()[:60]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """Split 0: five short episodes in three shards, the fourth one cut; split 2: one."""
    plays = [fake_play(n, n != 7, 10 * n) for n in (4, 5, 6, 7, 8)]
    return write_set(tmp_path_factory.mktemp("sound"), {0: plays, 2: [fake_play(9, value=1)]})


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """A copy of `sound` to damage."""
    return shutil.copytree(sound, tmp_path / "set")


def read(folder: Path | str, suffixes=None, **options) -> list[Episode]:
    return list(RLDS.read_episodes(folder, GAME, suffixes, **options))


def transitions(episode: Episode, n_step: int) -> list[np.ndarray]:
    stored = pad(episode, n_step, 0.5)
    rows = np.flatnonzero(stored.valid)
    columns = [column[rows] for column in (stored.actions, stored.rewards, stored.discounts)]
    return [*columns, stored.frames[rows[:, None] + np.arange(4 + n_step)]]


@pytest.mark.parametrize("name", [NAME, "rlu_atari_checkpoints"])
def test_transitions_are_those_of_the_gz_reader(tmp_path, name):
    """Real play, once through TFDS's code and once through Dopamine's."""
    plays = real_play()
    writer = ReplayWriter(tmp_path, 10_000)
    for play in plays:
        steps = len(play.frames) - play.terminal
        for step in range(steps):
            ended = play.terminal and step == steps - 1
            writer.add(play.frames[step], play.actions[step], play.rewards[step], ended)
    writer.finish()
    expected = list(DOPAMINE.read_episodes(tmp_path, GAME))
    episodes = read(write_set(tmp_path / "rlds", {0: list(plays)}, name=name))
    assert [(len(e.frames), e.terminal, e.starts, e.game) for e in episodes] == [
        (len(e.frames), e.terminal, e.starts, e.game) for e in expected
    ]
    assert [e.terminal for e in episodes] == [True, True, False]
    assert sum(np.abs(e.rewards).sum() for e in episodes) > 0
    for n_step in (1, 3):
        for ours, theirs in zip(episodes, expected):
            np.testing.assert_equal(transitions(ours, n_step), transitions(theirs, n_step))
    for ours, theirs in zip(episodes[:2], expected[:2]):
        np.testing.assert_equal(ours, theirs)
    assert {a.dtype.name for e in episodes for a in e[1:4]} == {"uint8", "int32", "float32"}


def test_splits_and_shards_come_in_order(sound):
    assert files.list_suffixes(sound) == [0, 2]
    values = [int(e.frames[0, 0, 0]) for e in read(sound)]
    assert values == [40, 50, 60, 70, 80, 1]
    assert [int(e.frames[0, 0, 0]) for e in read(sound, [2, 0])] == [1, 40, 50, 60, 70, 80]


def test_last_step_is_dropped_or_a_successor_only(sound):
    whole, cut = (e for e in read(sound, [0]) if len(e.frames) in (6, 7))
    np.testing.assert_array_equal(whole.frames[:, 0, 0], np.arange(60, 66))  # 66 was the terminal
    np.testing.assert_array_equal(whole.actions, FULL[np.arange(6) % 4])
    np.testing.assert_array_equal(cut.frames[:, 0, 0], np.arange(70, 77))
    np.testing.assert_array_equal(cut.actions, [*FULL[np.arange(6) % 4], 0])
    np.testing.assert_array_equal(cut.rewards, [-1, 0, 1, -1, 0, 1, 0])


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({"fraction": 0.6}, [4, 5, 6]),
        ({"fraction": 0.5}, [4, 5, 6]),  # rounded up, as there must be one
        ({"fraction": 0.001}, [4]),
        ({"left_out": {0: [(1, 3)], 2: [(0, 2**62)]}}, [4, 7, 8]),
        ({"left_out": {0: [(4, 5), (0, 1)]}, "fraction": 0.8}, [5, 6, 7]),
        ({"left_out": {0: [(0, 2**62)]}}, []),
        ({}, [4, 5, 6, 7, 8]),
    ],
)
def test_fraction_and_left_out(sound, options, lengths):
    episodes = read(sound, [0], **options)
    assert [len(e.frames) for e in episodes] == lengths
    gaps = options.get("left_out", {}).get(0, ())
    assert [(len(e.frames), e.terminal, e.starts) for e in episodes] == [
        extent[:3] for extent in rlds.count(sound, GAME, 0, options.get("fraction", 1.0), gaps)
    ]


def test_what_is_left_out_may_be_damaged_or_gone(folder):
    """The third record's data, and the third shard."""
    expected = read(folder, [0])
    data = bytearray(shard_of(folder, 0, 1).read_bytes())
    data[100] ^= 1
    shard_of(folder, 0, 1).write_bytes(data)
    shard_of(folder, 0, 2).unlink()
    episodes = read(folder, [0], left_out={0: [(2, 3), (4, 5)]})
    np.testing.assert_equal(episodes, [expected[0], expected[1], expected[3]])


def test_there_is_no_survey_without_conversion(sound):
    assert rlds.survey(sound, GAME, 0) is None


def test_fragment(folder):
    change_record(folder, lambda f: f["steps/is_first"].int64_list.value.__setitem__(0, 0))
    assert [e.starts for e in read(folder, [0])] == [False, True, True, True, True]
    assert [e.starts for e in rlds.count(folder, GAME, 0)] == [False, True, True, True, True]


def test_a_single_terminal_step_is_no_episode(tmp_path):
    folder = write_set(tmp_path, {0: [fake_play(0), fake_play(1), fake_play(1, False)]})
    assert [len(e.frames) for e in read(folder)] == [1, 1]
    assert len(rlds.count(folder, GAME, 0)) == 2


def test_long_episodes_go_on_as_fragments(sound, monkeypatch):
    monkeypatch.setattr(records, "_LONGEST", 4)
    episodes = read(sound, [0])
    assert [(len(e.frames), e.terminal, e.starts) for e in episodes] == [
        (4, True, True),
        (4, False, True), (1, True, False),
        (4, False, True), (2, True, False),
        (4, False, True), (3, False, False),
        (4, False, True), (4, True, False),
    ]  # fmt: skip
    np.testing.assert_array_equal(episodes[2].frames[:, 0, 0], [54])
    assert [(e.steps, e.terminal, e.starts) for e in rlds.count(sound, GAME, 0)] == [
        (len(e.frames), e.terminal, e.starts) for e in episodes
    ]


def set_value(column: str, kind: str, step: int, value):
    return lambda f: getattr(f[f"steps/{column}"], kind).value.__setitem__(step, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_value("action", "int64_list", 2, 4), ("action of step 2 is 4", "0 to 3")),
        (set_value("action", "int64_list", 2, -1), ("action of step 2 is -1",)),
        (set_value("action", "int64_list", 0, 2**62), ("action of step 0",)),
        (set_value("reward", "float_list", 3, np.nan), ("reward of step 3 is nan",)),
        (set_value("reward", "float_list", 3, np.inf), ("reward of step 3 is inf",)),
        (set_value("reward", "float_list", 1, 1.5), ("reward of step 1 is 1.5", "[-1, 1]")),
        (set_value("is_terminal", "int64_list", 1, 1), ("is_terminal of step 1",)),
        (set_value("is_first", "int64_list", 2, 1), ("is_first of step 2",)),
        (set_value("is_last", "int64_list", 6, 0), ("is_last of step 6",)),
        (set_value("is_last", "int64_list", 0, 1), ("is_last of step 0",)),
        (lambda f: f["steps/reward"].float_list.value.append(0), ("[7, 7, 8, 7, 7, 7]",)),
        (lambda f: f.pop("steps/action"), ("no int64_list 'steps/action'",)),
        (lambda f: f["steps/reward"].int64_list.value.append(1), ("no float_list 'steps/reward'",)),
        (lambda f: f.clear(), ("no bytes_list 'steps/observation'",)),
        (set_value("observation", "bytes_list", 1, b"GIF89a"), ("frame 1 is no 8-bit grey PNG",)),
        (set_value("observation", "bytes_list", 0, NARROW), ("frame 0 is no 8-bit grey PNG",)),
        (set_value("observation", "bytes_list", 3, COLOUR), ("frame 3 is no 8-bit grey PNG",)),
        (set_value("observation", "bytes_list", 5, DEEP), ("frame 5 is no 8-bit grey PNG",)),
        (set_value("observation", "bytes_list", 2, CUT_SHORT), ("frame 2 is a damaged PNG",)),
    ],
)
def test_wrong_values(folder, change, words):
    change_record(folder, change, 0, 1)
    check_error(folder, str(shard_of(folder, 0, 1)), "record 0", "episode 2", "Replace", *words)
    assert len(read(folder, [0], left_out={0: [(2, 3)]})) == 4


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_last_steps_action_and_reward_may_be_anything(folder, value):
    expected = read(folder)
    for column, kind, wrong in (("reward", "float_list", value), ("action", "int64_list", -9)):
        change_record(folder, set_value(column, kind, -1, wrong), 0, 1)  # terminal
        change_record(folder, set_value(column, kind, -1, wrong), 2, 0)
    np.testing.assert_equal(read(folder), expected)


def test_a_record_of_something_else(folder):
    path = shard_of(folder, 2)
    with tf.io.TFRecordWriter(str(path)) as file:
        file.write(b"\xff\xff\xff")
    check_error(folder, str(path), "no tf.train.Example")


def test_reads_through_tensorflows_file_systems(sound):
    """As on gs://, but in memory."""
    address = "ram://rlds/Breakout_run_1/1.1.0"
    tf.io.gfile.makedirs(address)
    for path in sound.iterdir():
        tf.io.gfile.copy(str(path), f"{address}/{path.name}", overwrite=True)
    assert files.list_suffixes(address) == [0, 2]
    np.testing.assert_equal(read(address), read(sound))
    assert rlds.count(address, GAME, 0) == rlds.count(sound, GAME, 0)
    assert files.fingerprints(address, 0) == files.fingerprints(sound, 0)
    tf.io.gfile.remove(f"{address}/{shard_of(sound, 2).name}")
    check_error(address, address, "cannot be read")


def test_unknown_game_is_refused_at_once(sound):
    with pytest.raises(UserError, match="unknown game"):
        list(RLDS.read_episodes(sound, "Breakut"))
