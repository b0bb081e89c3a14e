"""Counts and means of a process' part of a batch in, what they are over the parts of all processes out.

DDP and FSDP average the gradients of W processes. A process therefore divides its sums by the mean of what all of them count: the gradient
is then that of one process with the whole batch, however unequally masks and labelled pixels lie on the parts.
"""

import torch.distributed as dist
from jaxtyping import Float, Int64, Shaped
from torch import Tensor


def processes() -> int:
    """W; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(numbers: Shaped[Tensor, "*n"]) -> Shaped[Tensor, "*n"]:
    """The sums over all processes, on each of them. All must call it."""
    if processes() == 1:
        return numbers
    total = numbers.clone()
    dist.all_reduce(total)
    return total


def part_of_mean(mean: Float[Tensor, ""], count: Int64[Tensor, ""]) -> Float[Tensor, ""]:
    """`mean` over the `count` pixels of this process, such that the average over processes is the mean over the pixels of all.

    All must call it.
    """
    if processes() == 1:
        return mean
    share = processes() * count / summed(count).double().clamp_min(1)
    return mean * share.to(mean.dtype)
