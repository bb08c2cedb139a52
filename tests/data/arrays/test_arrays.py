"""One's own episodes as plain arrays: what is read, what is refused, in bounded memory."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cql_atari.core import games
from cql_atari.core.settings import Data
from cql_atari.core.types import Episode, Extent, UserError
from cql_atari.data import sources
from cql_atari.data.arrays import check, files, reader, writer
from cql_atari.data.arrays.format import ARRAYS
from cql_atari.data.format import Target
from cql_atari.data.shared import EVERYTHING

GAME = "Breakout"


def play() -> dict[str, np.ndarray]:
    """A fragment of 2 steps that ends, a whole game of 4, one of 3 that is cut: returns ?, 0, ?."""
    random = np.random.default_rng(0)
    return {
        "frames": random.integers(1, 255, (9, 84, 84), np.uint8),
        "actions": np.array([0, 1, 2, 3, 0, 1, 2, 3, 0]),
        "rewards": np.array([1, 0, -1, 1, 1, -1, 0, 1, 1], np.float32),
        "terminals": np.array([0, 1, 0, 0, 0, 1, 0, 0, 0], bool),
        "starts": np.array([0, 0, 1, 0, 0, 0, 1, 0, 0], bool),
        "game": np.array(GAME),
        "action_set": np.array("minimal"),
    }


@pytest.fixture(params=["stored", "packed", "folder"])
def folder(request, tmp_path) -> Path:
    return write(tmp_path / GAME / "1" / "arrays", request.param, play())


def write(folder: Path, way: str, arrays: dict[str, np.ndarray], suffix: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if way == "folder":
        (folder / str(suffix)).mkdir(exist_ok=True)
        for name, array in arrays.items():
            np.save(folder / str(suffix) / f"{name}.npy", array, allow_pickle=True)
    else:
        save = np.savez if way == "stored" else np.savez_compressed
        save(folder / f"{suffix}.npz", **arrays)
    return folder


def refused(folder: Path, *words: str) -> None:
    """The reader names what is wrong, and the check leaves the suffix out."""
    with pytest.raises(UserError) as info:
        list(ARRAYS.read_episodes(folder, GAME))
    assert all(word in str(info.value) for word in words), info.value
    result = check.check_suffix(folder, GAME, 0, lambda _: None)
    assert result.files[0].is_wrong and result.left_out


def test_episodes_and_extents(folder):
    expected, extents = play(), [Extent(2, True, False), Extent(4, True, True, 0.0)]
    extents.append(Extent(3, False, True))
    episodes = list(ARRAYS.read_episodes(folder, GAME))
    assert [(len(e.frames), e.terminal, e.starts) for e in episodes] == [e[:3] for e in extents]
    np.testing.assert_array_equal(np.concatenate([e.frames for e in episodes]), expected["frames"])
    lookup = games.to_full_actions(GAME)
    actions = np.concatenate([e.actions for e in episodes])
    np.testing.assert_array_equal(actions, lookup[expected["actions"]])
    np.testing.assert_array_equal(
        np.concatenate([e.rewards for e in episodes]), expected["rewards"]
    )
    assert reader.survey(folder, GAME, 0) == extents
    done = []
    result = check.check_suffix(folder, GAME, 0, done.append)
    assert result.left_out == [] and not result.files[0].is_wrong
    assert sum(done) == check.total_bytes(folder, 0) > 0


def test_found_as_a_source_and_replaced_files_are_noticed(folder):
    root = folder.parents[2]
    (source,) = sources.find_sources(Data(dir=str(root), games=(GAME,), suffixes=None))
    assert source.format == "arrays" and len(list(sources.read_part(source, 0))) == 3
    (recording,) = [
        recording for kind, recording in sources.recordings(root) if kind.name == "arrays"
    ]
    assert (recording.game, recording.run, recording.root) == (GAME, 1, str(root))
    other = play() | {"rewards": np.zeros(9, np.float32)}
    write(folder, "folder" if (folder / "0").is_dir() else "stored", other)
    with pytest.raises(UserError, match="was replaced"):
        sources.read_part(source, 0)


def test_fraction_and_left_out(folder):
    assert reader.survey(folder, GAME, 0, fraction=0.5)[1:] == [Extent(3, False, True)]
    left_out = {0: [(3, 4)]}
    cut = [(2, True, False), (1, False, True), (2, True, False), (3, False, True)]
    assert [e[:3] for e in reader.survey(folder, GAME, 0, gaps=left_out[0])] == cut
    found = list(ARRAYS.read_episodes(folder, GAME, left_out=left_out))
    assert [(len(e.frames), e.terminal, e.starts) for e in found] == cut
    np.testing.assert_array_equal(found[2].frames, play()["frames"][4:6])


def test_the_full_action_set(tmp_path):
    lookup = games.to_full_actions(GAME)
    arrays = play() | {"actions": lookup[play()["actions"]], "action_set": np.array("full")}
    folder = write(tmp_path, "stored", arrays)
    (first, *_) = ARRAYS.read_episodes(folder, GAME)
    np.testing.assert_array_equal(first.actions, lookup[[0, 1]])
    arrays["actions"] = arrays["actions"].copy()
    arrays["actions"][4] = 17  # a joystick's corner: Breakout has none
    write(folder, "stored", arrays)
    refused(folder, "actions[4] is 17", "that the game has")


@pytest.mark.parametrize("way", ["stored", "folder"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frames": np.zeros((9, 84, 84, 4), np.uint8)}, ("frames", "expected uint8")),
        ({"frames": np.zeros((9, 84, 84), np.float32)}, ("frames", "expected uint8")),
        ({"actions": np.zeros(8, int)}, ("differ in length", "'actions': 8", "every step")),
        ({"actions": np.full(9, 4)}, ("actions[0] is 4 (9 such)",)),
        ({"actions": np.full(9, -1)}, ("actions[0] is -1",)),
        ({"actions": np.full(9, 0.5)}, ("actions", "expected int64")),
        ({"rewards": np.full(9, np.nan)}, ("rewards[0] is nan",)),
        ({"rewards": np.full(9, 7.0)}, ("rewards[0] is 7.0", "clipped")),
        ({"terminals": np.full(9, 2, np.uint8)}, ("terminals[0] is 2",)),
        ({"starts": np.array([None] * 9)}, ("starts", "holds object (9,)", "Save it again")),
        ({"game": np.array("Pong")}, ("holds play of 'Pong', not of Breakout",)),
        ({"game": np.array("x" * 1000)}, ("game", "expected str")),
        ({"action_set": np.array("all")}, ("choose one of ('minimal', 'full')",)),
    ],
)
def test_wrong_arrays(tmp_path, way, change, words):
    refused(write(tmp_path, way, play() | change), *words)


@pytest.mark.parametrize("way", ["stored", "folder"])
def test_a_missing_array_is_named(tmp_path, way):
    arrays = play()
    del arrays["starts"]
    refused(write(tmp_path, way, arrays), "lacks starts", "docs/data.md")


def test_wrong_values_cost_their_episode(tmp_path):
    arrays = play()
    arrays["rewards"][3] = 2
    arrays["frames"][6:] = 9
    folder = write(tmp_path, "stored", arrays)
    result = check.check_suffix(folder, GAME, 0, lambda _: None)
    assert [p.entry for p in result.files[0].problems] == [3] and result.left_out == [(2, 6)]
    kept = list(ARRAYS.read_episodes(folder, GAME, left_out={0: result.left_out}))
    assert [len(e.frames) for e in kept] == [2, 3]


def test_a_recording_without_any_end_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST", 4)  # steps of a game, in place of 27,000
    monkeypatch.setattr(check, "LONGEST", 4)
    arrays = play() | {"terminals": np.zeros(9, bool), "starts": np.arange(9) == 2}
    result = check.check_suffix(write(tmp_path, "stored", arrays), GAME, 0, lambda _: None)
    (problem,) = result.files[0].problems
    assert (problem.entry, problem.is_warning) == (2, True) and "in 7 steps" in problem.text
    assert not result.files[0].is_wrong and not result.left_out


def member(name: str, shape: str, dtype: str, body: bytes) -> bytes:
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (118 - len(head) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + body


@pytest.mark.parametrize("name", ["frames", "actions", "game"])
def test_forged_shapes_and_bombs(tmp_path, name):
    """A terabyte claimed, and a gigabyte of zeros in a megabyte: refused before it is allocated."""
    folder = write(tmp_path, "stored", play())
    shapes = {"frames": ("(200000000, 84, 84)", "|u1"), "actions": ("(200000000000,)", "<i8")}
    forged = member(name, *shapes.get(name, ("()", "<U1000000000")), b"")
    for body in (b"", bytes(1 << 28)):
        path = tmp_path / "0.npz"
        buffer = io.BytesIO()
        with (
            zipfile.ZipFile(path) as old,
            zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for info in old.infolist():
                data = old.read(info)
                new.writestr(info.filename, forged + body if info.filename[:-4] == name else data)
        path.write_bytes(buffer.getvalue())
        refused(folder, name)


def test_damage(folder):
    """Cut, flipped, grown: the archive's checksums and the `.npy` files' sizes tell."""
    path = folder / "0" / "frames.npy" if (folder / "0").is_dir() else folder / "0.npz"
    sound = path.read_bytes()
    for damaged in (
        sound[:-100],
        sound[:50],
        b"",
        sound + b"more" if path.suffix == ".npy" else b"x",
    ):
        path.write_bytes(damaged)
        refused(folder, str(path))
    if path.suffix == ".npz":
        flipped = bytearray(sound)
        flipped[len(sound) // 2] ^= 1
        path.write_bytes(flipped)
        refused(folder, str(path), "frames")


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "0.npz")
    refused(tmp_path, "not a regular file")


def test_a_pickle_is_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    arrays = play() | {"starts": np.array([Trap()] * 9, object)}
    refused(write(tmp_path / "x", "folder", arrays), "starts")
    assert not (tmp_path / "executed").exists()


def test_numbers_of_suffixes(tmp_path):
    write(tmp_path, "stored", play(), 10)
    write(tmp_path, "folder", play(), 2)
    (tmp_path / "notes.txt").touch()
    assert files.list_suffixes(tmp_path) == [2, 10]
    write(tmp_path, "folder", play(), 10)
    with pytest.raises(UserError, match=r"10.npz and 10/"):
        files.list_suffixes(tmp_path)
    (tmp_path / "01.npz").touch()
    with pytest.raises(UserError, match="plain number"):
        files.list_suffixes(tmp_path)
    with pytest.raises(UserError, match="no arrays in"):
        (tmp_path / "empty").mkdir()
        files.list_suffixes(tmp_path / "empty")


def test_left_out_whole(folder):
    assert list(ARRAYS.read_episodes(folder, GAME, left_out={0: [EVERYTHING]})) == []


def test_what_lacks_steps_in_mid_game_is_not_joined(tmp_path):
    def part(steps: int, **flags: bool) -> Episode:
        frames, zeros = np.ones((steps, 84, 84), np.uint8), np.zeros(steps, np.int32)
        return Episode("Breakout", frames, zeros, zeros.astype(np.float32), **flags)

    def written(*parts: Episode) -> list[Extent]:
        target = Target(tmp_path / "arrays", "Breakout", 1, 0)
        writer.write_suffix(target, parts, {}, lambda steps: None)
        return reader.survey(target.folder, "Breakout", 0)

    behind = part(5, terminal=True, starts=False)
    with pytest.raises(UserError, match=r"suffix 0 of Breakout lacks steps in mid-game.*--to=rlds"):
        written(part(6, terminal=False, starts=True), behind)
    assert not (tmp_path / "arrays" / "0").exists()
    assert written(behind, part(6, terminal=False, starts=True)) == [
        Extent(5, True, False), Extent(6, False, True),
    ]  # fmt: skip
