"""How much of the memory that this process may use is used: by its control group's limit, and by the operator's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
# The first version of control groups says "none" with the largest number of whole pages.
NO_LIMIT_FROM = 1 << 60

Share = Callable[[], float]
"""The used share of the limit, 0 where there is none; takes some tens of microseconds."""


def memory_share(limit_mib: int | None = None, groups: Path = CGROUPS) -> Share:
    """The larger share of the two: of the control group by all that is in it, and of `limit_mib` by this process."""
    limits: list[Share] = []
    if limit_mib:
        limits.append(lambda: _resident_bytes() / (limit_mib << 20))
    if group := _group_share(groups):
        limits.append(group)
    return lambda: max((share() for share in limits), default=0.0)


def memory_limit_bytes(limit_mib: int | None = None, groups: Path = CGROUPS, processes: int = 1) -> int | None:
    """The tighter of the two limits for one of so many processes in the group; None where there is none."""
    limits = [limit_mib << 20] if limit_mib else []
    limits += [limit_bytes // processes for _, limit_bytes in _group_limits(groups)]
    return min(limits, default=None)


_Names = tuple[str, str, str]
_VERSIONS: tuple[_Names, ...] = (
    ("memory.max", "memory.current", "inactive_file "),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file "),
)
"""Of control groups: where the limit is, what is used, and what of that the kernel would give up."""


def _group_limits(groups: Path) -> Iterator[tuple[_Names, int]]:
    for names in _VERSIONS:
        limit_bytes = _number(groups / names[0])
        if limit_bytes and limit_bytes < NO_LIMIT_FROM:
            yield names, limit_bytes


def _group_share(groups: Path) -> Share | None:
    for (_, used, reclaimable), limit_bytes in _group_limits(groups):
        statistics = (groups / used).with_name("memory.stat")
        return lambda: _used_bytes(groups / used, statistics, reclaimable) / limit_bytes
    return None


def _used_bytes(used: Path, statistics: Path, reclaimable: str) -> int:
    """Without the file cache that the kernel gives up before it kills."""
    try:
        lines = statistics.read_text().splitlines()
    except OSError:
        lines = []
    cached = next((int(line.rpartition(" ")[2]) for line in lines if line.startswith(reclaimable)), 0)
    return max(0, _number(used) - cached)


def _number(path: Path) -> int:
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
