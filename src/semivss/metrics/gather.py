"""What each of the processes that torchrun started has found in; all of it, in the order of the processes, out on the first."""

import atexit
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from semivss.errors import SemivssError
from semivss.ranks import is_main_process, world_size

Found = TypeVar("Found")
_LONGEST = timedelta(days=7)  # that the first process waits for the others


def gathered(find: Callable[[], Found]) -> list[Found] | None:
    """Call `find` in every process; what they found on the first, none on the others. A process that is alone needs no network.

    Raises:
        SemivssError: on the first process, what the first of them to fail raised; the others leave with its exit code, and say nothing.
    """
    if world_size() == 1:
        return [find()]
    import torch.distributed as dist  # one process alone needs no torch to score

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=_LONGEST)
        atexit.register(dist.destroy_process_group)  # not before: the next group would meet the first one's keys in torchrun's store
    found = _attempt(find)
    every: list[Found | SemivssError] | None = [found] * world_size() if is_main_process() else None
    dist.gather_object(found, every)
    failed = [next((one for one in every or () if isinstance(one, SemivssError)), None)]
    dist.broadcast_object_list(failed)
    if failed[0] is not None:
        raise failed[0] if is_main_process() else SystemExit(2)
    return None if every is None else [one for one in every if not isinstance(one, SemivssError)]


def _attempt(find: Callable[[], Found]) -> Found | SemivssError:
    try:
        return find()
    except SemivssError as error:
        return error
