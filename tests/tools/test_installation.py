"""Installed against wanted: a lock file written for the test, and our own."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

from cql_atari.tools import installation

NUMPY = importlib.metadata.version("numpy")


def check(tmp_path, *pins):
    (tmp_path / "lock").write_text("\n".join(["# a comment with numpy==0", *pins, ""]))
    return installation.check_packages(tmp_path / "lock")


def test_what_is_as_wanted_takes_one_line(tmp_path):
    ((state, about, text, fix),) = check(tmp_path, f"numpy=={NUMPY}", "pytest-timeout")
    assert (state, about, text, fix) == ("ok", "packages", "1 as wanted", "")


def test_another_version_says_what_it_breaks_and_what_mends_it(tmp_path):
    (finding,) = check(tmp_path, "numpy==2.0.1", f"tqdm=={importlib.metadata.version('tqdm')}")
    assert finding.state == "wrong"
    assert finding.text == (
        f"numpy is {NUMPY}, wanted 2.0.1; breaks everything; TensorFlow 2.15 refuses 2.x"
    )
    assert finding.fix == f"{sys.executable} -m pip install --no-deps numpy==2.0.1"
    (finding,) = check(tmp_path, "dopamine_rl==9")
    assert finding.state == "wrong" and "Dopamine" in finding.text


def test_packages_that_break_nothing_known_share_a_note(tmp_path):
    (finding,) = check(tmp_path, *(f"nothing-like-it{k}==1" for k in range(6)))
    assert finding.state == "note" and finding.fix.endswith(f"-r {tmp_path / 'lock'}")
    assert "nothing-like-it3 is missing, wanted 1; 2 more" in finding.text


def test_without_a_checkout_the_metadata_count(tmp_path, monkeypatch):
    requires = ["numpy==1.0", "tqdm", "ale-py==0.12.1", 'rliable==9.0; extra == "dev"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)
    findings = installation.check_packages(tmp_path / "none")
    assert [finding.text.split(",")[0] for finding in findings] == [f"numpy is {NUMPY}"]


def test_where_nothing_says_what_is_wanted_nothing_is_called_right(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: None)
    (finding,) = installation.check_packages(tmp_path / "none")
    assert finding.state == "note" and "not compared" in finding.text


def test_what_breaks_is_in_the_lock():
    names = {
        line.split("==")[0].lower().replace("_", "-")
        for line in installation.LOCK.read_text().splitlines()
    }
    assert set(installation.BREAKS) <= names


@pytest.mark.parametrize(
    "version, machine, state",
    [((3, 10), "x86_64", "ok"), ((3, 11), "x86_64", "ok"), ((3, 9), "x86_64", "wrong"),
     ((3, 12), "x86_64", "wrong"), ((3, 11), "aarch64", "wrong")],
)  # fmt: skip
def test_pythons_with_wheels(monkeypatch, version, machine, state):
    monkeypatch.setattr(sys, "version_info", (*version, 1))
    monkeypatch.setattr(installation.platform, "machine", lambda: machine)
    (finding,) = installation.check_python()
    assert finding.state == state and bool(finding.fix) == (state == "wrong")


@pytest.mark.parametrize("python, version", [((3, 10), "1.0"), ((3, 11), "2.0")])
def test_a_line_for_another_python_is_left_out(tmp_path, monkeypatch, python, version):
    monkeypatch.setattr(installation.sys, "version_info", (*python, 0))
    pins = ['numpy==2.0; python_version >= "3.11"', 'numpy==1.0; python_version < "3.11"']
    (finding,) = check(tmp_path, *pins)
    assert f"wanted {version}" in finding.text
