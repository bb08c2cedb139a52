"""Launchers, for real and with --dry_run; stand-ins on the PATH record what they are asked.

A stand-in answers as the test scripts it: the first line of the script whose text occurs in the
command is taken out, and says what to print, how long to take and how to end. One that is killed
takes a moment, and then notes it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cql_atari import config as config_lib
from cql_atari.core import settings
from cql_atari.recording import mixture

ROOT = Path(__file__).parents[1]
LAUNCHERS = sorted(
    path for path in (ROOT / "launchers").iterdir() if not path.name.endswith("common.sh")
)
TRAIN = ["python", "-m", "cql_atari.train"]
FLAGS = ["--gin_bindings=data.dir='/d q'", "--gin_files=x.gin"]
STAND_IN = f"""#!{sys.executable} -IS
import fcntl, json, os, signal, sys, time
command = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
def end(*_):
    time.sleep(0.5)
    open(os.environ["TAPE"] + ".killed", "a").write("killed\\n")
    os._exit(255)
signal.signal(signal.SIGTERM, end)
with open(os.environ["TAPE"], "a") as tape:
    fcntl.flock(tape, fcntl.LOCK_EX)
    tape.write(json.dumps(command) + "\\n")
    tape.flush()
    script = json.load(open(os.environ["SCRIPT"]))
    for line in script:
        if line[0] in " ".join(command):
            script.remove(line)
            json.dump(script, open(os.environ["SCRIPT"], "w"))
            break
    else:
        line = ("", "", 0, 0)
print(line[1], flush=True)
time.sleep(line[2])
sys.exit(line[3])
"""


class Stage:
    """A PATH with stand-ins, what they were asked, and how many of them were killed."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir()
        for name in ("python", "gcloud", "gsutil", "git", "sbatch", "scontrol", "srun", "ssh"):
            (folder / "bin" / name).write_text(STAND_IN)
            (folder / "bin" / name).chmod(0o755)

    def begin(self, launcher, *arguments, script=(), cwd=ROOT, **environment):
        """Starts a launcher, as a process group of its own."""
        (self.folder / "tape").write_text("")
        (self.folder / "tape.killed").write_text("")
        lines = [(*line, *("", 0, 0)[len(line) - 1 :]) for line in script]
        (self.folder / "script").write_text(json.dumps(lines))
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        environment = {"PYTHON": "python", **environment}
        files = {name.upper(): str(self.folder / name) for name in ("tape", "script")}
        return subprocess.Popen(
            [ROOT / "launchers" / launcher, *map(str, arguments)],
            env={"PATH": path, **files, **environment}, cwd=cwd, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments, **options):
        """Runs a launcher; returns how it ended. Afterwards `tape` is what the stand-ins saw."""
        process = self.begin(*arguments, **options)
        try:
            output = process.communicate(timeout=60)
        finally:
            process.kill()
        self.unplayed = json.loads((self.folder / "script").read_text())
        return subprocess.CompletedProcess(process.args, process.returncode, *output)

    @property
    def tape(self):
        return [json.loads(line) for line in (self.folder / "tape").read_text().splitlines()]

    @property
    def killed(self):
        return len((self.folder / "tape.killed").read_text().splitlines())


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


WITHOUT_FLAGS = ("get_data.sh", "quickstart.sh", "evidence.sh")


def arguments_of(name: str, folder: Path) -> list[str]:
    first = {
        "multi_worker.sh": ["one,two"],
        "tpu_vm.sh": ["cql", "us-central1-a"],
        "tpu_pod.sh": ["cql", "us-central1-a"],
        "offline.sh": ["/d q", str(folder / "out")],
        "ablations.sh": ["/data", str(folder / "out")],
        "finetune.sh": ["runs/first", str(folder / "out")],
        "transfer.sh": ["runs/first", "/data", str(folder / "out")],
        "sweep.sh": [str(folder / "out"), "loss.kind='c51'|'mse'", "train.seed=0|1", "--"],
        "get_data.sh": ["gsutil", str(folder / "out"), "Pong_run_1", "Qbert_run_2"],
        "quickstart.sh": [str(folder / "out")],
        "evidence.sh": ["A", str(folder / "out")],
    }
    return first.get(name, []) + ([] if name in WITHOUT_FLAGS else FLAGS)


COMPLETE = [path.name for path in LAUNCHERS]


@pytest.mark.parametrize("name", COMPLETE)
def test_without_arguments_a_launcher_says_what_it_is_for(stage, name):
    cases = [((), 2), (("--dry_run",), 2), (("--help",), 0)]
    for arguments, code in cases[2:] if name == "quickstart.sh" else cases:
        ended = stage.run(name, *arguments)
        assert (ended.returncode, ended.stdout, stage.tape) == (code, "", [])
        assert f"launchers/{name} [--dry_run] " in ended.stderr or name == "slurm.sbatch"
        assert "Usage: " in ended.stderr and "set -euo" not in ended.stderr


@pytest.mark.parametrize("name", COMPLETE)
def test_a_dry_run_prints_the_very_commands_and_does_nothing(stage, tmp_path, name):
    few = {"SEEDS": "1", "PERCENTS": "0 25"} if name == "evidence.sh" else {}
    ended = stage.run(name, "--dry_run", *arguments_of(name, tmp_path), **few)
    assert ended.returncode == 0 and stage.tape == [] and ended.stderr == ""
    assert not (tmp_path / "out").exists()
    printed = [shlex.split(line) for line in ended.stdout.splitlines()]
    assert printed

    states = [("describe", state) for state in ("", "ACTIVE")]
    ended = stage.run(name, *arguments_of(name, tmp_path), script=states, WAIT="0", **few)
    assert ended.returncode == 0, ended.stderr
    done = [command for command in stage.tape if "describe" not in command]
    assert sorted(done) == sorted(c for c in printed if c[0] != "mkdir")
    announced = [line[2:] for line in ended.stderr.splitlines() if line.startswith("+ ")]
    assert [shlex.split(line) for line in announced] == printed


@pytest.mark.parametrize("name", [n for n in COMPLETE if n not in ("offline.sh", *WITHOUT_FLAGS)])
def test_flags_are_passed_on_to_train_as_they_are(stage, tmp_path, name):
    stage.run(name, *arguments_of(name, tmp_path), script=[("describe", "ACTIVE")])
    (command, *_) = [c for c in stage.tape if "cql_atari.train" in " ".join(c)]
    words = (
        shlex.split(command[-1].removeprefix("--command=")) if name[:3] in ("mul", "tpu") else []
    )
    words = words if "cql_atari.train" in words else command
    assert [word for word in words if word in FLAGS] == FLAGS


def test_one_process_with_all_gpus(stage):
    stage.run("local.sh", *FLAGS)
    assert stage.tape == [[*TRAIN, *FLAGS]]
    stage.run("multi_gpu.sh", *FLAGS)
    assert stage.tape == [[*TRAIN, "--gin_bindings=train.strategy='mirrored'", *FLAGS]]
    assert stage.run("local.sh", "--x", script=[("train", "", 0, 75)]).returncode == 75


def test_the_real_python_is_asked(stage):
    ended = stage.run("local.sh", "--gin_files=multigam.gin", PYTHON=sys.executable)
    assert ended.returncode == 2
    assert "did you mean 'gin_configs/multigame.gin'" in ended.stderr


def test_without_PYTHON_the_repositorys_own_environment_is_used_from_any_folder(stage, tmp_path):
    repository = tmp_path / "re po"
    shutil.copytree(ROOT / "launchers", repository / "launchers")
    own = repository / ".venv" / "bin" / "python"
    for wanted in ("python", str(own)):
        if wanted != "python":
            own.parent.mkdir(parents=True)
            own.symlink_to(tmp_path / "bin" / "python")
        ended = stage.run(repository / "launchers" / "local.sh", "--x", cwd=tmp_path, PYTHON="")
        assert ended.returncode == 0
        assert shlex.split(ended.stderr.removeprefix("+ "))[0] == wanted


def test_make_with_a_wrong_python_leaves_the_environment(tmp_path):
    for name in ("Makefile", "requirements.lock", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "kept").write_text("")
    (tmp_path / "python3.12").write_text("#!/bin/sh\nexit 1\n")  # as it answers to the question
    (tmp_path / "python3.12").chmod(0o755)
    ended = subprocess.run(
        ["make", "environment", "PYTHON=./python3.12"], cwd=tmp_path, text=True,
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode != 0
    assert "error: PYTHON=./python3.12 isn't Python 3.10 or 3.11" in ended.stderr
    assert (tmp_path / ".venv" / "kept").exists()


# Several hosts.


def test_each_host_gets_the_cluster_and_its_place_in_it(stage):
    stage.run("multi_worker.sh", "ann,bob,cat", *FLAGS, PORT="99")
    configs = {}
    for ssh, tty, host, command in stage.tape:
        assert (ssh, tty) == ("ssh", "-tt")
        cd, folder, _, _, _, setting, *train = shlex.split(command)
        assert (cd, folder) == ("cd", str(ROOT))
        assert train == [*TRAIN, "--gin_bindings=train.strategy='multi_worker'", *FLAGS]
        configs[host] = json.loads(setting.removeprefix("TF_CONFIG="))
    assert {host: config["task"] for host, config in configs.items()} == {
        host: {"type": "worker", "index": index} for index, host in enumerate(("ann", "bob", "cat"))
    }
    assert all(
        config["cluster"] == {"worker": ["ann:99", "bob:99", "cat:99"]}
        for config in configs.values()
    )


def test_workers_that_end_early_do_not_end_those_that_go_on(stage):
    hosts = [f"host{index:02}" for index in range(12)]
    ended = stage.run(
        "multi_worker.sh", ",".join(hosts), *FLAGS, script=[("ssh -tt host11", "", 1)]
    )
    assert (ended.returncode, len(stage.tape), stage.killed) == (0, 12, 0)


@pytest.mark.slow
def test_when_one_worker_fails_the_others_are_ended(stage):
    script = [("two", "", 5, 3), ("one", "", 50, 0), ("six", "", 0, 0)]  # all have begun by then
    start = time.monotonic()
    assert stage.run("multi_worker.sh", "one,two,six", *FLAGS, script=script).returncode == 3
    assert time.monotonic() - start < 30 and (len(stage.tape), stage.killed) == (3, 1)


@pytest.mark.slow
def test_when_one_worker_was_asked_to_stop_the_others_get_time_to_save(stage):
    script = [("two", "", 0, 75), ("one", "", 2, 75), ("six", "", 1, 75)]
    start = time.monotonic()
    assert stage.run("multi_worker.sh", "one,two,six", *FLAGS, script=script).returncode == 75
    assert stage.killed == 0 and time.monotonic() - start < 30  # and not the whole minute
    script = [("two", "", 0, 75), ("one", "", 50, 75), ("six", "", 0, 75)]
    ended = stage.run("multi_worker.sh", "one,two,six", *FLAGS, script=script, WAIT="2")
    assert ended.returncode == 75 and stage.killed == 1  # not for ever


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_launcher_that_is_stopped_ends_its_workers_and_waits_for_them(stage, name, code):
    script = [("one", "", 50, 0), ("two", "", 50, 0)]
    # Children of a shell that ignores SIGINT (as CI's may) would ignore it, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = stage.begin("multi_worker.sh", "one,two", *FLAGS, script=script)
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 30
    while len(stage.tape) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    # As Ctrl-C does, it goes to all; the workers, in the background, take no notice of it.
    (os.killpg if name == "SIGINT" else os.kill)(process.pid, signal.Signals[name])
    assert process.wait(30) == code
    assert stage.killed == 2
    process.communicate()


def test_a_slurm_allocation_starts_one_process_a_node(stage):
    stage.run("multi_worker.sh", "slurm", *FLAGS)
    srun = ["srun", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    train = [*TRAIN, "--gin_bindings=train.strategy='multi_worker'", *FLAGS]
    assert stage.tape == [[*srun, *train]]
    stage.run("multi_worker.sh", "slurm", *FLAGS, SLURM_CPUS_PER_TASK="4")
    assert stage.tape == [[*srun[:2], "--cpus-per-task=4", srun[2], *train]]


@pytest.mark.parametrize(
    "environment, strategy",
    [
        ({}, "none"),
        ({"SLURM_GPUS_ON_NODE": "4"}, "mirrored"),
        ({"SLURM_GPUS_ON_NODE": "4", "SLURM_NNODES": "2"}, "multi_worker"),
    ],
)
def test_a_slurm_job_takes_what_it_was_given(stage, environment, strategy):
    assert stage.run("slurm.sbatch", *FLAGS, **environment).returncode == 0
    wanted = [*TRAIN, f"--gin_bindings=train.strategy='{strategy}'", *FLAGS]
    assert stage.tape == [["srun", "--kill-on-bad-exit=1", *wanted]]
    stage.run("slurm.sbatch", *FLAGS, SLURM_CPUS_PER_TASK="16", **environment)
    assert stage.tape == [["srun", "--cpus-per-task=16", "--kill-on-bad-exit=1", *wanted]]


def test_a_slurm_job_that_was_asked_to_stop_queues_itself_again(stage):
    ended = stage.run("slurm.sbatch", *FLAGS, script=[("srun", "", 0, 75)], SLURM_JOB_ID="12")
    assert ended.returncode == 75 and stage.tape[1:] == [["scontrol", "requeue", "12"]]
    ended = stage.run("slurm.sbatch", *FLAGS, script=[("srun", "", 0, 1)], SLURM_JOB_ID="12")
    assert ended.returncode == 1 and len(stage.tape) == 1


# TPUs.


def verbs(tape: list[list[str]]) -> list[str]:
    """A word a command, without questions about the state."""
    words = []
    for command in tape:
        text = " ".join(command)
        if "cql_atari.train" in text:
            words.append("train")
        elif "pip install" in text:
            words.append("install")
        elif "describe" not in text:
            words.append(command[1] if command[0] == "git" else command[4])
    return words


TRAINING = ["archive", "scp", "install", "train"]


@pytest.mark.parametrize("name", ["tpu_vm.sh", "tpu_pod.sh"])
def test_a_tpu_that_is_taken_away_is_deleted_and_made_again(stage, name):
    states = ["", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    states += ["SUSPENDING", "SUSPENDING", "SUSPENDED", "", "ACTIVE"]
    script = [*(("describe", state) for state in states), ("cql_atari.train", "", 0, 255)]
    ended = stage.run(name, "cql", "zone-b", *FLAGS, script=script, WAIT="0", SPOT="1", TYPE="v4-8")
    assert ended.returncode == 0 and stage.unplayed == []
    assert verbs(stage.tape) == ["create", *TRAINING, "delete", "create", *TRAINING]
    (create, *_) = [command for command in stage.tape if "create" in command]
    image = {"tpu_vm.sh": "tpu-vm-tf-2.15.1-pjrt", "tpu_pod.sh": "tpu-vm-tf-2.15.1-pod-pjrt"}[name]
    assert create[1:] == [
        "compute", "tpus", "queued-resources", "create", "cql", "--zone=zone-b", "--node-id=cql",
        "--accelerator-type=v4-8", f"--runtime-version={image}", "--spot",
    ]  # fmt: skip
    assert "cql is PROVISIONING" in ended.stderr and "taken away" in ended.stderr


def test_a_tpu_that_is_there_is_used_again_and_an_error_of_the_training_ends_it(stage):
    script = [("describe", "ACTIVE"), ("describe", "ACTIVE"), ("cql_atari.train", "", 0, 2)]
    assert stage.run("tpu_vm.sh", "cql", "z", *FLAGS, script=script).returncode == 2
    assert verbs(stage.tape) == TRAINING
    script = [("describe", "ACTIVE"), ("describe", "ACTIVE"), ("pip install", "", 0, 1)]
    assert stage.run("tpu_vm.sh", "cql", "z", *FLAGS, script=script).returncode == 1
    assert verbs(stage.tape) == TRAINING[:-1]


def test_capacity_that_cannot_be_asked_for_ends_it(stage):
    assert stage.run("tpu_vm.sh", "cql", "z", "--x", script=[("create", "", 0, 1)]).returncode == 1
    assert verbs(stage.tape) == ["create"]


def test_a_request_that_failed_is_shown_and_not_made_again(stage):
    states = [("describe", ""), ("describe", "FAILED"), ("yaml(state)", "no such type")]
    ended = stage.run("tpu_vm.sh", "cql", "z", *FLAGS, script=states, WAIT="0")
    assert ended.returncode == 2 and verbs(stage.tape) == ["create"] and stage.unplayed == []
    assert "no such type" in ended.stderr and "error: cql is FAILED" in ended.stderr
    assert "queued-resources delete cql --zone=z --force" in ended.stderr


def test_a_pod_is_installed_on_all_workers_and_trains_from_the_first(stage):
    for name, tpu, variables in (
        ("tpu_pod.sh", "cql", ["TPU_NAME=cql", "TPU_LOAD_LIBRARY=0"]),
        ("tpu_vm.sh", "local", ["NEXT_PLUGGABLE_DEVICE_USE_C_API=true",
                                "TF_PLUGGABLE_DEVICE_LIBRARY_PATH=/lib/libtpu.so"]),
    ):  # fmt: skip
        stage.run(name, "cql", "z", *FLAGS, script=[("describe", "ACTIVE")])
        _, scp, install, train = [c for c in stage.tape if "describe" not in c]
        assert "--worker=all" in scp and "--worker=all" in install and "--worker=0" in train
        assert shlex.split(train[-1].removeprefix("--command=")) == [
            "cd", "cql_atari", "&&", "env", *variables, "python3", "-m", "cql_atari.train",
            f"--tpu={tpu}", "--gin_bindings=train.strategy='tpu'",
            "--gin_bindings=evaluation.every=0", *FLAGS,
        ]  # fmt: skip


# Several runs, and the paper's phase.

GRID = ["loss.kind='c51'|'mse'", "data.runs=(1, 2)", "train.seed=0|1"]
POINTS = [
    [f"--gin_bindings=loss.kind='{kind}'", "--gin_bindings=data.runs=(1, 2)",
     f"--gin_bindings=train.seed={seed}", f"loss.kind=_{kind}_,data.runs=_1,_2_,train.seed={seed}"]
    for kind in ("c51", "mse") for seed in (0, 1)
]  # fmt: skip


def test_a_sweep_trains_every_point_of_the_grid_in_its_own_folder(stage, tmp_path):
    out = tmp_path / "out"
    script = [("seed=1", "", 0, 1)]
    ended = stage.run("sweep.sh", out, *GRID, "--", *FLAGS, script=script)
    assert ended.returncode == 1  # the others were trained nevertheless
    assert stage.tape == [
        [*TRAIN, *FLAGS, *bindings, f"--workdir={out}/{folder}"] for *bindings, folder in POINTS
    ]
    script = [("seed=1", "", 0, 75)]
    assert stage.run("sweep.sh", out, *GRID, "--", *FLAGS, script=script).returncode == 75
    assert len(stage.tape) == 2


def test_a_sweep_as_a_slurm_array(stage, tmp_path):
    """What the array's tasks run is what the sweep would run here."""
    out = tmp_path / "a, b"
    printed = stage.run("sweep.sh", "--dry_run", "--slurm", out, *GRID, "--", *FLAGS).stdout
    assert stage.tape == [] and not out.exists()
    assert stage.run("sweep.sh", "--slurm", out, *GRID, "--", *FLAGS).returncode == 0
    wanted = ["sbatch", "--array=0-3", "--export=ALL", "launchers/slurm.sbatch", *FLAGS]
    assert stage.tape == [wanted]
    env, points, *command = shlex.split(printed)
    assert (env, command) == ("env", wanted)
    for task, (*bindings, name) in enumerate(POINTS):
        folder = points.removeprefix("POINTS=")
        stage.run("slurm.sbatch", *FLAGS, POINTS=folder, SLURM_ARRAY_TASK_ID=str(task))
        wanted = [*FLAGS, *bindings, f"--workdir={out}/{name}"]
        assert stage.tape[0][-len(wanted) :] == wanted


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["out", "train.seed=0|1"], 2, "give -- before"),
        (["--slurm"], 2, "give OUT"),
        (["out", "train.seed=0|1", "loss.kind=", "--", "--x"], 2, "loss.kind=: give NAME=VALUE"),
        (["out", "train.seed", "--", "--x"], 2, "train.seed: give NAME=VALUE"),
        (["out", "--", "--x"], 2, "give a grid"),
    ],
)
def test_a_grid_that_is_not_whole(stage, arguments, code, message):
    ended = stage.run("sweep.sh", *arguments)
    assert ended.returncode == code and message in ended.stderr and stage.tape == []


def test_an_array_is_submitted_from_the_root_or_not_at_all(stage, tmp_path):
    ended = stage.run("sweep.sh", "--slurm", "out", "train.seed=0|1", "--", "--x", cwd=tmp_path)
    assert ended.returncode == 2 and "repository's root" in ended.stderr
    assert stage.tape == [] and not (tmp_path / "out").exists()


def test_offline_trains_and_compares_under_one_protocol(stage, tmp_path):
    stage.run("offline.sh", "/data", tmp_path, "--accept_config_change", *FLAGS)
    gin = ["--gin_files=gin_configs/multigame.gin", "--gin_bindings=data.dir='/data'", *FLAGS]
    train, *policies, report = stage.tape
    assert train == [*TRAIN, *gin, "--accept_config_change", f"--workdir={tmp_path}/agent"]
    assert policies == [
        ["python", "-m", "cql_atari.evaluate", f"--policy={p}", *gin, f"--out={tmp_path}/{p}"]
        for p in ("random", "best_fixed")
    ]
    assert report == ["python", "-m", "cql_atari.report", str(tmp_path)]

    (tmp_path / "random").mkdir()
    (tmp_path / "random" / "scores.json").write_text("{}")
    stage.run("offline.sh", "/data", tmp_path)
    assert len(stage.tape) == 3
    stage.run("offline.sh", "/data", tmp_path, script=[("train", "", 0, 75)])
    assert len(stage.tape) == 1


def test_ablations_train_every_file_and_the_base_with_every_seed(stage, tmp_path):
    gin = ["--gin_files=gin_configs/multigame.gin", "--gin_bindings=data.dir='/data'", *FLAGS]
    out = tmp_path / "out"
    # One that fails doesn't keep the others from being trained, nor the page from being made.
    ended = stage.run("ablations.sh", "/data", out, *FLAGS, SEEDS="3 4", script=[("mse", "", 0, 1)])
    assert ended.returncode == 1
    *trained, report = stage.tape
    files = sorted((ROOT / "gin_configs" / "ablations").glob("*.gin"))
    seed_of = "--gin_bindings=train.seed={}"
    assert trained == [
        [*TRAIN, *gin, *extra, seed_of.format(seed), f"--workdir={out}/{name}/{seed}"]
        for seed in (3, 4)
        for name, extra in [("base", []), *((path.stem, [f"--gin_files={path.relative_to(ROOT)}"])
                                            for path in files)]
    ]  # fmt: skip
    page = f"--output={out}/report.html"
    assert report == ["python", "-m", "cql_atari.report", str(out), page]


def test_ablations_that_are_stopped_stop_and_some_can_be_chosen(stage, tmp_path):
    (tmp_path / "data/Pong/1").mkdir(parents=True)
    (tmp_path / "data/Pong/1/episodes.jsonl").write_text("")
    some = {"SEEDS": "0", "ABLATIONS": "no_cql mse"}
    ended = stage.run(
        "ablations.sh", tmp_path / "data", "out", script=[("no_cql", "", 0, 75)], **some
    )
    assert ended.returncode == 75 and len(stage.tape) == 2
    assert stage.run("ablations.sh", tmp_path / "data", "out", **some).returncode == 0
    assert [command[-1].split("/")[-2] for command in stage.tape[:3]] == ["base", "no_cql", "mse"]
    assert stage.tape[3][-1] == f"--data_dir={tmp_path / 'data'}"


def test_quickstart_collects_trains_clones_evaluates_and_reports(stage, tmp_path):
    assert stage.run("quickstart.sh", tmp_path).returncode == 0
    said = [command[2].removeprefix("cql_atari.") for command in stage.tape]
    assert said == [*["collect"] * 3, "train", "train", "evaluate", "evaluate", "report", "play"]


def test_quickstart_needs_no_arguments_and_takes_none_but_its_folder(stage):
    ended = stage.run("quickstart.sh", "--dry_run")
    assert ended.returncode == 0 and "--data_dir=runs/quickstart/data" in ended.stdout
    for arguments in (["--dryrun"], ["-n"], ["out", "--x"], [""]):
        ended = stage.run("quickstart.sh", *arguments)
        assert ended.returncode == 2 and "takes DIR only" in ended.stderr and stage.tape == []


# Experiments.


def evidence(stage, experiment, out, **some):
    """The commands of an experiment, without python -m."""
    ended = stage.run("evidence.sh", experiment, out, **some)
    assert ended.returncode == 0, ended.stderr
    return [[command[2].removeprefix("cql_atari."), *command[3:]] for command in stage.tape]


def test_the_quickstart_over_seeds_is_the_quickstart_with_other_seeds(stage, tmp_path):
    """The very commands that results/quickstart was made with."""
    commands = evidence(stage, "quickstart", tmp_path, SEEDS="3")
    folder = tmp_path / "A/percent_good_play=50"
    stage.run("quickstart.sh", folder / "3")
    asked = [[command[2].removeprefix("cql_atari."), *command[3:]] for command in stage.tape]
    for command, seed in zip(asked, (301, 302, 302)):
        command[command.index(f"--seed={seed % 100}")] = f"--seed={seed}"
    for command in asked[3:5]:
        data = command.pop(command.index(f"--gin_bindings=data.dir='{folder}/3/data'"))
        command[-1:-1] = [data, "--gin_bindings=train.seed=3"]
    assert commands[:5] == asked[:5]
    assert [c[:2] for c in commands[5:7]] == [
        ["evaluate", "--policy=random"], ["evaluate", "--policy=best_fixed"]
    ]  # fmt: skip
    assert commands[7:] == [
        ["report", str(folder), str(folder.parent / "random"), str(folder.parent / "best_fixed")]
    ]
    runs = {c[-1] for c in evidence(stage, "quickstart", tmp_path) if c[0] == "train"}
    assert runs == {
        f"--workdir={folder}/{seed}/{name}" for seed in range(1, 6) for name in ("agent", "cloning")
    }


def test_every_share_of_good_play_has_as_much_play_and_names_its_runs(stage, tmp_path):
    commands = evidence(stage, "A", tmp_path, SEEDS="2", METHODS="agent best_ten_percent")
    for percent, runs in ((0, (2,)), (10, (1, 2)), (25, (1, 2)), (50, (1, 2)), (100, (1,))):
        folder = tmp_path / f"A/percent_good_play={percent}/2"
        play = [c for c in commands if f"--data_dir={folder}/data" in c]
        steps = {}
        for command in play:
            flags = dict(word[2:].split("=", 1) for word in command[1:])
            for game in flags["games"].split(","):
                share = {flags["run"]: int(flags["steps_per_game"])}
                steps[game] = {**steps.get(game, {}), **share}
        assert len(steps) == 3
        for of_game in steps.values():
            assert sum(of_game.values()) == 48_000
            assert of_game.get("1", 0) == 480 * percent
        for name in ("agent", "best_ten_percent"):
            (train,) = [c for c in commands if c[-1] == f"--workdir={folder}/{name}"]
            config = config_of(train)
            assert config.data.runs == runs and config.train.seed == 2
            assert config.data.best_fraction == (1 if name == "agent" else 0.1)


def test_other_shares_of_random_actions_are_those_of_all_of_as_play(stage, tmp_path):
    for some in ({}, {"EPSILONS": "0.05"}):
        commands = evidence(stage, "A", tmp_path, SEEDS="2", METHODS="agent", PERCENTS="50", **some)
        play = [c[-1].removeprefix("--epsilons=") for c in commands if c[0] == "collect"]
        assert play == (["0.05"] * 3 if some else ["0.2,0.3,0.5", *["0.3,0.5,0.7"] * 2])


def test_in_turns_two_fifths_of_the_play_are_the_good_players_in_every_game(stage, tmp_path):
    commands = evidence(stage, "in_turns", tmp_path, SEEDS="3", METHODS="cloning")
    play = [dict(word[2:].split("=", 1) for word in c[1:]) for c in commands if c[0] == "collect"]
    assert sorted(game for p in play for game in p["games"].split(",")) == [
        "BattleZone", "Freeway", "KungFuMaster"
    ]  # fmt: skip
    for flags in play:
        assert (flags["order"], flags["seed"]) == ("in_turns", "301")
        assert [part.share for part in mixture.parse_mixture(flags["mixture"])] == [0.6, 0.4]
    (train,) = [c for c in commands if c[0] == "train"]
    assert config_of(train).data.runs == (1,) and config_of(train).train.method == "cloning"


def test_changes_of_several_settings_on_an_agents_own_play_of_one_game(stage, tmp_path):
    """Files of gin_configs/ablations, bindings, or both: the bindings last."""
    change = "mse+loss.v_max=20.+loss.cql_alpha=0.01"
    some = {"SEEDS": "1", "OWN_GAMES": "Krull", "METHODS": change}
    commands = evidence(stage, "C", tmp_path, **some)
    (own,) = [c for c in commands if c[-1] == f"--workdir={tmp_path}/C/own_play/{change}/1/agent"]
    config = config_of(own)
    assert config.data.games == ("Krull",)
    assert (config.loss.kind, config.loss.v_max, config.loss.cql_alpha) == ("mse", 20, 0.01)


def test_parts_of_experiments_can_be_chosen(stage, tmp_path):
    def folders(experiment, **some):
        commands = evidence(stage, experiment, tmp_path, SEEDS="1", **some)
        runs = [c[-1].removeprefix(f"--workdir={tmp_path}/") for c in commands if c[0] == "train"]
        return {run.rsplit("/1/", 1)[0] for run in runs}, commands[-1][1:]

    change = "loss.auxiliary_cloning=0."
    on_quickstart, own = f"C/quickstart/{change}", f"C/own_play/{change}"
    base = "A/percent_good_play=50"
    found, reported = folders("C", METHODS=change, PLAY="quickstart")
    assert found == {base, on_quickstart}
    assert reported == [f"{tmp_path}/{base}", f"{tmp_path}/C/quickstart"]
    assert folders("C", METHODS=change, PLAY="own_play")[0] == {own}
    assert folders("B", METHODS="agent", PARTS="whole=1.0")[0] == {"B/whole"}
    assert folders("D", METHODS="mse", SIZES="8,16")[0] == {"D/widths=8,16"}
    found, _ = folders("F", VARIANTS="Freeway=1")
    assert found == {base, *(f"F/Freeway=1/{way}" for way in ("scratch", "warm", "warm_with_cql"))}
    found, _ = folders("E", METHODS="cloning")
    assert found == {base, "E/scratch", "E/tuned_cloning", "E/frozen_cloning"}


def test_the_play_of_an_online_agent_may_be_longer_by_an_agent_of_ones_own(stage, tmp_path):
    agent = "gin_configs/results/long_recording.gin"
    some = {"SEEDS": "1", "METHODS": "cloning", "STEPS": "70", "CACHE": str(tmp_path / "c")}
    commands = evidence(stage, "B", tmp_path, OWN_STEPS="400000", OWN_AGENT=agent, **some)
    assert {"--steps_per_game=400000", f"--gin_files={agent}"} < set(commands[0])
    trained = [config_of(c) for c in commands if c[0] == "train"]
    assert {(c.train.steps, c.feed.cache_dir) for c in trained} == {(70, some["CACHE"])}
    assert [c.data.fraction for c in trained] == [1, 0.2]
    some["PARTS"] = "early=data.suffixes=(0,1)"
    (_, *trained, _) = evidence(stage, "B", tmp_path, **some)
    (early,) = [c for c in trained if c[0] == "train"]
    assert early[-1] == f"--workdir={tmp_path}/B/early/1/cloning"
    assert (config_of(early).data.suffixes, config_of(early).data.fraction) == ((0, 1), 1)


@pytest.mark.slow
def test_every_experiments_commands_are_sound(stage, tmp_path):
    """Each run of each experiment has settings that pass, and a folder of its own."""
    for experiment in ("in_turns", "laptop", *"ABCDEF"):
        commands = evidence(stage, experiment, tmp_path, SEEDS="1", PERCENTS="0 25")
        runs = [command for command in commands if command[0] == "train"]
        assert len({command[-1] for command in runs}) == len(runs) > 2
        for command in runs:
            assert config_of(command).train.seed == 1
        assert commands[-1][0] == "report"
    assert stage.run("evidence.sh", "G").returncode == 2


def config_of(command):
    files, bindings = (
        [word.removeprefix(flag) for word in command if word.startswith(flag)]
        for flag in ("--gin_files=", "--gin_bindings=")
    )
    return config_lib.load(files, bindings)


@pytest.mark.parametrize("launcher", ["transfer.sh", "finetune.sh"])
def test_what_is_about_the_start_does_not_reach_the_baseline(stage, tmp_path, launcher):
    data = [tmp_path / "data"] if launcher == "transfer.sh" else []
    bindings = ["optimizer.encoder_learning_rate=0", "start.whole_network=True",
                "start.encoder_from='runs/other'"]  # fmt: skip
    flags = [f"--gin_bindings={binding}" for binding in bindings]
    plan = {"GAMES": "Pong", "VARIANTS": "Hero=1"}
    stage.run(launcher, "runs/first", *data, tmp_path / "out", *flags, **plan)
    pretrained, scratch = map(config_of, stage.tape[:2])
    assert (pretrained.start.encoder_from, pretrained.start.whole_network) == ("runs/first", True)
    assert pretrained.optimizer.encoder_learning_rate == 0
    assert scratch.start == settings.Start()
    assert scratch.optimizer.encoder_learning_rate is None


# Data.


def test_data_come_by_tfds_or_of_chosen_splits_by_gsutil(stage, tmp_path):
    name = "rlu_atari_checkpoints_ordered"
    stage.run("get_data.sh", "tfds", tmp_path, "Pong_run_1", "Qbert_run_2")
    for (*python, code, folder, config), wanted in zip(stage.tape, ("Pong_run_1", "Qbert_run_2")):
        assert python == ["python", "-c"] and compile(code, "", "exec")
        assert (folder, config) == (str(tmp_path), f"{name}/{wanted}")
    there = f"gs://tfds-data/datasets/{name}/Pong_run_1/1.1.0/"
    stage.run("get_data.sh", "gsutil", tmp_path, "Pong_run_1", SPLITS="0[0-9]")
    here = f"{tmp_path}/{name}/Pong_run_1/1.1.0/"
    files = [f"{there}*.json", f"{there}{name}-checkpoint_0[0-9].tfrecord*"]
    assert stage.tape == [["gsutil", "-m", "cp", "-n", *files, here]] and Path(here).is_dir()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["curl", "d", "Pong_run_1"], "curl: choose tfds or gsutil"),
        (["tfds", "d"], "give what to fetch"),
        (["tfds"], "give DIR"),
    ],
)
def test_data_asked_for_in_another_way(stage, arguments, message):
    ended = stage.run("get_data.sh", *arguments)
    assert ended.returncode > 0 and message in ended.stderr and stage.tape == []


def test_data_that_are_not_there(stage, tmp_path):
    ended = stage.run("get_data.sh", "gsutil", tmp_path, "Pog_run_1", script=[("gsutil", "", 0, 1)])
    assert ended.returncode == 1 and "use tfds" in ended.stderr
    usage = stage.run("get_data.sh").stderr
    assert "403" in usage and "cql_atari.collect" in usage


# The scripts themselves.


def test_shellcheck_has_nothing_to_say():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    files = [str(path) for path in sorted((ROOT / "launchers").iterdir())]
    ended = subprocess.run(
        [shellcheck, "-x", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_a_launcher_is_short_strict_and_executable(path):
    lines = path.read_text().splitlines()
    longest = 250 if path.name == "evidence.sh" else 42  # nine experiments
    assert 10 <= len(lines) <= longest and os.access(path, os.X_OK)
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
