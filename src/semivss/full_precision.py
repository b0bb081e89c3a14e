"""A tensor in, a context out in which autocast leaves that tensor's device alone; or the tensor itself in a precision that sums bear."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Autocast off for the device of `tensor`.

    The meta device has no autocast and refuses to be asked; where costs are counted, a mode of torch functions (`cost/autocast.py`) takes
    its place.
    """
    return torch._C.DisableTorchFunction() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def at_least_float32(tensor: Tensor) -> Tensor:
    """`tensor`, in float32 if it was in a half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
