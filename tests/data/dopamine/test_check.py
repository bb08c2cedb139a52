"""Checking without stopping: planted faults are found in their place; what is left out suffices."""

from __future__ import annotations

import gzip
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from dopamine_files import CAPACITY, GAME, Step, file_of, load, read_all, steps_of, store, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from cql_atari.core.types import UserError
from cql_atari.data.dopamine import check as verify
from cql_atari.data.dopamine import files
from cql_atari.data.dopamine.files import list_suffixes
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.shared import EVERYTHING

# The sound run: episodes of 5, 10 and 30 steps, each after 3 slots of padding. Suffix 0 holds slots
# 0-7, 8-20 and 21-38 (a fragment), slot 39 is stale; suffix 1 begins with the last 15 steps.
NAMES = ("observation", "action", "reward", "terminal")


def check(run: Path, suffix: int = 0) -> tuple[dict[str, list], list[tuple[int, int]]]:
    """{file: [(entry, text)]} of what is wrong, and what to leave out."""
    files, left_out = verify.check_suffix(run, GAME, suffix, lambda _: None)
    assert {file.path for file in files} == set(run.glob(f"*_ckpt.{suffix}.gz")) | {
        file.path for file in files if file.problems
    }
    assert bool(left_out) == any(file.is_wrong for file in files)
    wrong = {
        file.path.name.split("_ckpt")[0].removeprefix("$store$_"): [p[:2] for p in file.problems]
        for file in files
        if file.is_wrong
    }
    return wrong, left_out


def warnings(run: Path, suffix: int = 0) -> dict[str, list]:
    """{file: [(entry, text)]} of what is merely strange."""
    files, _ = verify.check_suffix(run, GAME, suffix, lambda _: None)
    found = {f.path.name: [p[:2] for p in f.problems if p.is_warning] for f in files}
    return {n.split("_ckpt")[0].removeprefix("$store$_"): p for n, p in found.items() if p}


def change(run: Path, name: str, where, value, suffix: int = 0) -> None:
    path = file_of(run, f"$store$_{name}", suffix)
    array = load(path)
    array[where] = value
    store(path, array)


def repaired(run: Path, left_out, suffix: int = 0) -> list:
    return list(DOPAMINE.read_episodes(run, GAME, [suffix], left_out={suffix: left_out}))


def assert_same(episodes, expected) -> None:
    assert len(episodes) == len(expected)
    for a, b in zip(episodes, expected):
        np.testing.assert_equal(a._asdict(), b._asdict())


def test_sound_files_have_no_problems(sound):
    for suffix in (0, 1):
        assert check(sound, suffix) == ({}, [])
    files, _ = verify.check_suffix(sound, GAME, 0, lambda _: None)
    assert [file.entries for file in files[:5]] == [CAPACITY] * 4 + [1]


def test_progress_adds_up_to_the_size_of_the_observations(sound):
    done = []
    verify.check_suffix(sound, GAME, 0, done.append)
    assert sum(done) == verify.total_bytes(sound, 0) > 0
    assert verify.total_bytes(sound, 7) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("action", 4), ("action", -1), ("reward", np.nan), ("reward", 1.5), ("terminal", 2)],
)
def test_wrong_values_cost_their_episodes(run, sound, name, value):
    change(run, name, [20, 30], value)  # 20 ends the second episode
    wrong, left_out = check(run)
    ((entry, text),) = wrong.pop(name)[:1]
    assert entry == 20 and "2 such" in text and "expected" in text
    if name == "terminal":  # 30 seems an end, and no padding follows
        assert {key: problems[0][0] for key, problems in wrong.items()} == {
            "observation": 31,
            "action": 31,
            "reward": 32,
        }
    else:
        assert not wrong
    assert left_out == [(8, 39)]
    assert_same(repaired(run, left_out), read_all(sound, [0])[:1])


def test_all_problems_of_all_files_are_told(run):
    change(run, "action", 5, 77)
    change(run, "reward", 12, np.inf)
    change(run, "observation", 9, 1)
    file_of(run, "invalid_range").write_bytes(b"")
    wrong, left_out = check(run)
    places = {name: problems[0][0] for name, problems in wrong.items()}
    assert places == {"action": 5, "reward": 12, "observation": 9, "invalid_range": None}
    assert left_out == [EVERYTHING]


@pytest.mark.parametrize("name", ["observation", "action", "reward"])
def test_missing_padding_costs_the_episodes_on_both_sides(run, sound, name):
    change(run, name, 9, 1)
    wrong, left_out = check(run)
    assert list(wrong) == [name] and wrong[name][0][0] == 9
    assert left_out == [(0, 21)]
    assert_same(repaired(run, left_out), read_all(sound, [0])[2:])


def test_a_planted_terminal_costs_the_episode_it_cuts(run, sound):
    change(run, "terminal", 14, 1)
    wrong, left_out = check(run)
    assert set(wrong) == {"observation", "action", "reward"} and left_out == [(8, 21)]
    expected = read_all(sound, [0])
    assert_same(repaired(run, left_out), [expected[0], expected[2]])


def test_behind_the_cursor_anything_goes(run):
    change(run, "action", -1, 99)
    change(run, "reward", -1, np.nan)
    change(run, "observation", slice(20, None), 200, suffix=1)
    assert check(run) == check(run, 1) == ({}, [])


def test_a_file_of_another_length(run):
    path = file_of(run, "$store$_action")
    store(path, load(path)[:-3])
    wrong, left_out = check(run)
    assert wrong["action"][0][0] == 37 and left_out == [EVERYTHING]
    assert repaired(run, left_out) == []


def test_a_negative_count(run):
    store(file_of(run, "add_count"), np.array(-3))
    wrong, left_out = check(run)
    assert wrong["add_count"][0][0] == 0 and "-3" in wrong["add_count"][0][1]
    assert left_out == [EVERYTHING]


def noise(slots: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, (slots, 84, 84), np.uint8)


@pytest.fixture
def noisy(tmp_path) -> Path:
    """Two episodes of 197 steps and one that is cut, frames of noise: 400 slots, 4.3 MB."""
    run = tmp_path / "replay_logs"
    run.mkdir()
    write_run(run, steps_of(197, 197), 403)
    path = file_of(run, "$store$_observation")
    array = load(path)
    array[:] = np.where(array.any((1, 2), keepdims=True), noise(len(array)), 0)
    store(path, array)
    return run


@pytest.mark.parametrize("share", [0.03, 0.3, 0.6, 0.99])
def test_a_cut_copy_keeps_the_frames_before_the_cut(noisy, share):
    path = file_of(noisy, "$store$_observation")
    before = read_all(noisy)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    whole = (len(zlib.decompressobj(31).decompress(path.read_bytes())) - 128) // 84**2
    wrong, left_out = check(noisy)
    ((entry, text),) = wrong["observation"]
    assert list(wrong) == ["observation"] and "cut" in text and whole - 2 < entry <= whole
    assert left_out == [(max(entry - 2, 0), EVERYTHING[1])]
    kept = repaired(noisy, left_out)
    assert sum(len(e.frames) for e in kept) + 3 * len(kept) == max(entry - 2, 0)
    for found, expected in zip(kept, before):
        np.testing.assert_array_equal(found.frames, expected.frames[: len(found.frames)])


@pytest.mark.parametrize("missing", [1, 8])
def test_a_cut_trailer_costs_what_the_reader_may_not_believe(noisy, missing):
    path = file_of(noisy, "$store$_observation")
    path.write_bytes(path.read_bytes()[:-missing])
    _, left_out = check(noisy)
    kept = repaired(noisy, left_out)
    assert sum(len(e.frames) for e in kept) in range(390, 395)


def test_a_cut_among_the_stale_slots(noisy):
    store(file_of(noisy, "add_count"), np.array(200 + 403))
    store(file_of(noisy, "invalid_range"), np.arange(199, 204))
    path = file_of(noisy, "$store$_observation")
    path.write_bytes(path.read_bytes()[:-100_000])
    _, left_out = check(noisy)
    assert left_out == [(199, EVERYTHING[1])]
    assert sum(len(e.frames) for e in repaired(noisy, left_out)) == 196


def test_a_stream_without_end_is_cut_only_if_its_own_length_is_gone(noisy):
    path = file_of(noisy, "$store$_observation")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[-4:])
    wrong, left_out = check(noisy)
    assert "cut" not in wrong["observation"][0][1] and left_out == [EVERYTHING]


def test_a_wrong_checksum_costs_the_suffix(noisy):
    path = file_of(noisy, "$store$_observation")
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    wrong, left_out = check(noisy)
    assert wrong["observation"][0][0] is None and left_out == [EVERYTHING]


@pytest.mark.parametrize("value", [0, 9])
def test_an_episode_of_blank_frames(run, sound, value):
    change(run, "observation", slice(11, 21), value)
    wrong, left_out = check(run)
    assert wrong["observation"][0][0] == 11 and "of one colour" in wrong["observation"][0][1]
    assert left_out == [(8, 21)]
    expected = read_all(sound, [0])
    assert_same(repaired(run, left_out), [expected[0], expected[2]])


def test_an_episode_that_never_moves(noisy):
    frames = load(file_of(noisy, "$store$_observation"))
    change(noisy, "observation", slice(203, 400), frames[203])
    assert check(noisy) == ({}, [])  # an agent that never serves in Breakout sees such frames
    ((entry, text),) = warnings(noisy)["observation"]
    assert entry == 203 and "the same" in text
    change(noisy, "observation", 300, frames[300])
    assert "observation" not in warnings(noisy)


def test_blank_frames_between_others_are_play(run):
    change(run, "observation", slice(12, 20), 0)
    assert check(run) == ({}, [])


def test_a_file_of_zeros(run):
    change(run, "observation", slice(None), 0)
    change(run, "terminal", slice(None), 0)
    file_of(run, "episode_end_indices").unlink()
    wrong, _ = check(run)
    assert wrong["observation"][0][0] == 0


def test_unmarked_ends_need_padding(tmp_path):
    """The seventh file's ends count as the terminals do."""
    steps = [Step()] * 9 + [Step("unmarked")] + steps_of(10)
    write_run(tmp_path, steps, CAPACITY)
    path = file_of(tmp_path, "episode_end_indices")
    assert path.exists() and check(tmp_path) == ({}, [])
    change(tmp_path, "action", 14, 1)
    wrong, left_out = check(tmp_path)
    assert wrong["action"][0][0] == 14 and left_out == [(0, 26)]
    path.write_bytes(gzip.compress(b"no pickle"))
    wrong, left_out = check(tmp_path)
    assert "pickle" in wrong["episode_end_indices"][0][1] and left_out == [EVERYTHING]


edits = st.tuples(
    st.sampled_from(NAMES), st.integers(0, CAPACITY - 1), st.sampled_from([0, 1, 2, 255])
)


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(edits, min_size=1, max_size=4))
def test_what_is_left_out_lets_the_reader_pass(sound, tmp_path_factory, changes):
    run = tmp_path_factory.mktemp("edited") / "replay_logs"
    shutil.copytree(sound, run)
    for name, slot, value in changes:
        change(run, name, slot, value)
    _, left_out = check(run)
    kept = np.ones(CAPACITY, bool)
    for start, stop in left_out:
        kept[start:stop] = False
    episodes = repaired(run, left_out)
    # All that is not left out is read, and no edit that the reader could refuse is in it.
    frames = load(file_of(run, "$store$_observation"))[:-1][kept[:-1]]
    read = np.concatenate([np.zeros((0, 84, 84)), *(e.frames for e in episodes)])
    assert len(frames) - 3 * (1 + len(episodes)) <= len(read) <= len(frames)
    shutil.rmtree(run.parent)


def test_terminals_that_are_all_zero(run, sound):
    """Padding in mid-episode says that ends are missing: one endless game would be read."""
    change(run, "terminal", slice(None), 0)
    file_of(run, "episode_end_indices").unlink()
    with pytest.raises(UserError, match="no terminal of the file is set"):
        read_all(run, [0])
    wrong, left_out = check(run)
    assert wrong["terminal"][0][0] == 7 and "2 such" in wrong["terminal"][0][1]
    assert repaired(run, left_out) == []


def test_a_long_file_without_an_end(run, monkeypatch):
    monkeypatch.setattr(files, "LONGEST", 30)
    change(run, "terminal", slice(None), 0)
    change(run, "action", slice(None), 1)  # no padding either
    file_of(run, "episode_end_indices").unlink()
    with pytest.raises(UserError, match=r"\$store\$_terminal.*no episode ends among 39 entries"):
        read_all(run, [0])
    wrong, left_out = check(run)
    assert "no episode ends" in wrong["terminal"][0][1] and left_out == [EVERYTHING]


@pytest.mark.parametrize("count", [20, 38, 2**62 + 5, 0])
def test_a_count_that_the_invalid_range_contradicts(run, count):
    store(file_of(run, "add_count"), np.array(count))
    with pytest.raises(UserError, match=r"add_count.*invalid_range says that it is 39"):
        read_all(run, [0])
    wrong, left_out = check(run)
    assert "invalid_range says" in wrong["add_count"][0][1] and left_out == [EVERYTHING]


def test_a_whole_lap_more_is_the_same_cursor(run, sound):
    store(file_of(run, "add_count"), np.array(39 + 2 * CAPACITY))
    assert_same(read_all(run, [0]), read_all(sound, [0]))


def test_play_behind_the_cursor_is_a_warning(run):
    store(file_of(run, "add_count"), np.array(20))
    store(file_of(run, "invalid_range"), np.arange(19, 24))
    assert check(run) == ({}, [])
    ((entry, text),) = warnings(run)["add_count"]
    assert entry == 20 and "(16 such)" in text and "the count ends at 20" in text


def test_a_number_that_begins_with_zero_is_not_passed_over(run):
    file_of(run, "add_count", 1).rename(run / "add_count_ckpt.01.gz")
    with pytest.raises(UserError, match=r"add_count_ckpt.01.gz .*rename"):
        list_suffixes(run)
