"""The processor's name for the rows of benchmarks."""

import os
import platform
import re
from pathlib import Path


def machine() -> str:
    """As Linux names it, where it does, and the number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return f"{found.group(1) if found else platform.machine()}, {os.cpu_count()} cores"
