"""The plan's arithmetic by hand, and the real command."""

from __future__ import annotations

import sys

import processes
import pytest
import tiny

from cql_atari import config as config_lib
from cql_atari.core.types import UserError
from cql_atari.feed.online.complete import complete
from cql_atari.methods import build
from cql_atari.tools import plan
from cql_atari.tools.plan import Devices, NetworkCost


def lines(config, network, **devices) -> dict[str, str]:
    settings = {"replicas": 64, "teraflops": 10.0, "price": 0.0, "feed_rate": 20_000.0} | devices
    return dict(plan.plan(config, network, Devices(**settings)))


def test_hand_numbers_of_the_paper_run():
    found = lines(config_lib.load(), NetworkCost(10**8, 10**7, 1e10), price=2.0)
    # 512 x (7 x 84 x 84 + 16) bytes; 4 x 512 x 10 GFLOP = 20.48 TFLOP over 640 TFLOP/s = 32 ms.
    assert found["batch"] == "512 transitions = 128 draws x 4; 8 a replica"
    assert found["batch in bytes"] == "25.3 MB a step, 49.4 KB a transition"
    # Network, target, two moments: 4 x 110M x 4 bytes.
    assert found["checkpoint"].startswith("1.76 GB; 3 kept, 1,000 written")
    assert "20.48 TFLOP a step" in found["compute"] and found["step"].startswith("32.0 ms on 64")
    # 512 / 0.032 s = 16,000 transitions/s = 250 a replica; 40 tables of 250,000 last 5,000 s.
    assert found["data for it"].startswith("16,000 transitions/s, 790 MB/s; 250 ")
    assert found["host cores for it"].startswith("1 at")
    # 0.8 of a core, of 48 on a feed host, for 8 hosts of 8 replicas: 0.8 / 48 / 8.
    assert found["feed hosts"].startswith("1 of 48 cores")
    assert "; 0.0021 a trainer's host of 8 replicas (both assumed)" in found["feed hosts"]
    assert found["replay"].startswith("10,000,000 transitions in 40 windows, about 4 GB")
    assert found["reading"] == "4 suffixes a game at once, about 2.24 GB"
    assert found["its turnover"] == "every 83 min, 2,000 transitions/s read from files"
    # 10M steps of 32 ms = 88.9 h.
    assert found["time"].startswith("88.9 h = 3.7 days, 5,689 replica-hours")
    assert found["price"] == "5,689 replica-hours x --price, given as 2: 11,378"
    # 1.76 GB at 1.57 GB in 2.6 s = 2.91 s, 1,000 times; in 1.0 s: 1.12 s.
    assert found["its time"].startswith(
        "2.9 s to save, 1.1 s to restore, at 604 MB/s and 1.57 GB/s"
    )
    assert found["its time"].endswith("0.8 h in all")


def test_without_a_price_it_says_what_it_is_multiplied_with():
    found = lines(config_lib.load(), NetworkCost(10**8, 10**7, 1e10))
    assert found["price"] == "5,689 replica-hours x --price, what one costs: not given"


def test_feed_hosts_by_hand():
    # 16,000 transitions/s at 100 a core: 160 cores, 4 hosts of 40 for 8 hosts of 8 replicas.
    network = NetworkCost(10**8, 10**7, 1e10)
    found = lines(config_lib.load(), network, feed_rate=100.0, feed_host_cores=40)
    assert found["host cores for it"].startswith("160 at 100 ")
    assert found["feed hosts"].startswith("4 of 40 cores")
    assert "; 0.5 a trainer's host" in found["feed hosts"]


READING = {"host cores for it", "feed hosts", "replay", "reading", "its turnover"}


def test_the_online_phase_acts_and_reads_no_files():
    config = online("gin_configs/finetune.gin")
    found = lines(config, NetworkCost(10**6, 10**5, 1e9), replicas=1)
    assert not READING & found.keys()
    # 4 x 32 x 1 GFLOP at 10 TFLOP/s = 12.8 ms: 2,500 transitions/s, an eighth of which is new.
    assert found["acting for it"].startswith("312 agent steps/s, each drawn 8 times")
    assert found["experience"].startswith(
        "3,000,000 frames = 750,000 agent steps, the first 20,000"
    )
    # (750,000 - 20,000) transitions, one step for 4 of them; saved every 5,000.
    assert found["run"].startswith("182,500 steps, 5.84e+06")
    assert "37 written" in found["checkpoint"]
    with pytest.raises(UserError, match=r"--replicas=2 .*one device; leave --replicas out"):
        lines(config, NetworkCost(1, 1, 1.0), replicas=2)


def test_recorded_play_that_is_mixed_in_is_read():
    config = online("gin_configs/finetune.gin", "online.offline_share = 0.25")
    found = lines(config, NetworkCost(10**6, 10**5, 1e9), replicas=1)
    assert found.keys() >= READING
    # A quarter of 2,500 transitions/s, each drawn 8 times.
    assert found["its turnover"].endswith(", 78 transitions/s read from files")


def online(file, *bindings):
    return complete(config_lib.load((file,), bindings))


@pytest.mark.parametrize(
    "file, bindings, most",
    [
        ("multigame", (), 64),
        ("transfer", (), 8),
        ("quickstart", (), 8),
        ("multigame", ("feed.draws = 96",), 48),
        ("multigame", ("feed.draws = 67",), 1),
        ("finetune", ("feed.draws = 4",), 1),
    ],
)
def test_without_replicas_given_the_most_that_divide_are_taken(file, bindings, most):
    assert plan.most_replicas(config_lib.load((f"gin_configs/{file}.gin",), bindings)) == most


def test_cloning_has_no_target_network_and_memory_no_tables():
    config = config_lib.load((), ("train.method = 'cloning'", "feed.kind = 'memory'"))
    found = lines(config, NetworkCost(10**8, 0, 1e10))
    assert found["checkpoint"].startswith("1.2 GB")
    assert "15.36 TFLOP" in found["compute"] and "replay" not in found


def test_double_q_takes_a_forward_pass_more_where_it_is_read():
    for method, operations in (("scaled_q", "25.60 TFLOP"), ("cloning", "15.36 TFLOP")):
        config = config_lib.load((), ("loss.double_q = True", f"train.method = '{method}'"))
        assert operations in lines(config, NetworkCost(10**8, 0, 1e10))["compute"]


def test_replicas_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match=r"128 draws.*don't divide over 60"):
        lines(config_lib.load(), NetworkCost(1, 1, 1.0), replicas=60)


def test_a_forward_pass_is_counted_of_a_network_that_is_built_once(monkeypatch):
    config, built = tiny.config("network.feed_forward = (16,)"), []
    real = build.build
    monkeypatch.setattr(build, "build", lambda config: built.append(config) or real(config))
    found = plan.measure_network(config)
    assert built == [config]
    # The first convolution alone: 11 x 11 outputs x 8 x 8 x 4 inputs x 8 filters x 2.
    first = 11 * 11 * 8 * 8 * 4 * 8 * 2
    assert first < found.forward < 20 * first
    assert found.heads == 2 * (16 + 1) * 18 * 11


def command(*flags) -> list[str]:
    result = processes.run([sys.executable, "-m", "cql_atari.tools.plan", *flags])
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stdout + result.stderr
    return result.stdout.splitlines()


@pytest.mark.slow
def test_the_command_prints_a_plan():
    bindings = [f"--gin_bindings={binding}" for binding in tiny.BINDINGS]
    printed = command("--replicas=2", "--price=1.5", "--feed_host_cores=3", *bindings)
    assert printed[0].startswith("batch ")
    assert printed[-1].startswith("price ") and "given as 1.5: " in printed[-1]
    assert any(line.startswith("feed hosts ") and " of 3 cores" in line for line in printed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, batch, run",
    [
        ("transfer", "256 transitions = 8 draws x 32; 32 a replica", "100,000 steps"),
        ("finetune", "32 transitions = 1 draws x 32; 32 a replica", "182,500 steps"),
    ],
)
def test_the_command_plans_the_other_phases_without_a_flag(file, batch, run):
    nature = "--gin_files=gin_configs/ablations/nature.gin"
    printed = command(f"--gin_files=gin_configs/{file}.gin", nature)
    assert printed[0].split(maxsplit=1)[1] == batch
    assert any(line.startswith("run ") and run in line for line in printed)
    assert printed[-1].startswith("price ")
