"""The hosts of a run and which of them this is, from TF_CONFIG or SLURM; without TensorFlow."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from cql_atari.core.types import UserError
from cql_atari.system.files import parse_json

_FIX = (
    'Set TF_CONFIG to {"cluster": {"worker": ["host0:port", "host1:port"]}, "task": {"type": '
    '"worker", "index": 0}}, the index of each host its own; or start one task a node by srun.'
)


class Cluster(NamedTuple):
    """The processes that train in step, one a host.

    Attributes:
      addresses: "host:port" of each; () where there is only this process.
      host: this one's; 0 is the chief, which alone writes to the workdir.
    """

    addresses: tuple[str, ...] = ()
    host: int = 0

    @property
    def hosts(self) -> int:
        return max(1, len(self.addresses))

    @property
    def is_chief(self) -> bool:
        return self.host == 0


def find_hosts(strategy: str, environ: Mapping[str, str] = os.environ) -> Cluster:
    """The cluster that `train.strategy` runs on: several hosts with "multi_worker", else one.

    TF_CONFIG wins over SLURM's variables.

    Raises:
      UserError: where neither is set, or the variables contradict each other.
    """
    if strategy != "multi_worker":
        return Cluster()
    if "TF_CONFIG" in environ:
        return _from_tf_config(environ["TF_CONFIG"])
    if "SLURM_STEP_NODELIST" in environ:
        return _from_slurm(environ)
    raise UserError(f"train.strategy = 'multi_worker' finds no cluster in the environment. {_FIX}")


def _from_tf_config(text: str) -> Cluster:
    try:
        told = parse_json(text)
        jobs, task = told["cluster"], told["task"]
        chiefs, workers = (list(jobs.get(job, ())) for job in ("chief", "worker"))
        index = {"chief": 0, "worker": len(chiefs)}[task["type"]] + int(task["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"TF_CONFIG = {text!r} names no cluster of workers. {_FIX}") from error
    addresses = (*chiefs, *workers)
    if not 0 <= index < len(addresses) or len(set(addresses)) < len(addresses):
        raise UserError(
            f"TF_CONFIG: task {index} of {len(addresses)} different addresses, "
            f"{', '.join(addresses)}. {_FIX}"
        )
    return Cluster(addresses, index)


def _from_slurm(environ: Mapping[str, str]) -> Cluster:
    """Addresses in SLURM's own order, so that SLURM_PROCID counts them.

    TensorFlow's resolver sorts them by name: with unpadded names, n9 and n10, ranks and addresses
    no longer agree.
    """
    hosts = expand_hosts(environ["SLURM_STEP_NODELIST"])
    tasks, index = (int(environ.get(f"SLURM_{name}", 0)) for name in ("STEP_NUM_TASKS", "PROCID"))
    if tasks != len(hosts):
        raise UserError(
            f"SLURM started {tasks} tasks on {len(hosts)} nodes; start one a node: "
            "srun --ntasks-per-node=1."
        )
    port = 20_000 + int(environ.get("SLURM_JOB_ID", 0)) % 10_000  # jobs may share nodes
    return Cluster(tuple(f"{host}:{port}" for host in hosts), index)


def expand_hosts(nodes: str) -> list[str]:
    """The hosts of SLURM's short form, such as "a[01-03,7],b", one by one and in order."""
    hosts = []
    for prefix, ranges in re.findall(r"([^,\[]+)(?:\[([^]]*)\])?", nodes):
        for part in ranges.split(","):
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last or first) + 1) if part else [""]
            hosts += [f"{prefix}{str(n).zfill(len(first))}" for n in numbers]
    return hosts
