"""`system.json`: what each start of a run records, and what a damaged one costs."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from cql_atari.runs import provenance


def test_each_start_is_added(tmp_path):
    before = time.time()
    provenance.record(tmp_path, [])
    provenance.record(tmp_path, ["A100"], hosts=2)
    first, second = json.loads((tmp_path / "system.json").read_text())["starts"]
    assert before - 1 <= first["time"] <= second["time"]
    assert first["hardware"]["cores"] >= 1 and first["hardware"]["devices"] == []
    assert (second["hardware"]["devices"], second["hardware"]["hosts"]) == (["A100"], 2)
    assert {"python", "tensorflow", "dm-reverb"} <= set(first["versions"])


@pytest.mark.parametrize("text", ["", "[]", '{"starts": 3}', "{"])
def test_a_damaged_file_is_begun_anew(tmp_path, text):
    (tmp_path / "system.json").write_text(text)
    provenance.record(tmp_path, [])
    assert len(json.loads((tmp_path / "system.json").read_text())["starts"]) == 1


def test_the_commit_is_that_of_the_checkout_and_of_no_other(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "a").write_text("1")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    ended = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert provenance._commit(tmp_path) == (ended.stdout.strip(), False)
    (tmp_path / "a").write_text("2")
    assert provenance._commit(tmp_path)[1] is True
    (tmp_path / "installed").mkdir()
    assert provenance._commit(tmp_path / "installed") == (None, None)
