"""Code over tensors of the meta device in, the same with the types that autocast would give its results out.

torch has no autocast for that device. Here too matrix products run in bfloat16, with weights cast once, and what autocast keeps exact
runs in float32; `full_precision` leaves this mode as it leaves autocast.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

PRODUCTS: set[Callable[..., Any]] = {
    F.linear,
    F.conv2d,
    F.conv_transpose2d,
    F.scaled_dot_product_attention,
    F.multi_head_attention_forward,
    torch.matmul,
    torch.bmm,
    torch.baddbmm,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.__rmatmul__,
}
EXACT: set[Callable[..., Any]] = {F.layer_norm, F.group_norm, F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, Tensor.softmax}


class MetaAutocast(TorchFunctionMode):
    """As `torch.autocast(dtype=torch.bfloat16)`; with `inference` as in torch's inference mode, where it keeps no weights in bfloat16."""

    def __init__(self, *, inference: bool = False) -> None:
        super().__init__()
        self._cast: dict[int, Tensor] | None = None if inference else {}  # weights in bfloat16

    def end_forward(self) -> None:
        """Let go of the weights in bfloat16, as autocast does at its end. What is recomputed later casts them anew."""
        self._cast = None

    def around(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, under this mode in backward too: there torch recomputes without the modes of the forward pass."""

        def inside(*given: Any, **more: Any) -> Any:
            with nullcontext() if torch._C._len_torch_function_stack() else self:
                return forward(*given, **more)

        return inside

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in PRODUCTS:
            args, kwargs = tree_map(self._low, (args, kwargs))
        elif func in EXACT:
            args, kwargs = tree_map(_high, (args, kwargs))
        return func(*args, **kwargs)

    def _low(self, value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.is_meta and value.dtype == torch.float32):
            return value
        if self._cast is None or not (value.is_leaf and value.requires_grad):
            return value.to(torch.bfloat16)
        if id(value) not in self._cast:
            self._cast[id(value)] = value.to(torch.bfloat16)
        return self._cast[id(value)]


def _high(value: Any) -> Any:
    low = isinstance(value, Tensor) and value.is_meta and value.dtype == torch.bfloat16
    return value.float() if low else value
