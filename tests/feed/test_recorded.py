"""Feeds on real files: refusal before loading, cached files and their keys, stops, and a real
training run that is killed and goes on in the data where its checkpoint says."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tiny

from cql_atari.core.settings import Data
from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.dopamine.writer import ReplayWriter
from cql_atari.feed import recorded
from cql_atari.feed.replay.order import Place, order
from cql_atari.feed.replay.segments import pack
from cql_atari.feed.transitions import block
from cql_atari.methods.method import Sequences, Transitions
from cql_atari.runs import checkpoint
from cql_atari.runs import folder as workdir
from cql_atari.tools import pack as pack_tool

ROOT = Path(__file__).resolve().parents[2]
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
    return config, sources.find(config.data)


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
    changes = [(), ("data.fraction = 0.5",), ("data.suffixes = (0, 2)",),
               ("data.games = ('Freeway', 'Breakout')",)]  # fmt: skip
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
    jobs = pack_tool.find_jobs(Data(dir=str(data), suffixes=None), tmp_path, (), (1,))
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
def test_a_stop_ends_the_wait_for_the_first_batch(data, kind, calls):
    """The replay would need 40,000 transitions before its first batch."""
    answers = itertools.chain([False] * calls, itertools.repeat(True))
    with pytest.raises(KeyboardInterrupt):
        first_batch(data, f"feed.kind = '{kind}'", "feed.transitions_per_game = 2_000_000",
                    should_stop=lambda: next(answers))  # fmt: skip


# A real run with the replay. The driver notes which episodes its writers insert.

DRIVER = """
import sys, zlib
from cql_atari import train
from cql_atari.system import cli
from cql_atari.feed.replay import writer as replay_writer
original = replay_writer._insert
log = open(sys.argv.pop(1), "a")

def insert(writer, game, segments, stop):
    done = original(writer, game, segments, stop)
    if done and segments:
        print(game, zlib.crc32(b"".join(packed for packed, _ in segments)), file=log, flush=True)
    return done

replay_writer._insert = insert
train._define_flags()
cli.run(train.main)
"""
BINDINGS = (
    "data.suffixes = None",
    "feed.kind = 'replay'",
    "feed.n_step = 1",
    "feed.transitions_per_game = 160",
    "feed.samples_per_insert = 1.0",
    "train.steps = 100_000",
    "train.save_every = 20",
    "train.log_every = 20",
)


def start(folder, data, log, *bindings) -> subprocess.Popen:
    every = (*tiny.BINDINGS, f"data.dir = '{data}'", *BINDINGS, *bindings)
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(log), f"--workdir={folder}",
         *(f"--gin_bindings={binding}" for binding in every)],
        cwd=ROOT, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(condition, process):
    until = time.monotonic() + 400
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def stream_of(data, game):
    """Every episode's checksum in the order of the passes, with its place."""
    config, found = make(data, *BINDINGS)
    source = next(source for source in found if source.game == game)
    parts = [
        [b"".join(p for p, _ in pack(block(e, 1, config.feed.discount), 1))
         for e in sources.read_part(source, suffix)]
        for suffix in source.suffixes
    ]  # fmt: skip
    for pass_ in itertools.count():
        for nth, part in enumerate(order(len(parts), seed=0, game=game, pass_=pass_)):
            for episode, packed in enumerate(parts[part]):
                if packed:
                    yield Place(pass_, nth, episode), str(zlib.crc32(packed))


def saved_places(folder):
    steps = checkpoint.steps(folder / "checkpoints")
    saved = checkpoint.read_extra(folder / "checkpoints", steps[-1])["places"]
    return steps[-1], {game: Place(*place) for game, place in saved.items()}


def written(log, game):
    lines = (line.split() for line in log.read_text().splitlines())
    return [checksum for name, checksum in lines if name == game]


def test_a_killed_run_goes_on_in_the_data_where_its_checkpoint_says(tmp_path, data):
    """Tables of 160 transitions, data of 1,400 in 8 parts: the second life begins at the place of
    the first one's last checkpoint, and goes on into the next pass.
    """
    folder, step, places = tmp_path / "run", 0, {game: Place() for game in tiny.GAMES}

    def has_come(after, far):
        if not checkpoint.steps(folder / "checkpoints"):
            return False
        now, reached = saved_places(folder)
        return now > after and min(reached.values()) >= far

    for number, far in [(signal.SIGKILL, Place(0, 3)), (signal.SIGTERM, Place(1, 2))]:
        log = tmp_path / f"log{step}"
        process = start(folder, data, log)
        wait_for(functools.partial(has_come, step, far), process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode in (-signal.SIGKILL, workdir.EXIT_INTERRUPTED), errors
        for game in tiny.GAMES:
            inserted = written(log, game)
            stream = (packed for place, packed in stream_of(data, game) if place >= places[game])
            assert inserted == list(itertools.islice(stream, len(inserted)))
        step, places = saved_places(folder)


def test_a_stop_while_the_replay_fills_ends_the_run_at_once(tmp_path, data):
    """It would need 2,000,000 transitions; nothing is lost, so nothing is saved."""
    log = tmp_path / "log"
    process = start(tmp_path / "run", data, log, "feed.transitions_per_game = 100_000_000")
    wait_for(lambda: log.exists() and len(written(log, "Freeway")) > 200, process)
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == workdir.EXIT_INTERRUPTED and "Traceback" not in errors
    assert time.monotonic() - sent < 20  # about one, of which most is Python's and Reverb's end
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())
