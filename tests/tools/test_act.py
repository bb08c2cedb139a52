"""Actors in other processes: they come, are killed, are refused, and end when the learner does."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys

import processes
import pytest
import test_online
import tiny

from cql_atari.core.types import UserError
from cql_atari.feed.online import exchange
from cql_atari.tools import act

pytestmark = pytest.mark.slow


def start_actor(address, *flags) -> processes.Popen:
    command = [sys.executable, "-m", "cql_atari.tools.act", f"--learner={address}", *flags]
    return processes.Popen(command)


def test_one_is_killed_another_goes_on_and_ends_with_the_learner(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    with open(log, "w") as file:
        learner = processes.Popen(
            test_online.command(folder, "online.actors = 'remote'", "online.frames = 1600"),
            stdout=file, stderr=file,
        )  # fmt: skip
    test_online.wait_for(lambda: "--learner=" in log.read_text(), learner)
    port = re.search(r"--learner=\S+:(\d+)", log.read_text()).group(1)
    address = f"localhost:{port}"
    actors = [start_actor(address), start_actor(address)]
    metrics = folder / "metrics.jsonl"
    test_online.wait_for(lambda: metrics.exists() and len(metrics.read_text()) > 100, learner)
    actors[0].send_signal(signal.SIGKILL)
    actors[0].communicate()
    assert learner.wait(timeout=400) == 0, log.read_text()
    _, errors = actors[1].communicate(timeout=60)
    assert actors[1].returncode == 0, errors
    assert f"the learner at localhost:{port} has finished" in errors
    assert "Traceback" not in errors
    last = json.loads(metrics.read_text().splitlines()[-1])
    assert last["step"] == 300
    assert last["online/frames"] == pytest.approx(1600, abs=4 * 60)


def test_a_learner_whose_port_is_taken_says_so(tmp_path):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        ended = processes.run(
            test_online.command(tmp_path, "online.actors = 'remote'", f"online.port = {port}")
        )
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert f"error: can't listen on port {port}: " in ended.stderr
    assert "online.port" in ended.stderr


def test_another_configuration_is_refused_with_the_difference():
    ours = tiny.config("online.sticky = 0.1")
    act.compare(ours, ours, "host:1")
    with pytest.raises(UserError) as refusal:
        act.compare(tiny.config(), ours, "host:1")
    assert "-online.sticky = 0.25\n+online.sticky = 0.1\n" in str(refusal.value)


def test_the_learner_does_not_say_which_folder_is_opened_here():
    theirs = tiny.config("evaluation.rom_dir = '/etc'")
    assert act.with_own_roms(theirs, None).evaluation.rom_dir is None
    ours = act.with_own_roms(theirs, "/roms")
    assert ours == tiny.config("evaluation.rom_dir = '/roms'")


def test_this_host_has_limits_of_its_own(monkeypatch):
    act.check_limits(tiny.config("online.num_envs = 256"), "host:1")
    with pytest.raises(UserError, match=r"host:1 asks for online.num_envs = 257 copies.* 256"):
        act.check_limits(tiny.config("online.num_envs = 257"), "host:1")
    monkeypatch.setattr(act, "free_bytes", lambda: 1_000_000)
    with pytest.raises(UserError, match=r"network of up to [\d.]+ GB, .* 0.001 GB free"):
        act.check_limits(tiny.config(), "host:1")


def test_no_learner_there_is_said_within_the_stated_time(monkeypatch):
    monkeypatch.setattr(exchange, "ANSWER_SECONDS", 1)
    with pytest.raises(UserError, match=r"no learner answers at localhost:9 .waited up to 1 s"):
        exchange.ActorEnd("localhost:9").config()
