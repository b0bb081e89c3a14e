"""Torch code in, how often it makes the host wait for the device out; on a CPU too, where nothing waits."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_READS = ("item", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__")


class HostReads(TorchFunctionMode):
    """While it is entered: shapes of what `Tensor.cpu` copies, and names of all else that reads a tensor's values on the host.

    What was copied, and what is computed from copies alone, is on the host already.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[int, ...]] = []
        self.others: list[str] = []
        self._kept: list[Tensor] = []  # alive, so that no other tensor takes an id
        self._copied: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = list(_tensors([args, kwargs]))
        on_host = bool(given) and all(id(tensor) in self._copied for tensor in given)
        name = getattr(func, "__name__", "")
        if name == "cpu":
            if not on_host:
                self.copies.append(tuple(args[0].shape))
            out = out.clone()  # on a CPU it is the tensor itself
            on_host = True
        elif name in _READS and not on_host:
            self.others.append(name)
        if on_host:
            for tensor in _tensors([out]):
                self._kept.append(tensor)
                self._copied.add(id(tensor))
        return out


def _tensors(values: Any) -> Iterator[Tensor]:
    match values:
        case torch.Tensor():
            yield values
        case list() | tuple():
            for value in values:
                yield from _tensors(value)
        case dict():
            yield from _tensors(list(values.values()))
