"""The threads of a command: no more than its process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

_ROOT, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def keep_to_limits() -> None:
    """Takes no more threads than the process has CPU time for by its control group, as in a container.

    PyTorch takes one for each core that it may run on, whatever share of them its group has; then threads wait for one
    another. OMP_NUM_THREADS is left alone.
    """
    if "OMP_NUM_THREADS" not in os.environ and (cores := allowed_cores()) is not None:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), math.ceil(cores))))


def allowed_cores(root: Path = _ROOT, own: Path = _OWN) -> float | None:
    """The cores' worth of time that the control groups of this process have, the smallest; None without a limit.

    root: where the groups are. own: the file that names those of the process.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max), and cgroup-v1 (cpu.cfs_quota_us).
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:  # of another system
        return None
    found = []
    for _, controllers, name in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        group = top / name.lstrip("/")
        # a container may see its own group at the top, under another name
        for place in (group, *(above for above in group.parents if above.is_relative_to(top))):
            found += [limit for limit in (_limit(place, bool(controllers)),) if limit is not None]
    return min(found, default=None)


def _limit(group: Path, first_version: bool) -> float | None:
    try:
        if first_version:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        else:
            quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period) if quota.strip() != "max" and int(quota) > 0 else None
    except (OSError, ValueError):
        return None
