"""How much memory is free."""

from contextlib import suppress
from pathlib import Path

import torch


def free_on(device: torch.device) -> int:
    """Bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


def free_memory() -> int:
    """Bytes of the machine, and of the control group (version 2) that a job or a container runs in."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    with suppress(OSError, ValueError, StopIteration):  # no such group, or one without a limit
        own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        group = Path("/sys/fs/cgroup") / own.removeprefix("0::").lstrip("/")
        allowed, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, max(0, allowed - used + int(stat["inactive_file"])))  # files that are kept while there is room
    return free
