"""Code over tensors of the meta device in, its floating-point operations and its peak of live bytes out: shapes alone, no arithmetic.

A tensor of the meta device has a shape and no values; a layer of 1.8 billion parameters runs on it in microseconds, and autograd keeps
and frees its results as it would real ones. What asks for values gets an answer that costs as much as any other: no number is
infinite, every pixel is valid.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten: Any = torch.ops.aten

TAPS = 8  # operations of a bilinear sample: four corners, a multiplication and an addition each


def _samples(*_given: Any, out_val: Any, **_more: Any) -> int:
    return TAPS * _first(out_val).numel()


def _samples_backward(gradient: Tensor, *_given: Any, **_more: Any) -> int:
    return 2 * TAPS * gradient.numel()  # to the map and to the positions


def _bags(table: Tensor, rows: Tensor, *_given: Any, **_more: Any) -> int:
    return 2 * rows.numel() * table.shape[1]


def _passes(count: int) -> Callable[..., int]:
    return lambda *_given, out_val, **_more: count * _first(out_val).numel()


# What torch's counter leaves out and what is not small beside a matrix product: bilinear reads, and operations on every number of a map.
FORMULAS: Mapping[Any, Callable[..., int]] = {
    aten.grid_sampler_2d: _samples,
    aten.grid_sampler_2d_backward: _samples_backward,
    aten.upsample_bilinear2d: _samples,
    aten._embedding_bag: _bags,
    aten._embedding_bag_forward_only: _bags,
    aten.native_layer_norm: _passes(8),
    aten.native_layer_norm_backward: _passes(16),
    aten.native_group_norm: _passes(8),
    aten.native_group_norm_backward: _passes(16),
    aten.native_batch_norm: _passes(8),
    aten.native_batch_norm_backward: _passes(16),
    aten._softmax: _passes(5),
    aten._softmax_backward_data: _passes(4),
    aten.gelu: _passes(8),
    aten.gelu_backward: _passes(12),
}


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, operations are counted under the name of the part they belong to, and live bytes are followed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: dict[str, int] = {}
        self.live = 0  # bytes of all storages that are alive
        self.peak = 0
        self.gradients = 0  # bytes of gradients that were taken out of the count
        self.peak_with_gradients = 0
        self._part = "other"
        self._known: dict[int, Any] = {}

    def hold(self, *tensors: Tensor) -> None:
        """Count tensors that were made before."""
        for tensor in tensors:
            self._follow(tensor)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is counted inside belongs to `name`."""
        before, self._part = self._part, name
        yield
        self._part = before

    def restart(self) -> None:
        """Forget the peaks, and what was counted."""
        self.peak, self.flops = self.live, {}
        self.gradients, self.peak_with_gradients = 0, self.live

    def take_gradient(self, parameter: Tensor) -> None:
        """Count a finished gradient apart from what else is alive, and drop it. For `register_post_accumulate_grad_hook`."""
        assert parameter.grad is not None
        self.gradients += parameter.grad.untyped_storage().nbytes()
        parameter.grad = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet not in flop_registry and packet not in FORMULAS:
            with self:  # in inference mode operations arrive whole that are made of others
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        answer = _ANSWERS.get(func)
        out = (func if answer is None or not args[0].is_meta else answer)(*args, **kwargs)
        if packet in flop_registry:
            self._add(flop_registry[packet](*args, **kwargs, out_val=out))
        elif packet in FORMULAS:
            self._add(FORMULAS[packet](*args, **kwargs, out_val=out))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._follow(leaf)
        return out

    def _add(self, count: int) -> None:
        self.flops[self._part] = self.flops.get(self._part, 0) + int(count)

    def _follow(self, tensor: Tensor) -> None:
        if not tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        self.peak_with_gradients = max(self.peak_with_gradients, self.live + self.gradients)
        self._known[key] = weakref.finalize(storage, self._let_go, key, size)

    def _let_go(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.live -= size


def _first(out: Any) -> Tensor:
    first: Tensor = out[0] if isinstance(out, tuple | list) else out
    return first


def _all_places(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.numel(), max(tensor.ndim, 1), dtype=torch.int64, device="meta")


_ANSWERS: Mapping[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: lambda tensor: 0,
    aten.nonzero.default: _all_places,
}
