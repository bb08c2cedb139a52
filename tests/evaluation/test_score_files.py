"""`scores.json`: round trips, and every kind of malformed file named."""

from __future__ import annotations

import json
import os

import pytest
from made_up import episode

from cql_atari.core.types import UserError
from cql_atari.evaluation import score_files


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "scores.json"
    episodes = [episode("Pong", -21.0, seed=i, actions=[i, 3]) for i in range(3)]
    protocol, run = {"epsilon": 0.001, "sticky": 0.0}, {"label": "agent", "step": 5}
    score_files.write(path, episodes, protocol, run)
    found = score_files.read(path)
    assert (found.folder, found.episodes, found.protocol, found.run) == (
        path.parent, episodes, protocol, run,
    )  # fmt: skip
    assert found.label == "agent"
    content = json.loads(path.read_text())
    assert content["summary"]["games"]["Pong"]["mean"] == -21.0
    assert len(content["episodes"]) == 3
    assert [file.name for file in path.parent.iterdir()] == ["scores.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    score_files.write(path, [episode("Pong", 1)], {}, {})
    before = path.read_text()
    monkeypatch.setattr(os, "replace", _no_space)
    with pytest.raises(UserError, match="No space left"):
        score_files.write(path, [episode("Pong", 2)], {}, {})
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


def _no_space(*_):
    raise OSError(28, "No space left on device")


GOOD = {"format": 1, "run": {}, "protocol": {}, "episodes": [episode("Pong", 1)._asdict()]}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 2}, "format is 2 instead of 1"),
        ({"episodes": []}, "it holds no episode"),
        ({"episodes": 3}, "episodes is 3"),
        ({"episodes": [7]}, "episode 0 is 7"),
        ({"episodes": [{"game": "Pong"}]}, "episode 0 has no score"),
        ({"run": None}, "run is null"),
        ({"protocol": []}, r"protocol is \[\]"),
    ],
)
def test_malformed_files_are_named(tmp_path, change, message):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(UserError, match=message) as caught:
        score_files.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("action_counts", [1], r"action_counts of episode 1 is \[1\] instead of 18 counts"),
        ("score", "many", 'score of episode 1 is "many" instead of a finite number'),
        ("score", True, "score of episode 1 is true"),
        ("score", float("inf"), "score of episode 1 is Infinity"),
        ("score", float("nan"), "score of episode 1 is NaN"),
        ("score", 10**400, "score of episode 1 is 10000"),
        ("length", None, "length of episode 1 is null instead of a number of agent steps"),
        ("truncated", "x", 'truncated of episode 1 is "x" instead of true or false'),
        ("colour", 1, "episode 1 has an unknown field 'colour'"),
        ("game", "Pongg", "episode 1: unknown game 'Pongg'"),
    ],
)
def test_a_wrong_value_is_named_with_its_episode(tmp_path, field, value, message):
    path = tmp_path / "scores.json"
    rows = [GOOD["episodes"][0], {**GOOD["episodes"][0], field: value}]
    path.write_text(json.dumps({**GOOD, "episodes": rows}))
    with pytest.raises(UserError, match=message):
        score_files.read(path)


def test_missing_cut_and_foreign_files(tmp_path):
    path = tmp_path / "scores.json"
    with pytest.raises(UserError, match="No such file"):
        score_files.read(path)
    path.write_text(json.dumps(GOOD)[:40])
    with pytest.raises(UserError, match="not JSON"):
        score_files.read(path)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="not JSON"):
        score_files.read(path)
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="no scores file"):
        score_files.read(path)


@pytest.mark.parametrize("parameters", [5, {"trunk": 5}, {"trunk": -1, "heads": 0}, "many"])
def test_a_size_that_is_none_is_named(tmp_path, parameters):
    score_files.write(tmp_path / "s.json", [episode("Pong", 1)], {}, {"parameters": parameters})
    with pytest.raises(UserError, match=r"run\.parameters is .* instead of"):
        score_files.read(tmp_path / "s.json")
