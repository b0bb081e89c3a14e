"""A model in, the same with the matrix products of its linear layers done by oneDNN out, where that is faster.

torch multiplies float32 matrices by MKL, which leaves AVX-512 unused on AMD's processors: oneDNN, which torch carries for convolutions and
bfloat16, takes less than half the time there, forward and backward.
"""

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def speed_up(model: nn.Module) -> None:
    """Let all plain `nn.Linear` of `model` compute by `linear`, on a machine where it pays. Names and parameters stay."""
    if mkl_is_slow():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear


@functools.cache
def mkl_is_slow() -> bool:
    """Whether the processor is one of AMD's with AVX-512. A rule, no measurement: two runs on a machine must compute the same bits."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    cpuinfo = Path("/proc/cpuinfo")
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and cpuinfo.exists() and "AuthenticAMD" in cpuinfo.read_text()


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """As `nn.Linear`."""
        return linear(x, self.weight, self.bias)


def linear(x: Float[Tensor, "*b i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None) -> Float[Tensor, "*b o"]:
    """`F.linear`; by oneDNN for float32 on a CPU, outside autocast and recorded graphs."""
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.numel() > 0
    if not plain or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return F.linear(x, weight, bias)
    product: Tensor = Product.apply(x, weight, bias)
    return product


class Product(torch.autograd.Function):
    """x weight^T + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `linear`."""
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of what wants one."""
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
