"""A forward pass or a model to train in, the same with faster float32 linear layers out, on a CPU that Intel's library does not serve well.

torch multiplies float32 matrices on a CPU by Intel's MKL, which on AMD's processors reaches a third to two thirds of what oneDNN does
there; torch holds oneDNN too and takes it for convolutions and for bfloat16. Here linear layers go to it, module by module as they are:
parameters are read where they lie. Results differ by rounding. Whether they go there is a rule and no measurement: two runs on a machine
compute the same bits.

oneDNN's operator has no gradient. Without gradients a context round the pass catches every linear product. With them the layers themselves
change (`Linear`), for what is computed again during the backward pass is computed outside of any context.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
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
            return _product(*args)
        return func(*args, **(kwargs or {}))


def train_faster(model: nn.Module) -> None:
    """Let every plain `nn.Linear` of `model` be a `Linear`, where MKL is not at home. Names and parameters stay."""
    if _is_served_badly():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear


class Linear(nn.Linear):
    """`nn.Linear` whose gradients come from oneDNN too."""

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """As `nn.Linear`."""
        return linear(x, self.weight, self.bias)


def linear(x: Float[Tensor, "*b i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None) -> Float[Tensor, "*b o"]:
    """`F.linear`, by oneDNN if it is to have a gradient and is worth it."""
    recording = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    if not torch.is_grad_enabled() or recording or not _is_worth_it(x, weight):
        return F.linear(x, weight, bias)
    product: Tensor = _Differentiable.apply(x, weight, bias)
    return product


class _Differentiable(torch.autograd.Function):
    """x weight^T + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of what wants a gradient."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradients[0].reshape(-1, weight.shape[0])
        return (
            _product(rows, weight.T).view(x.shape) if of_x else None,
            _outer(rows, x.reshape(-1, weight.shape[1])) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _outer(left: Float[Tensor, "n o"], right: Float[Tensor, "n i"]) -> Float[Tensor, "o i"]:
    """left^T right. The first factor of a product is copied if it is transposed: better the narrower one."""
    if left.shape[1] > right.shape[1]:
        return _product(right.T, left.T).T
    return _product(left.T, right.T)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _is_worth_it(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    exact = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return exact and x.is_cpu and x.numel() * len(weight) >= SMALLEST


@functools.cache
def _is_served_badly() -> bool:
    """Whether this is a processor of AMD's and torch has both libraries."""
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return both and is_amd()
