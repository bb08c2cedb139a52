"""An agent's own experience as data, through the real command: killed, stopped, gone on with."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import processes
import pytest
import tiny
from dopamine.replay_memory.circular_replay_buffer import OutOfGraphReplayBuffer

from cql_atari import config as config_lib
from cql_atari.core.types import UserError
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.recording import agent, spool
from cql_atari.recording.folder import Job, describe_job, is_there
from cql_atari.runs import checkpoint, recorded_config
from cql_atari.system import signals
from cql_atari.training import run

pytestmark = pytest.mark.slow

SLOTS = 200
STEPS = 800
BINDINGS = (
    *(binding for binding in tiny.BINDINGS if not binding.startswith(("data.", "feed.kind"))),
    "online.num_envs = 2",
    "feed.samples_per_insert = 8.0",
    "online.first_fill = 100",
    "online.epsilon_decay_frames = 2000",
    "online.epsilon_end = 0.5",  # else nothing moves: `verify` calls a game without motion wrong
    "train.save_every = 20",
    "train.log_every = 20",
    "train.keep = 2",
)
JOB = Job(game="Breakout", run=1, steps=STEPS, behaviour="online", epsilons=(),
          slots_per_file=SLOTS, seed=4)  # fmt: skip


def start(data_dir: Path, *more: str) -> processes.Popen:
    return processes.Popen(
        [
            sys.executable, "-m", "cql_atari.collect", f"--data_dir={data_dir}", "--games=Breakout",
            "--behaviour=online", f"--steps_per_game={STEPS}", f"--slots_per_file={SLOTS}",
            "--seed=4",
            *(f"--gin_bindings={binding}" for binding in BINDINGS), *more,
        ]
    )  # fmt: skip


def wait_for(condition, process, seconds=300.0):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def episodes_of(folder: Path) -> list[dict]:
    path = folder / "episodes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def newest(folder: Path) -> int:
    return max(checkpoint.steps(folder / "agent" / "checkpoints"), default=-1)


def test_killed_and_stopped_it_logs_each_step_that_counts_once(tmp_path):
    final, folder = tmp_path / "Breakout" / "1", tmp_path / "Breakout" / ".1.online"
    logs = folder / "replay_logs"
    process = start(tmp_path)
    wait_for(lambda: logs.is_dir() and spool.count_groups(logs) >= 1, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed_at = newest(folder)
    before = checkpoint.read_extra(folder / "agent" / "checkpoints", killed_at)
    published = episodes_of(folder)
    assert not final.exists()
    assert killed_at > 0
    assert published[-1]["slot"] < before["experience"]["slot"]

    process = start(tmp_path)
    wait_for(lambda: newest(folder) > killed_at + 20, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == signals.EXIT_INTERRUPTED, errors
    assert "the same command" in errors and "Traceback" not in errors
    assert f"({before['frames']} frames, step {killed_at}) is gone" in errors

    process = start(tmp_path)
    out, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert not folder.exists() and not (final / "spool").exists()

    # Each step of the run's last checkpoint once, in slots that go on without a gap.
    episodes = episodes_of(final)
    assert episodes[: len(published)] == published
    last = checkpoint.read_extra(final / "agent" / "checkpoints", newest(final))
    assert 4 * sum(episode["length"] for episode in episodes) == last["frames"]
    assert 4 * STEPS - 1_000 < last["frames"] <= 4 * STEPS + 2 * 4 * 200
    slot = 0
    for episode in episodes:
        assert episode["slot"] == slot
        slot += 3 + episode["length"]
    cut = [episode for episode in episodes if not episode["terminal"]]
    assert 2 <= len(cut) <= 3 * 2  # at most both games at each of the two stops, and at the end
    check_files(final, episodes, slot)
    assert f"Breakout: {len(episodes)} episodes, mean score" in out
    assert {episode["behaviour"] for episode in episodes} == {"online"}
    assert episodes[0]["epsilon"] > 0.5 == episodes[-1]["epsilon"]

    # The very same command has no work; another seed is another collection.
    config = agent.make_config(JOB, load(BINDINGS))
    assert is_there(describe_job(JOB, agent._settings(config)), final)
    assert recorded_config.read_config(final / "agent") == config
    with pytest.raises(UserError, match=r"train.seed 4 there, 5 asked"):
        agent.train_and_log(
            [JOB._replace(seed=5)], tmp_path, load(BINDINGS), run.train, lambda: True
        )


def load(bindings: list[str], *files: str) -> agent.Load:
    """What `collect` makes of its flags: --gin_files, then --gin_bindings, then the job's."""
    return lambda mine: config_lib.load([agent.GIN_FILE, *files], [*bindings, *mine])


def check_files(final: Path, episodes: list[dict], slots: int) -> None:
    """Dopamine's buffer, our reader and `verify` agree about each of the file groups."""
    logs = final / "replay_logs"
    groups = spool.count_groups(logs)
    assert groups == (slots + 1) // SLOTS + (slots % SLOTS not in (0, SLOTS - 1))
    ends, added = [], 0
    for suffix in range(groups):
        buffer = OutOfGraphReplayBuffer((84, 84), 4, SLOTS, 8)
        buffer.load(str(logs), str(suffix))
        count = int(buffer.add_count)
        assert count == min(suffix * SLOTS + SLOTS - 1, slots)
        assert buffer.invalid_range.tolist() == [(count - 1 + k) % SLOTS for k in range(5)]
        assert buffer.sample_transition_batch()[0].shape == (8, 84, 84, 4)
        ends += [k for k in range(added, count) if buffer._store["terminal"][k % SLOTS]]
        added = count
    assert ends == [episode["slot"] + 2 + episode["length"] for episode in episodes]

    read = list(DOPAMINE.read_episodes(logs, "Breakout"))
    stale = [k for k in range(SLOTS - 1, slots, SLOTS)
             if any(0 <= k - e["slot"] - 3 < e["length"] for e in episodes)]  # fmt: skip
    steps = sum(episode["length"] for episode in episodes) - len(stale)
    assert sum(len(episode.frames) for episode in read) == steps
    verified = processes.run([sys.executable, "-m", "cql_atari.tools.verify", str(final)])
    assert verified.returncode == 0, verified.stdout


@pytest.mark.parametrize(
    "binding, steps, message",
    [
        ("online.actors = 'remote'", 2000, "online.actors = 'remote'"),
        ("online.offline_share = 0.5", 2000, "online.offline_share = 0.5"),
        ("online.num_envs = 2", 50, "online.frames = 200 leaves nothing to learn with"),
        ("online.mode = 99", 2000, "Breakout has no mode 99"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    tmp_path, binding, steps, message
):
    with pytest.raises(UserError, match=message):
        agent.train_and_log(
            [JOB._replace(steps=steps)],
            tmp_path,
            load([*BINDINGS, binding]),
            run.train,
            lambda: True,
        )
    assert list(tmp_path.iterdir()) == []


def test_flags_of_the_other_behaviours_are_refused(tmp_path):
    for flags, message in (
        (("--epsilons=0.5",), "--epsilons means nothing to --behaviour=online"),
        (("--behaviour=random",), "--gin_bindings means nothing to --behaviour=random"),
        (("--gin_bindings=online.frames = 400",), "online.frames follows from --games, --steps"),
    ):
        process = start(tmp_path, *flags)
        assert message in process.communicate()[1]
        assert process.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_the_users_settings_win_over_the_file_and_the_flags_over_all():
    config = agent.make_config(
        JOB,
        load(
            ["train.seed = 9", "loss.v_max = 5.0", "online.first_fill = 100"],
            "gin_configs/networks/nature.gin",
        ),
    )
    assert config.network.encoder == "nature"
    assert (config.loss.v_max, config.train.seed) == (5.0, 4)
    assert (config.online.frames, config.data.games) == (4 * STEPS, ("Breakout",))
    default = agent.make_config(JOB._replace(steps=40_000), load([]))
    assert default.network.encoder == "resnet"
    assert default.online.sticky == 0.25
    assert default.train.steps == 40_000 - 2_000
