"""Is this machine ready? python -m cql_atari.tools.doctor --gin_files=F --workdir=W

Checks Python, packages, devices, XLA, memory and disk for the chosen configuration, ROMs, data,
ports and replay servers, for ten seconds at most. It prints a line for each: ok, or what is wrong
and the command that fixes it; "note" is for what may be intended. Ends with 1 if anything is wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cql_atari.tools import doctor_checks
from cql_atari.tools.installation import Finding, check_packages, check_python

if TYPE_CHECKING:
    from cql_atari.core.settings import Config

# Only the standard library is imported up here: where packages are missing, this says which.

SECONDS = 8.5  # that the checks may take; then it prints what it has
_STARTED = time.monotonic()
_PROBE = """
import json, sys
def tell(**facts): print(json.dumps(facts), flush=True)
import tensorflow as tf
tell(tensorflow=tf.__version__, gpus=len(tf.config.list_physical_devices("GPU")))
tf.function(lambda x: x @ x, jit_compile=True)(tf.ones((8, 8)))
tell(xla=True)
import reverb
tell(reverb=True)
from cql_atari.core import settings
from cql_atari.methods import build
tell(parameters=sum(build.count_parameters(settings.from_dict(json.loads(sys.argv[1])))))
"""


class Probe:
    """Another process that imports TensorFlow and prints, fact by fact, what works."""

    def __init__(self, config: Config):
        from cql_atari.core import settings

        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROBE, json.dumps(settings.to_dict(config))],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip

    def ask(self, seconds: float) -> tuple[dict[str, Any], str]:
        """(facts printed within that time, why there are no more: "" where there are all)."""
        try:
            out, err = self._process.communicate(timeout=max(seconds, 0.1))
            code = self._process.returncode
            why = (err.strip().splitlines() or [f"ended with {code}"])[-1] if code else ""
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, _ = self._process.communicate()
            why = doctor_checks.LATE
        return {k: v for line in out.splitlines() for k, v in json.loads(line).items()}, why


def diagnose(config: Config, workdir: Path, deadline: float) -> list[Finding]:
    """All findings, in the order of the lines; a check that isn't done by the deadline is one."""
    from cql_atari.core.types import UserError

    probe = Probe(config)
    answers: dict[str, list[Finding]] = {}

    def look(about: str, check: Callable[[], list[Finding]]) -> None:
        try:
            answers[about] = check()
        except UserError as error:
            answers[about] = [Finding("wrong", about, "", str(error))]
        except Exception as error:  # a broken package shows here, too
            answers[about] = [Finding("wrong", about, repr(error))]

    checks: dict[str, Callable[[], list[Finding]]] = {
        "Python": check_python,
        "packages": check_packages,
        "memory": lambda: doctor_checks.check_memory(config),
        "ROMs": lambda: doctor_checks.check_roms(config),
        "data": lambda: doctor_checks.check_data(config),
        "ports": lambda: doctor_checks.check_ports(config),
        "servers": lambda: doctor_checks.check_servers(config),
    }
    for about, check in checks.items():  # as daemons: one that hangs doesn't hold us
        threading.Thread(target=look, args=(about, check), daemon=True).start()
    facts, why = probe.ask(deadline - time.monotonic())
    while len(answers) < len(checks) and time.monotonic() < deadline:
        time.sleep(0.01)
    for about in checks:
        answers.setdefault(about, [Finding("wrong", about, doctor_checks.LATE)])
    answers["devices"] = doctor_checks.check_devices(config, facts, why)
    answers["disk"] = doctor_checks.check_disk(config, workdir, facts.get("parameters"))
    order = ("Python", "packages", "devices", "memory", "disk", "ROMs", "data", "ports",
             "servers")  # fmt: skip
    return [finding for about in order for finding in answers[about]]


def show(findings: Sequence[Finding]) -> int:
    """Prints the findings; 1 where something is wrong."""
    for finding in findings:
        print(f"{finding.state:<6}{finding.about:<12}{finding.text}".rstrip())
        if finding.fix:
            print(f"{'':<6}{'':<12}fix: {finding.fix}")
    return int(any(finding.state == "wrong" for finding in findings))


def main(_: list[str]) -> int:
    from absl import flags

    from cql_atari import config as config_lib

    config = config_lib.load(flags.FLAGS.gin_files, flags.FLAGS.gin_bindings)
    return show(diagnose(config, cli.named_folder("workdir"), _STARTED + SECONDS))


def _define_flags() -> None:
    from absl import flags

    flags.DEFINE_multi_string("gin_files", [], "gin file; repeats, later ones win.")
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding; repeats, wins over the files.")
    flags.DEFINE_string("workdir", "runs/train", "Folder of the run, as for train.")


if __name__ == "__main__":
    try:
        from cql_atari import config as _config  # noqa: F401
        from cql_atari.system import cli
    except ImportError as error:
        broken = Finding("wrong", "import", str(error), "python -m pip install -e .")
        sys.exit(show([*check_python(), *check_packages(), broken]))
    _define_flags()
    cli.run(main)
