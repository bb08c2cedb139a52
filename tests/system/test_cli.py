"""What every command does with mistakes and with a reader that leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cql_atari.system import cli

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=ENVIRONMENT, text=True,
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command, missing",
    [("collect", "give --data_dir and --games."), ("tools.act", "give --learner."),
     ("tools.convert", "give --data_dir and --out_dir.")],
)  # fmt: skip
def test_without_flags_a_command_says_what_it_is_for(command, missing):
    ended = run(f"cql_atari.{command}")
    assert ended.returncode == 2
    assert f"python -m cql_atari.{command} --" in ended.stderr and missing in ended.stderr
    assert "FATAL" not in ended.stderr and "Traceback" not in ended.stderr


def test_an_unknown_flag_names_the_nearest():
    ended = run("cql_atari.collect", "--data_dri=x")
    assert ended.returncode == 2
    assert "error: Unknown command line flag 'data_dri'. Did you mean: data_dir" in ended.stderr
    assert "FATAL" not in ended.stderr and "writes `DIR" not in ended.stderr


def test_help_that_is_asked_for_is_no_error():
    ended = run("cql_atari.collect", "--help")
    assert ended.returncode == 0 and "--data_dir" in ended.stdout


def test_an_address_without_a_port_is_refused_at_once():
    ended = run("cql_atari.tools.act", "--learner=localhost")
    assert ended.returncode == 2 and "--learner=localhost: give HOST:PORT" in ended.stderr


def test_an_unknown_behaviour_lists_all_there_are(tmp_path):
    ended = run("cql_atari.collect", f"--data_dir={tmp_path}", "--games=Pong", "--behaviour=best")
    assert ended.returncode == 2
    for word in ("'best'", "random", "scripted", "fixed:<ACTION>", "checkpoint:", "online"):
        assert word in ended.stderr


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_leaves_ends_a_command_without_a_traceback(tmp_path, lines):
    """With few lines the pipe breaks when they are flushed at the end, with many in a print."""
    command = tmp_path / "command.py"
    command.write_text(
        textwrap.dedent(f"""
        import sys
        from cql_atari.system import cli

        def main(argv):
            sys.stdin.read()
            for line in range({lines}):
                print("line", line)

        cli.run(main)
    """)
    )
    process = subprocess.Popen(
        [sys.executable, command], env=ENVIRONMENT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()  # before anything is written
    process.stdin.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141


@pytest.mark.parametrize(
    "mistake, told",
    [
        (PermissionError(13, "Permission denied", "/data/x"), "Permission denied: '/data/x'"),
        (OSError(28, "No space left on device"), "free some space"),
        (PermissionError(13, "Permission denied"), None),  # no path: not the user's
        (FileNotFoundError(2, "No such file", "/x"), None),
    ],
)
def test_a_path_that_is_not_allowed_or_a_full_disk_gets_no_traceback(
    mistake, told, monkeypatch, capsys
):
    def main(argv):
        raise mistake

    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setattr(cli.app, "run", lambda guarded, flags_parser: guarded(["command"]))
    if told is None:
        with pytest.raises(OSError, match=mistake.strerror):
            cli.run(main)
        return
    cli.run(main)
    assert told in capsys.readouterr().err


def test_another_broken_pipe_is_not_hidden(tmp_path):
    command = tmp_path / "command.py"
    command.write_text(
        textwrap.dedent("""
        from cql_atari.system import cli

        def main(argv):
            raise BrokenPipeError("a worker's")

        cli.run(main)
    """)
    )
    ended = subprocess.run(
        [sys.executable, command], env=ENVIRONMENT, text=True, capture_output=True, check=False
    )
    assert ended.returncode == 1 and "BrokenPipeError: a worker's" in ended.stderr
