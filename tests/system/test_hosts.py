"""Which host this process is: TF_CONFIG, SLURM's variables, and what doesn't fit."""

from __future__ import annotations

import json

import pytest
from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver

from cql_atari.core.types import UserError
from cql_atari.system import hosts as cluster


def tf_config(index, kind="worker", **jobs):
    return {"TF_CONFIG": json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})}


def test_one_process_needs_no_environment():
    found = cluster.find_hosts("mirrored", {"TF_CONFIG": "nonsense"})
    assert (found.hosts, found.host, found.is_chief) == (1, 0, True)


def test_tf_config_names_hosts_and_index():
    found = cluster.find_hosts("multi_worker", tf_config(1, worker=["a:1", "b:1", "c:1"]))
    assert (found.addresses, found.host) == (("a:1", "b:1", "c:1"), 1)
    assert not found.is_chief
    assert found.hosts == 3


def test_a_chief_of_its_own_comes_first():
    jobs = {"chief": ["x:1"], "worker": ["a:1", "b:1"]}
    assert cluster.find_hosts("multi_worker", tf_config(0, "chief", **jobs)).is_chief
    found = cluster.find_hosts("multi_worker", tf_config(1, **jobs))
    assert (found.addresses, found.host) == (("x:1", "a:1", "b:1"), 2)


@pytest.mark.parametrize("environ, told", [
    ({}, "no cluster in the environment"),
    ({"TF_CONFIG": "{"}, "names no cluster"),
    ({"TF_CONFIG": "[]"}, "names no cluster"),
    ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, "names no cluster"),
    (tf_config(0, "ps", worker=["a:1"], ps=["b:1"]), "names no cluster"),
    (tf_config(2, worker=["a:1", "b:1"]), "task 2 of 2"),
    (tf_config(-1, worker=["a:1", "b:1"]), "task -1 of 2"),
    (tf_config(0, worker=["a:1", "a:1"]), "different addresses"),
])  # fmt: skip
def test_what_does_not_fit_is_told(environ, told):
    with pytest.raises(UserError, match=told):
        cluster.find_hosts("multi_worker", environ)


def slurm(nodes, tasks, index):
    return {"SLURM_STEP_NODELIST": nodes, "SLURM_STEP_NUM_TASKS": str(tasks),
            "SLURM_PROCID": str(index), "SLURM_JOB_ID": "1234567"}  # fmt: skip


def test_slurm_hosts_keep_their_order_and_the_job_its_port():
    found = cluster.find_hosts("multi_worker", slurm("n[9-10]", 2, 1))
    assert (found.addresses, found.host) == (("n9:24567", "n10:24567"), 1)


def test_several_slurm_tasks_on_a_node_are_refused():
    with pytest.raises(UserError, match="4 tasks on 2 nodes"):
        cluster.find_hosts("multi_worker", slurm("n[1-2]", 4, 0))


@pytest.mark.parametrize("nodes", [
    "a", "a,b", "node[1-3]", "node[01-03,7],gpu5", "n[098-101]", "a-b[1,3-4],c-d",
])  # fmt: skip
def test_host_lists_expand_as_tensorflow_expands_them(nodes):
    assert cluster.expand_hosts(nodes) == slurm_cluster_resolver.expand_hostlist(nodes)
