"""A forward pass without gradients in, the same with faster float32 linear layers out, on a CPU that Intel's library does not serve well.

torch multiplies float32 matrices on a CPU by Intel's MKL, which on AMD's processors reaches a third to two thirds of what oneDNN does
there; torch holds oneDNN too and takes it for convolutions and for bfloat16. Here linear layers go to it, module by module as they are:
parameters are read where they lie. Results differ by rounding. oneDNN's operator has no gradient, hence only where none is wanted.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from semivss.processor import is_amd

SMALLEST = 1 << 22  # multiplications below which the call of oneDNN costs more than it saves


def fast_linear(device: torch.device) -> AbstractContextManager[object]:
    """A context for a forward pass on `device`; it does nothing where gradients are wanted, a graph is recorded, or MKL is at home."""
    recording = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    if device.type != "cpu" or torch.is_grad_enabled() or recording or not _is_served_badly():
        return nullcontext()
    return _ByOneDnn()


class _ByOneDnn(TorchFunctionMode):
    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and not kwargs and _is_worth_it(*args):
            product: Tensor = torch.ops.mkldnn._linear_pointwise(args[0], args[1], args[2] if len(args) > 2 else None, "none", [], "")
            return product
        return func(*args, **(kwargs or {}))


def _is_worth_it(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    exact = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return exact and x.is_cpu and x.numel() * len(weight) >= SMALLEST


@functools.cache
def _is_served_badly() -> bool:
    """Whether this is a processor of AMD's and torch has both libraries."""
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return both and is_amd()
