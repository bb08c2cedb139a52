"""Files that appear whole or not at all, and locks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from cql_atari.core.types import UserError
from cql_atari.system import files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_whole(path, "old")
    files.write_whole(path, b"new")
    assert path.read_text() == "new"

    def fail(*_):
        raise OSError("no space")

    for name in ("sync", "move"):
        with monkeypatch.context() as patch:
            patch.setattr(files, name, fail)
            with pytest.raises(OSError, match="no space"):
                files.write_whole(path, "newer")
        assert path.read_text() == "new"
        assert list(tmp_path.iterdir()) == [path]


def test_hosts_whose_processes_have_one_number_write_apart(tmp_path, monkeypatch):
    partials = []
    real_sync = files.sync
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(files, "sync", lambda p: (partials.append(p.name), real_sync(p)))
    for host in ("a", "b"):
        monkeypatch.setattr(files.socket, "gethostname", lambda host=host: host)
        files.write_whole(tmp_path / "file", host)
    assert len({name for name in partials if name.endswith(".partial")}) == 2


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    calls = []
    real_sync, real_replace = files.sync, os.replace
    monkeypatch.setattr(files, "sync", lambda p: (calls.append(("sync", p)), real_sync(p)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(("name", b)), real_replace(a, b)))
    files.write_whole(tmp_path / "file", "text")
    (_, partial), *rest = calls
    assert partial.name.endswith(".partial") and partial.parent == tmp_path
    assert rest == [("name", tmp_path / "file"), ("sync", tmp_path)]


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"a": ' * 100_000, b"\xff", "9" * 5_000, "[1] 2"]
)
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        files.parse_json(text)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with pytest.raises(UserError, match=rf"{tmp_path}/x can't be locked \({os.strerror(number)}"):
        files.take_lock(tmp_path / "x")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_is_one_processs_and_ends_with_it(tmp_path, kind):
    path = tmp_path / "held"
    if kind == "folder":
        path.mkdir()
    program = (
        "import sys; from pathlib import Path; from cql_atari.system import files\n"
        "lock = files.take_lock(Path(sys.argv[1])); print(lock is not None, flush=True)\n"
        "sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "True\n"
    with pytest.raises(UserError, match="theirs"), files.locked(path, "theirs"):
        pass
    process.kill()
    process.communicate()
    with files.locked(path, "theirs"):
        assert files.take_lock(path) is None
    os.close(files.take_lock(path))
