"""An error of an allocation in, one line with what did not fit and what helps out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from semivss.errors import SemivssError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU, or the CPU, had no room for a tensor; torch has a class of its own for the GPU's alone."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def not_fitting(where: str, what: str, remedies: Sequence[str], device: torch.device) -> SemivssError:
    """The error for people: `what` needed more than `device` has; the remedies in the order to try them."""
    return SemivssError(f"{where}: out of memory {_room(device)}with {what}; {', '.join(remedies[:-1])} or {remedies[-1]}")


@contextmanager
def told(error: Callable[[], SemivssError]) -> Iterator[None]:
    """Raise `error()` in place of an allocation's error inside; other errors pass."""
    try:
        yield
    except (RuntimeError, MemoryError) as failed:
        if not is_out_of_memory(failed):
            raise
        raise error() from failed


def _room(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    total = torch.cuda.get_device_properties(device).total_memory
    return f"({total / 2**30:.0f} GiB a GPU) "
