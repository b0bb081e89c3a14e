"""A wish for threads, or none, in; that many threads for torch's operators on the CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from semivss.processor import physical_cores
from semivss.ranks import machine_processes


def set_threads(wanted: int | None = None) -> None:
    """Let each operator of this process use `wanted` threads.

    None = OMP_NUM_THREADS where it is set (by torchrun to 1 for several processes, so that what they make does not depend on how many
    there are), else this process's share of the physical cores that it may use: all of them, divided by the processes that torchrun has
    started on this machine. Rounding may depend on the number, as it does on the processor.
    """
    import torch

    if wanted is None and os.environ.get("OMP_NUM_THREADS"):
        return  # torch has heeded it
    torch.set_num_threads(wanted or max(1, physical_cores() // machine_processes()))


@contextmanager
def kept_threads() -> Iterator[None]:
    """Whatever is set inside, the process has its number of threads again behind the block."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
