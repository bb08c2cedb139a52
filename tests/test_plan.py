"""The plan's arithmetic by hand, and the real command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from cql_atari import config as config_lib
from cql_atari import plan
from cql_atari.plan import Devices, Network
from cql_atari.types import UserError


def lines(config, network, **devices) -> dict[str, str]:
    settings = {"replicas": 64, "teraflops": 10.0, "price": 0.0, "feed_rate": 20_000.0} | devices
    return dict(plan.plan(config, network, Devices(**settings)))


def test_hand_numbers_of_the_paper_run():
    found = lines(config_lib.load(), Network(10**8, 10**7, 1e10), price=2.0)
    # 512 x (7 x 84 x 84 + 16) bytes; 4 x 512 x 10 GFLOP = 20.48 TFLOP over 640 TFLOP/s = 32 ms.
    assert found["batch"] == "512 transitions = 128 draws x 4; 8 a replica"
    assert found["batch in bytes"] == "25.3 MB a step, 49.4 KB a transition"
    # Network, target, two moments: 4 x 110M x 4 bytes.
    assert found["checkpoint"].startswith("1.76 GB; 3 kept, 1,000 written")
    assert "20.48 TFLOP a step" in found["compute"] and found["step"].startswith("32.0 ms on 64")
    # 512 / 0.032 s = 16,000 transitions/s = 250 a replica; 40 tables of 250,000 last 5,000 s.
    assert found["data for it"].startswith("16,000 transitions/s, 790 MB/s; 250 ")
    assert found["host cores for it"].startswith("1 at")
    assert found["replay"].startswith("10,000,000 transitions in 40 tables, about 4 GB")
    assert found["its turnover"] == "every 83 min, 2,000 transitions/s read from files"
    # 10M steps of 32 ms = 88.9 h.
    assert found["time"].startswith("88.9 h = 3.7 days, 5,689 replica-hours")
    assert found["price"].startswith("11,378 at 2 ")


def test_cloning_has_no_target_network_and_memory_no_tables():
    config = config_lib.load((), ("loss.kind = 'cloning'", "feed.kind = 'memory'"))
    found = lines(config, Network(10**8, 0, 1e10))
    assert found["checkpoint"].startswith("1.2 GB")
    assert "15.36 TFLOP" in found["compute"] and "replay" not in found


def test_replicas_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match=r"128 draws.*don't divide over 60"):
        lines(config_lib.load(), Network(1, 1, 1.0), replicas=60)


def test_a_forward_pass_is_counted():
    config = tiny.config("network.feed_forward = (16,)")
    found = plan.measure(config)
    # The first convolution alone: 11 x 11 outputs x 8 x 8 x 4 inputs x 8 filters x 2.
    first = 11 * 11 * 8 * 8 * 4 * 8 * 2
    assert first < found.forward < 20 * first
    assert found.heads == 2 * (16 + 1) * 18 * 11


def test_the_command_prints_a_plan():
    command = [sys.executable, "-m", "cql_atari.plan", "--replicas=2", "--price=1.5"]
    bindings = [f"--gin_bindings={binding}" for binding in tiny.BINDINGS]
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run([*command, *bindings], capture_output=True, text=True, cwd=root,
                            timeout=120, check=True)  # fmt: skip
    assert result.stdout.splitlines()[0].startswith("batch ")
    assert "replica-hour" in result.stdout and "WARNING" not in result.stdout + result.stderr
