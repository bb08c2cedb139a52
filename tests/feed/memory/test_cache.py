"""Mapped stores: equal to those in RAM, whole or absent, one writer at a time, honest errors."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import processes
import pytest
from synthetic_episodes import extent, extents, make_episode

from cql_atari.core.types import UserError
from cql_atari.feed import drawing, positions
from cql_atari.feed.memory import cache
from cql_atari.feed.memory import store as memory
from cql_atari.feed.sampling import BatchLaw
from cql_atari.methods.method import Transitions

GAMES = ("Pong", "Breakout")


def episodes():
    yield make_episode(0, 6, game="Breakout")
    yield make_episode(1, 9, terminal=False)
    yield make_episode(3, 8, game="Breakout", starts=False)
    yield make_episode(4, 1)


def make_table():
    return positions.episodes(extents(episodes(), GAMES))


def fill(write, table):
    memory.fill(write, episodes(), table)


def load(folder, fill=fill, make_table=make_table, games=GAMES, **options):
    return cache.load(folder, "key", games, make_table=make_table, fill=fill, **options)


def many():
    """290 MB of frames."""
    return (make_episode(i, 200) for i in range(200))


def table_many():
    return positions.episodes({"Pong": [extent(make_episode(0, 200))] * 200})


def fill_many(write, table):
    memory.fill(write, many(), table)


def never(*_):
    raise AssertionError("a source was read again")


def batches(store):
    data = drawing.dataset(
        store, BatchLaw(8, 2), Transitions(3, 0.9), seed=0, start_step=5, steps_per_call=2
    )
    return list(data.take(4).as_numpy_iterator())


def test_it_gives_the_batches_of_a_store_in_ram_and_reads_the_sources_once(tmp_path):
    expected = batches(memory.load(episodes(), make_table()))
    for store in (
        load(tmp_path / "new" / "folder"),
        load(tmp_path / "new" / "folder", never, never),
    ):
        assert store.episodes.games == GAMES
        for ours, theirs in zip(batches(store), expected):
            for a, b in zip(ours, theirs):
                np.testing.assert_array_equal(a, b)
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["key", "key.lock"]


def test_its_frames_are_pages_of_the_file(tmp_path):
    """290 MB of frames: neither writing nor mapping them takes memory of our own."""

    def anonymous():
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1e3

    before = anonymous()
    most = []

    def watched():
        for episode in many():
            most.append(anonymous())
            yield episode

    store = load(tmp_path, lambda w, t: memory.fill(w, watched(), t), table_many, ["Pong"])
    assert store.frames.nbytes > 280e6
    assert int(store.frames[:, 0, 0].max()) == 200  # every page is touched
    batches(store)  # TensorFlow likes to copy
    assert max(most) - before < 60 and anonymous() - before < 60


def test_its_files_cannot_be_written_to(tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        load(tmp_path).frames[:] = 77


def test_its_pages_are_let_go_of_while_batches_are_drawn(tmp_path):
    """How much Linux maps around a page that is read depends on file system and version."""

    def mapped():
        return int(Path("/proc/self/status").read_text().split("RssFile:")[1].split()[0]) / 1e3

    store = load(tmp_path, fill_many, table_many, ["Pong"])
    assert store.frames[:, 0, 0].max() == 200  # every page is touched
    full = mapped()
    data = drawing.dataset(
        store, BatchLaw(8, 2), Transitions(3, 0.9), seed=0, start_step=0, steps_per_call=2
    )
    after = [mapped() for _ in data.take(50)]
    assert full - max(after[5:]) > 200


def test_all_of_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Otherwise a power cut leaves empty files in a folder that counts as whole."""
    fsync, synced = os.fsync, []

    def note(descriptor):
        if not (tmp_path / "key").exists():
            synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    load(tmp_path)
    assert sorted(synced) == sorted([*os.listdir(tmp_path / "key"), "partial-key"])


@pytest.mark.parametrize("stage", [0, 2])
def test_one_that_failed_leaves_nothing_and_is_made_again(tmp_path, stage):
    def failing(write, table):
        for i, episode in enumerate(episodes()):
            if i == stage:
                raise UserError("observation.3.gz is cut short")
            write("frames", 0, episode.frames)

    with pytest.raises(UserError, match="cut short"):
        load(tmp_path, failing)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]
    assert load(tmp_path).episodes.steps.sum() > 0


def build_slowly(folder, pipe):
    def slow(write, table):
        pipe.send("started")
        pipe.recv()
        fill(write, table)

    load(folder, slow)


@pytest.fixture
def builder(tmp_path):
    """A process in the midst of writing, and the pipe that lets it go on."""
    ours, theirs = processes.CONTEXT.Pipe()
    process = processes.CONTEXT.Process(target=build_slowly, args=(tmp_path, theirs))
    process.start()
    assert ours.poll(120)
    yield process, ours
    process.kill()
    process.join()


def test_a_second_process_waits_for_the_first_and_reads_no_source(tmp_path, builder):
    _, pipe = builder
    found = []
    second = threading.Thread(target=lambda: found.append(load(tmp_path, never, never)))
    second.start()
    second.join(0.6)
    assert second.is_alive() and not (tmp_path / "key").exists()
    pipe.send("go on")
    second.join(60)
    assert found[0].episodes.steps.tolist() == make_table().steps.tolist()


@pytest.mark.usefixtures("builder")
def test_the_wait_ends_when_asked_to_stop(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path, never, never, should_stop=lambda: True)


def test_after_a_kill_the_next_one_makes_it_whole(tmp_path, builder):
    process, _ = builder
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert (tmp_path / "partial-key").exists()
    assert load(tmp_path).episodes.steps.sum() > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["key", "key.lock"]


def test_a_full_disk_is_told_before_any_source_is_read(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(UserError, match=r"feed.cache_dir.*write 0.\d* GB: .*No space left"):
        load(tmp_path, never)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]


def test_a_disk_that_fills_up_while_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No")))
    with pytest.raises(UserError, match=r"feed\.cache_dir"):
        load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]


def test_partial_writes_are_completed(tmp_path, monkeypatch):
    expected = batches(load(tmp_path / "whole"))
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:1000], at))
    for ours, theirs in zip(batches(load(tmp_path / "bits")), expected):
        np.testing.assert_array_equal(ours.frames, theirs.frames)


@pytest.mark.parametrize("make", ["file", "unwritable"])
def test_a_folder_that_cannot_be_used(tmp_path, make):
    """Root may write anywhere, so a folder in /proc stands for what can't be written to."""
    folder = tmp_path / "file" if make == "file" else Path("/proc/self/none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"feed\.cache_dir"):
        load(folder, never, never)


@pytest.mark.parametrize("name", ["actions.npy", "steps.npy"])
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "pickle"])
def test_a_damaged_one_is_named(tmp_path, name, damage):
    load(tmp_path)
    path = tmp_path / "key" / name
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:130])
    else:
        np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"damaged.*Delete"):
        load(tmp_path, never, never)


def test_no_time_is_lost_where_it_is_there(tmp_path):
    """Not even the lock: the folder may be read-only, or another store be in the making."""
    load(tmp_path)
    (tmp_path / "key.lock").unlink()
    start = time.monotonic()
    load(tmp_path, never, never)
    assert not (tmp_path / "key.lock").exists() and time.monotonic() - start < 30
