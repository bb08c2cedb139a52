"""What a selection comes to, and that a run goes on with the same data only."""

from __future__ import annotations

import gzip
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from dopamine_files import GAME, steps_of, write_run

from cql_atari.core.settings import Data
from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.runs import folder, manifest


@pytest.fixture
def data_dir(tmp_path):
    logs = tmp_path / "data" / GAME / "1" / "replay_logs"
    logs.mkdir(parents=True)
    write_run(logs, steps_of(10, 10), 20)
    return tmp_path / "data"


def make(data_dir: Path, **changes):
    settings = {"games": (GAME,), "suffixes": None} | changes
    return manifest.make_manifest(sources.find_sources(Data(dir=str(data_dir), **settings)), 3)


def test_hand_numbers(data_dir):
    # File 0: slots 3..12 and 16..18 behind paddings; slot 19 is stale, file 1 goes on at slot 0.
    parts = make(data_dir)["sources"][0]["suffixes"]
    assert parts["0"]["episodes"] == 2 and parts["0"]["steps"] == 13
    assert parts["0"]["transitions"] == 10  # the cut episode has 3 steps, n = 3
    name = "$store$_action_ckpt.0.gz"
    path = data_dir / GAME / "1" / "replay_logs" / name
    checksum = f"{zlib.crc32(gzip.decompress(path.read_bytes())):08x}"
    assert parts["0"]["files"][name] == [path.stat().st_size, checksum]


def test_the_table_adds_up(data_dir):
    made = make(data_dir)
    rows = manifest.as_table(made).splitlines()
    parts = made["sources"][0]["suffixes"].values()
    assert rows[0].split() == ["game", "format", "groups", "episodes", "steps", "transitions"]
    steps = sum(part["steps"] for part in parts)
    assert rows[1].split()[:5] == [GAME, "dopamine", "2", "3", str(steps)]


def test_a_run_goes_on_with_the_same_data_wherever_they_lie(data_dir, tmp_path):
    manifest.record_manifest(make(data_dir), tmp_path, begun=False)
    shutil.move(data_dir, tmp_path / "moved")
    manifest.record_manifest(make(tmp_path / "moved"), tmp_path, begun=True)


def test_other_data_are_refused_with_the_difference(data_dir, tmp_path):
    manifest.record_manifest(make(data_dir), tmp_path, begun=False)
    before = (tmp_path / folder.MANIFEST).read_bytes()
    for changes in ({"suffixes": (0,)}, {"fraction": 0.5}):
        with pytest.raises(UserError, match=r"(?s)started on other data.*suffix"):
            manifest.record_manifest(make(data_dir, **changes), tmp_path, begun=True)
    path = data_dir / GAME / "1" / "replay_logs" / "$store$_reward_ckpt.1.gz"
    with gzip.open(path) as file:
        rewards = np.load(file)
    rewards[1] = 0.5
    with gzip.open(path, "wb") as file:
        np.save(file, rewards)
    with pytest.raises(UserError, match=r"run 1, suffix 1, \$store\$_reward_ckpt.1.gz: \d+ \w{8} "):
        manifest.record_manifest(make(data_dir), tmp_path, begun=True)
    assert (tmp_path / folder.MANIFEST).read_bytes() == before


def test_other_parts_left_out_are_refused_though_nothing_else_tells(data_dir, tmp_path):
    """Public RLDS says no count of episodes; data.exclude may have other content."""

    def record(ranges, begun):
        (entry,) = (made := make(data_dir))["sources"]
        manifest.record_manifest(
            {**made, "sources": [{**entry, "left_out": ranges}]}, tmp_path, begun
        )

    record({"1": [[0, 1]]}, begun=False)
    record({"1": [[0, 1]]}, begun=True)
    for other in ({"1": [[0, 5]]}, {}, {"0": [[0, 1]], "1": [[0, 1]]}):
        with pytest.raises(UserError, match=r"suffix [01], left out"):
            record(other, begun=True)


def test_a_damaged_manifest_is_no_silent_consent(data_dir, tmp_path):
    (tmp_path / folder.MANIFEST).write_text(json.dumps({"sources": [{"game": "Pong"}]}))
    with pytest.raises(UserError, match="damaged"):
        manifest.record_manifest(make(data_dir), tmp_path, begun=True)


def test_a_run_that_saved_nothing_may_still_choose(data_dir, tmp_path):
    manifest.record_manifest(make(data_dir), tmp_path, begun=False)
    manifest.record_manifest(make(data_dir, fraction=0.5), tmp_path, begun=False)
    assert json.loads((tmp_path / folder.MANIFEST).read_text())["sources"][0]["fraction"] == 0.5


def test_a_survey_ends_before_the_next_group_when_told_to(data_dir, monkeypatch):
    surveyed, survey = [], sources.survey

    def note(*args, **kwargs):
        surveyed.append(args)
        return survey(*args, **kwargs)

    monkeypatch.setattr(sources, "survey", note)
    found = sources.find_sources(Data(dir=str(data_dir), games=(GAME,), suffixes=None))
    with pytest.raises(KeyboardInterrupt):
        manifest.make_manifest(found, 3, lambda: len(surveyed) == 1)
    assert len(surveyed) == 1 < len(found[0].suffixes)
