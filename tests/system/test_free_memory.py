"""Free memory, from files as Linux writes them: the machine, both versions of control groups."""

from __future__ import annotations

import pytest

from cql_atari.system.free_memory import free_bytes

MEMINFO = "MemTotal:       24684000 kB\nMemFree:  1000 kB\nMemAvailable:    2000000 kB\n"


def write(root, files):
    for name, content in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(content))


def v2(limit, used, inactive):
    return {"memory.max": limit, "memory.current": used,
            "memory.stat": f"anon 5\ninactive_file {inactive}\nactive_file 7\n"}  # fmt: skip


def v1(limit, used, inactive):
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used,
            "memory.stat": f"inactive_file 1\ntotal_inactive_file {inactive}\n"}  # fmt: skip


def group(folder, files):
    return {f"sys/fs/cgroup/{folder}/{name}": content for name, content in files.items()}


V1_LINES = "4:memory:/job/step\n3:cpuset:/\n0::/\n"


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, 2_048_000_000),
        ({"proc/self/cgroup": "0::/job\n", **group("job", v2("max", 5, 0))}, 2_048_000_000),
        ({"proc/self/cgroup": "0::/job\n", **group("job", v2(10**9, 4 * 10**8, 10**8))}, 7 * 10**8),
        ({"proc/self/cgroup": "0::/job\n", **group("job", v2(10**9, 2 * 10**9, 0))}, 0),
        ({"proc/self/cgroup": "0::/a/b\n", **group("a/b", v2("max", 1, 0)),
          **group("a", v2(5000, 1000, 300))}, 4300),
        ({"proc/self/cgroup": "0::/elsewhere\n", **group("", v2(5000, 1000, 0))}, 4000),
        ({"proc/self/cgroup": V1_LINES, **group("memory/job/step", v1(2**63 - 4096, 5, 0)),
          **group("memory/job", v1(9000, 4000, 1000))}, 6000),
        ({"proc/self/cgroup": V1_LINES, **group("cpuset", v1(1, 0, 0))}, 2_048_000_000),
    ],
    ids=["no groups", "no limit", "v2", "over the limit", "a parent's", "another view of the path",
         "v1", "another controller"],
)  # fmt: skip
def test_the_least_of_all_limits(tmp_path, files, expected):
    write(tmp_path, files)
    assert free_bytes(tmp_path) == expected


def test_here():
    assert 10**6 < free_bytes() < 10**15
