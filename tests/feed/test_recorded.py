"""Feeds on real files: refusal before loading, cached files and their keys, stops, and real
training runs with the replay that are killed and go on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import shutil
import sys
import time
import zlib

import numpy as np
import processes
import pytest
import tensorflow as tf
import tiny

from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.dopamine.writer import ReplayWriter
from cql_atari.feed import recorded
from cql_atari.feed.replay.interleave import OpenPart, StreamPosition
from cql_atari.methods.method import Sequences, Transitions
from cql_atari.runs import checkpoint
from cql_atari.tools import pack as pack_tool
from cql_atari.tools.selection import select_sources

pytestmark = pytest.mark.slow

SLOTS = 200  # of a file: some 7 episodes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight suffixes a game, 1,600 slots in all; every frame differs from all others."""
    folder = tmp_path_factory.mktemp("data")
    for game in tiny.GAMES:
        directory = folder / game / "1" / "replay_logs"
        directory.mkdir(parents=True)
        writer, random = ReplayWriter(directory, SLOTS), np.random.default_rng(0)
        while writer.add_count < 8 * SLOTS - 30:
            length = int(random.integers(20, 30))
            for t in range(length):
                frame = np.full((84, 84), 7, np.uint8)
                frame[0] = random.integers(256, size=84)
                writer.add(frame, int(random.integers(3)), float(t % 3 - 1), t == length - 1)
        writer.finish()
    return folder


def make(data, *bindings):
    config = tiny.config(f"data.dir = '{data}'", "data.suffixes = None", *bindings)
    return config, sources.find_sources(config.data)


def same(ours, theirs):
    for a, b in zip(ours, theirs):
        np.testing.assert_array_equal(a, b)


def first_batch(data, *bindings, state=None, should_stop=lambda: False, length=None):
    """Of transitions, or of windows of that length."""
    config, found = make(data, *bindings)
    reads = Sequences(length) if length else Transitions(config.feed.n_step, config.feed.discount)
    options = {"reads": reads, "state": state or {}, "should_stop": should_stop}
    with recorded.open_feed(config, found, 0, **options) as feed:
        return next(iter(feed.batches(slice(None))))


@pytest.fixture
def reads(monkeypatch):
    """The (game, suffix) whose episodes were asked for."""
    asked, read_part = [], sources.read_part

    def spy(source, suffix):
        asked.append((source.game, suffix))
        return read_part(source, suffix)

    monkeypatch.setattr(sources, "read_part", spy)
    return asked


def test_what_does_not_fit_is_refused_before_anything_is_read(data, reads, monkeypatch):
    """Some 2,800 frames of 7,056 bytes, with columns 20 MB."""
    with pytest.raises(UserError, match=r"would take 0\.01\d* GB.*0\.015 GB \(feed.memory_gb\)"):
        first_batch(data, "feed.memory_gb = 0.015")
    monkeypatch.setattr(recorded, "free_bytes", lambda: 22_000_000)
    with pytest.raises(UserError, match=r"0\.0176 GB \(80% of what is free\)"):
        first_batch(data)
    assert reads == []
    monkeypatch.setattr(recorded, "free_bytes", lambda: 35_000_000)
    first_batch(data)
    assert len(reads) == 16


def test_cached_files_are_written_once_for_the_same_data_wherever_they_lie(data, reads, tmp_path):
    cache = f"feed.cache_dir = '{tmp_path / 'cache'}'"
    expected = first_batch(data)
    del reads[:]
    for place in (data, shutil.copytree(data, tmp_path / "moved")):
        batch = first_batch(place, cache, "feed.memory_gb = 0.001")
        for ours, theirs in zip(batch, expected):
            np.testing.assert_array_equal(ours, theirs)
    assert len(reads) == 16  # once


def test_other_data_are_cached_apart(data, tmp_path):
    mine = shutil.copytree(data, tmp_path / "data")
    exclude = tmp_path / "exclude.json"
    ranges = {"Freeway/1": {"2": [[5, 9]]}}
    exclude.write_text(json.dumps({"format": sources.EXCLUSIONS, "exclude": ranges}))
    changes = [(), ("data.fraction = 0.5",), ("data.suffixes = (0, 2)",),
               ("data.games = ('Freeway', 'Breakout')",),
               (f"data.exclude = '{exclude}'",)]  # fmt: skip
    keys = [recorded._cache_key(*make(mine, *change)) for change in changes]
    path = mine / "Freeway" / "1" / "replay_logs" / "$store$_reward_ckpt.2.gz"
    with gzip.open(path) as file:
        rewards = np.load(file)
    with gzip.open(path, "wb") as file:
        np.save(file, -rewards)
    keys.append(recorded._cache_key(*make(mine)))
    assert len(set(keys)) == len(keys)
    indifferent = (
        "feed.draws = 7",
        "feed.n_step = 1",
        "feed.discount = 0.9",
        "train.seed = 3",
        f"data.dir = '{data}'",
    )
    assert recorded._cache_key(*make(data, *indifferent)) == keys[0]


def test_extents_that_nobody_knows_are_counted(data, monkeypatch):
    expected = first_batch(data)
    without = dataclasses.replace(DOPAMINE, survey=lambda *_, **__: None)  # as RLDS
    monkeypatch.setattr(sources, "FORMATS", [without])
    for ours, theirs in zip(first_batch(data), expected):
        np.testing.assert_array_equal(ours, theirs)


def test_a_replay_has_no_windows(data):
    with pytest.raises(UserError, match=r"windows of 4 steps.*'packed'.*'memory'"):
        first_batch(data, "feed.kind = 'replay'", length=4)


def test_a_window_longer_than_any_episode_is_refused_before_all_is_read(data, reads):
    batch = first_batch(data, length=20)
    assert batch.frames.shape == (2, 8, 20, 84, 84)
    del reads[:]
    with pytest.raises(UserError, match=r"no window of 31 steps of Breakout, Freeway"):
        first_batch(data, length=31)
    assert reads == []


def test_packed_play_gives_the_batches_of_the_files_that_were_packed(data, tmp_path):
    """Each n-step return and each window of the memory feed, bit for bit; then of a part of it."""
    jobs = pack_tool.suffixes_to_pack(select_sources(data, tmp_path, runs=[1]), tmp_path)
    for job in jobs:
        pack_tool.pack_suffix(job, lambda steps: None)
    for n_step in (1, 5):
        n = f"feed.n_step = {n_step}"
        same(first_batch(tmp_path, n, "feed.kind = 'packed'"), first_batch(data, n))
    same(first_batch(tmp_path, "feed.kind = 'packed'", length=4), first_batch(data, length=4))
    same(
        first_batch(tmp_path, "data.suffixes = (2, 5)", "data.fraction = 0.5"),
        first_batch(tmp_path, "data.suffixes = (2, 5)", "data.fraction = 0.5",
                    "feed.kind = 'packed'"),
    )  # fmt: skip
    best = "data.best_fraction = 0.2"
    chosen = first_batch(data, best)
    same(first_batch(tmp_path, best, "feed.kind = 'packed'"), chosen)
    assert not np.array_equal(chosen.frames, first_batch(data).frames)


def test_what_is_not_packed_is_said_to_be_so(data):
    with pytest.raises(UserError, match=r"isn't packed. Pack it \(python -m"):
        first_batch(data, "feed.kind = 'packed'")


@pytest.mark.parametrize("kind", ["memory", "replay"])
@pytest.mark.parametrize("calls", [0, 5, 20])
def test_a_stop_ends_the_wait_for_the_first_batch(data, kind, calls, monkeypatch):
    """The replay's windows, of more than there is, fill in 11 s, were they not stopped."""

    def slowly(source, suffix):
        for episode in read_part(source, suffix):
            time.sleep(0.1)
            yield episode

    read_part = sources.read_part
    monkeypatch.setattr(sources, "read_part", slowly)
    answers = itertools.chain([False] * calls, itertools.repeat(True))
    with pytest.raises(KeyboardInterrupt):
        first_batch(data, f"feed.kind = '{kind}'", "feed.transitions_per_game = 2_000_000",
                    should_stop=lambda: next(answers))  # fmt: skip


# Real runs with the replay.

BINDINGS = (
    "data.suffixes = None",
    "feed.kind = 'replay'",
    "feed.n_step = 1",
    "feed.transitions_per_game = 160",
    "feed.samples_per_insert = 2.0",
    "feed.parts_at_once = 3",
    "train.save_every = 20",
    "train.log_every = 20",
)


def start(folder, data, *bindings) -> processes.Popen:
    every = (*tiny.BINDINGS, f"data.dir = '{data}'", *BINDINGS, *bindings)
    return processes.Popen(
        [sys.executable, "-m", "cql_atari.train", f"--workdir={folder}",
         *(f"--gin_bindings={binding}" for binding in every)]
    )  # fmt: skip


def wait_for(condition, process):
    until = time.monotonic() + 400
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def newest(folder):
    return max(checkpoint.steps(folder / "checkpoints"), default=0)


def weights(folder):
    path = folder / "checkpoints" / f"{newest(folder):010d}" / "variables"
    reader = tf.train.load_checkpoint(str(path))
    names = [n for n in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in n]
    return {name: reader.get_tensor(name) for name in names}


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(tmp_path, data):
    """Some 640 draws a game: the windows of 160 transitions slide on by 2 to 3 times their size."""
    folder = tmp_path / "broken"
    short = ("train.steps = 160", "evaluation.episodes = 1", "evaluation.max_frames = 8")
    alone = start(tmp_path / "alone", data, *short)
    process = start(folder, data, *short)
    wait_for(lambda: newest(folder) >= 20, process)
    process.kill()
    process.communicate()
    assert newest(folder) < 160
    for process in (start(folder, data, *short), alone):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    ours, theirs = weights(folder), weights(tmp_path / "alone")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_batches_go_on_bit_for_bit_from_any_step_over_three_passes(data):
    """Two steps a call: at an odd step a run ended within a call. 9,600 draws a game."""
    steps = {first: {} for first in (0, 20, 301, 1500)}

    def draw(first, count, state):
        config, found = make(data, *BINDINGS)
        reads = Transitions(config.feed.n_step, config.feed.discount)
        options = {"reads": reads, "state": state, "should_stop": lambda: False}
        drawn = []
        with recorded.open_feed(config, found, first, **options) as feed:
            for batch in itertools.islice(iter(feed.batches(slice(None))), count // 2):
                for k in range(2):
                    drawn.append(zlib.crc32(b"".join(part[k].numpy().tobytes() for part in batch)))
                    if not state and (at := len(drawn)) in steps:
                        steps[at] = json.loads(json.dumps(feed.state(at)))
        return drawn

    whole = draw(0, 2400, {})
    assert len(set(whole)) == len(whole)
    for first in (20, 301, 1500):
        assert draw(first, 200, steps[first]) == whole[first : first + 200]


def test_the_places_of_an_older_checkpoint_are_gone_on_from(data):
    """(passes, parts, episodes) of writers that read one part after the other."""
    places = {tiny.GAMES[0]: [1, 3, 4], tiny.GAMES[1]: [0, 0, 0]}
    config, found = make(data, *BINDINGS)
    options = {"reads": Transitions(1, 0.99), "state": {"places": places}}
    with recorded.open_feed(config, found, 6, **options, should_stop=lambda: False) as feed:
        next(iter(feed.batches(slice(None))))
        begun = feed.state(6)["places"]
    assert begun[tiny.GAMES[0]].start == StreamPosition(12, (OpenPart(11, 4),))
    assert begun[tiny.GAMES[1]].start == StreamPosition()
    with pytest.raises(UserError, match="can't be read: 'x'"):
        first_batch(data, *BINDINGS, state={"places": {tiny.GAMES[0]: "x"}})
