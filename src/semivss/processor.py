"""Nothing in, what the machine's processor is and can do out, as far as Linux tells; elsewhere nothing is claimed. Imports no torch."""

import functools
import os
import sys
from pathlib import Path

_LISTED = Path("/proc/cpuinfo")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of processor time in so many microseconds


def is_amd() -> bool:
    """Whether AMD has made it."""
    return any(line.split() == ["vendor_id", ":", "AuthenticAMD"] for line in _description())


def has_amx() -> bool:
    """Whether it multiplies bfloat16 matrices in tiles (AMX), an order of magnitude faster than float32 ones."""
    return any(line.startswith("flags") and "amx_bf16" in line.split() for line in _description())


def physical_cores() -> int:
    """Cores that this process may use; two threads that share one count once. A container's limit on processor time counts."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return max(1, min(len({_core(number) for number in allowed}), _quota()))


def _quota() -> int:
    """Whole processors that the container's limit comes to."""
    quota, period = _QUOTA.read_text().split() if _QUOTA.is_file() else ("max", "1")
    return sys.maxsize if quota == "max" else int(quota) // int(period)


def _core(number: int) -> str:
    """What tells the core of a logical processor from others."""
    path = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
    return path.read_text() if path.is_file() else str(number)


@functools.cache
def _description() -> tuple[str, ...]:
    """Of the first logical processor."""
    return tuple(_LISTED.read_text().split("\n\n", 1)[0].splitlines()) if _LISTED.is_file() else ()
