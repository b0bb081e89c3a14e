"""The environment that torchrun sets in; which of its processes this one is out."""

import os


def is_main_process() -> bool:
    """Whether this process is the only one or the first of those that torchrun, or Lightning for several GPUs, has started."""
    return rank() == 0


def rank() -> int:
    """Number of this process among all of them, 0 for one that is alone."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def local_rank() -> int:
    """Number of this process among those of its machine, 0 for one that is alone."""
    return int(os.environ.get("LOCAL_RANK") or 0)


def world_size() -> int:
    """How many processes torchrun has started, on all machines; 1 without it."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def machine_processes() -> int:
    """How many processes torchrun has started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
