"""Incomplete groups, wrong values, wrong directories: each is an error that says what to fix."""

from __future__ import annotations

import gzip
import pickle
import shutil

import numpy as np
import pytest
from dopamine_files import GAME, check_error, file_of, load, read_all, store

from cql_atari.core.types import UserError
from cql_atari.data.dopamine import files
from cql_atari.data.dopamine.files import list_suffixes
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.dopamine.reader import survey

MEMBERS = tuple(files.LAYOUT)


@pytest.mark.parametrize("name", MEMBERS)
def test_missing_file(run, name):
    file_of(run, name, 1).unlink()
    check_error(run, "suffix 1", file_of(run, name, 1).name, str(run))
    assert read_all(run, [0])
    with pytest.raises(UserError, match="lacks"):
        survey(run, GAME, 1)


@pytest.mark.parametrize("name", MEMBERS[1:4])
def test_unequal_lengths(run, name):
    path = file_of(run, name)
    store(path, load(path)[:-1])
    check_error(run, path.name, "39", "40")


def change(run, name, index, value, suffix=0):
    path = file_of(run, f"$store$_{name}", suffix)
    array = load(path)
    array[index] = value
    store(path, array)
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("action", 4),
        ("action", -1),
        ("action", 2**31 - 1),
        ("reward", np.nan),
        ("reward", np.inf),
        ("reward", 1.5),
        ("reward", -2),
        ("terminal", 2),
    ],
)
def test_wrong_value(run, name, value):
    path = change(run, name, 12, value)
    check_error(run, str(path), "entry 12", "expected")


def test_behind_the_cursor_anything_goes(run):
    expected = read_all(run)
    with files.open_group(run, 1) as group:
        valid = group.valid
    for suffix, stale in ((0, [-1]), (1, slice(valid, None))):
        change(run, "action", stale, 99, suffix)
        change(run, "reward", stale, np.nan, suffix)
        change(run, "terminal", stale, 77, suffix)
        change(run, "observation", stale, 200, suffix)
    np.testing.assert_equal(read_all(run), expected)


@pytest.mark.parametrize("name", ["observation", "action", "reward"])
def test_missing_padding(run, name):
    # Slots 0-2 padding, 3-7 the first episode, 8-10 padding.
    path = change(run, name, 9, 1)
    check_error(run, str(path.parent), "entry 9", "all-zero entries from 8")


def test_wide_dtypes_are_narrowed(run):
    expected = read_all(run)
    for name, dtype in (("action", "int64"), ("reward", "float64")):
        path = file_of(run, f"$store$_{name}")
        store(path, load(path).astype(dtype))
    episodes = read_all(run)
    np.testing.assert_equal(episodes, expected)
    assert {(e.actions.dtype.name, e.rewards.dtype.name) for e in episodes} == {
        ("int32", "float32")
    }


def test_negative_count(run):
    path = file_of(run, "add_count")
    store(path, np.array(-1))
    check_error(run, str(path), "-1")


def test_empty_buffer_has_no_episodes(run):
    for suffix in (0, 1):
        store(file_of(run, "add_count", suffix), np.array(0))
        store(file_of(run, "invalid_range", suffix), np.zeros(4))
    assert read_all(run) == [] == survey(run, GAME, 0)


@pytest.mark.parametrize("wrap", [int, np.int64])
def test_unmarked_ends_in_any_pickle_of_integers(run, wrap):
    # The fragment that suffix 1 begins with is cut where the seventh file says.
    path = file_of(run, "episode_end_indices", 1)
    before = read_all(run, [1])
    for name in ("observation", "action", "reward"):
        change(run, name, slice(4, 7), 0, 1)
    path.write_bytes(dopamine_pickle({wrap(3), wrap(300)}))
    after = read_all(run, [1])
    assert [len(e.frames) for e in after] == [4, len(before[0].frames) - 7]
    assert [e.terminal for e in after] == [False, True]
    assert after[1].starts


def dopamine_pickle(ends):
    return gzip.compress(pickle.dumps(ends))


def test_a_pickle_is_not_executed(run, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    path = file_of(run, "episode_end_indices")
    path.write_bytes(dopamine_pickle(Trap()))
    check_error(run, str(path), "no pickled set of integers")
    assert not (tmp_path / "executed").exists()


def test_a_pickle_that_never_ends(run):
    path = file_of(run, "episode_end_indices")
    path.write_bytes(gzip.compress(bytes(10**8), 1))
    check_error(run, str(path), "more than")


def test_directories(run, tmp_path):
    for path, reason in (
        (tmp_path / "absent", "No such file"),
        (file_of(run, "add_count"), "Not a directory"),
        (tmp_path, "no replay files"),
    ):
        for call in (list_suffixes, lambda d: list(DOPAMINE.read_episodes(d, GAME))):
            with pytest.raises(UserError, match=reason) as info:
                call(path)
            assert str(path) in str(info.value) and "replay_logs" in str(info.value)


def test_unknown_game_is_refused_at_once(run):
    with pytest.raises(UserError, match="Breakout"):
        list(DOPAMINE.read_episodes(run, "Breakut"))


def test_other_files_are_ignored(run):
    (run / "sentinel_checkpoint_complete.0").touch()
    shutil.copy(file_of(run, "add_count"), run / "add_count_ckpt.3.gz.part")
    assert list_suffixes(run) == [0, 1]
