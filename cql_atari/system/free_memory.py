"""The memory that this process may still take, within the limits of machine and control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Of each version of control groups: the folder, and the names of limit, use, and of the part of
# that use that the kernel gives back at once.
_V1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("", "memory.max", "memory.current", "inactive_file")


def free_bytes(root: Path = Path("/")) -> int:
    """The least of Linux's available memory and what is left in each of our control groups.

    Args:
      root: where /proc and /sys are.
    """
    meminfo = (root / "proc/meminfo").read_text()
    available = int(meminfo.split("MemAvailable:")[1].split()[0]) * 1024
    return max(min([available, *_left_by_groups(root)]), 0)


def _left_by_groups(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # a kernel without control groups
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder, limit, use, reclaimable = _V1 if controllers else _V2
        # In a container the path may differ from the real one; the parents' limits hold, too.
        base = root / "sys/fs/cgroup" / folder
        group = base / path.strip("/")
        for place in [group, *group.parents]:
            if place.is_relative_to(base) and (place / limit).exists():
                most = (place / limit).read_text().strip()
                if most != "max":
                    statistics = dict(map(str.split, (place / "memory.stat").open()))
                    used = int((place / use).read_text()) - int(statistics.get(reclaimable, 0))
                    yield int(most) - used
