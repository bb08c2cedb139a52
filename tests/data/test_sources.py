"""Which recorded play a configuration selects, and what is said where it isn't there."""

from __future__ import annotations

import json

import pytest
from dopamine_files import GAME, steps_of, write_run

from cql_atari.core.settings import Data
from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.dopamine import reader as dopamine


@pytest.fixture
def data_dir(tmp_path):
    logs = tmp_path / "data" / GAME / "1" / "replay_logs"
    logs.mkdir(parents=True)
    write_run(logs, steps_of(10, 10), 20)
    return tmp_path / "data"


def data(data_dir, **changes) -> Data:
    settings = {"games": (GAME,), "suffixes": None} | changes
    return Data(dir=str(data_dir), **settings)


def test_all_suffixes_or_those_that_are_named(data_dir):
    (found,) = sources.find(data(data_dir))
    assert (found.game, found.run, found.format, found.suffixes) == (GAME, 1, "dopamine", (0, 1))
    assert sources.find(data(data_dir, suffixes=(1,)))[0].suffixes == (1,)
    assert sources.reader(found) is dopamine


def test_an_absent_suffix_run_or_game_is_named(data_dir):
    with pytest.raises(UserError, match=r"no suffix \[7\] of Breakout, run 1.*there are \[0, 1\]"):
        sources.find(data(data_dir, suffixes=(0, 7)))
    with pytest.raises(UserError, match="Breakout, run 2"):
        sources.find(data(data_dir, runs=(1, 2)))
    with pytest.raises(UserError, match=r"Pong/1/replay_logs.*rlu_atari_checkpoints_ordered"):
        sources.find(data(data_dir, games=("Pong",)))


def test_exclusions_reach_the_reader(data_dir, tmp_path):
    file = tmp_path / "exclude.json"
    everything = [0, 2**62]
    content = {"format": "cql_atari exclusions 1",
               "exclude": {f"{GAME}/1": {"0": [[5, 9]], "1": [everything]}}}  # fmt: skip
    file.write_text(json.dumps(content))
    (source,) = sources.find(data(data_dir, exclude=str(file)))
    assert source.left_out == {0: [(5, 9)], 1: [(0, 2**62)]}
    assert [len(e.frames) for e in sources.read_part(source, 0)] == [2, 4, 3]
    assert list(sources.read_part(source, 1)) == []


MALFORMED = '{"format": "cql_atari exclusions 1", "exclude": {"Breakout/1": {"x": [[1]]}}}'


@pytest.mark.parametrize("text", ["", "{}", '{"format": "other"}', MALFORMED])
def test_another_file_is_no_exclusions(data_dir, tmp_path, text):
    file = tmp_path / "exclude.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"verify DIR --repair"):
        sources.find(data(data_dir, exclude=str(file)))


def test_exclusions_of_a_run_that_is_not_selected_are_no_error(data_dir, tmp_path):
    file = tmp_path / "exclude.json"
    file.write_text(json.dumps({"format": "cql_atari exclusions 1", "exclude": {"Pong/1": {}}}))
    assert sources.find(data(data_dir, exclude=str(file)))[0].left_out == {}


def test_the_newest_version_of_rlds_is_found(tmp_path):
    for version in ("1.0.0", "1.10.0", "1.9.0", "incomplete"):
        (tmp_path / "rlu_atari_checkpoints" / "Breakout_run_1" / version).mkdir(parents=True)
    path, kind = sources._locate(str(tmp_path), GAME, 1)
    assert path.endswith("/rlu_atari_checkpoints/Breakout_run_1/1.10.0") and kind == "rlds"
