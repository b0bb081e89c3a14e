"""A pickle in, the plain values it holds out: tensors, arrays, numbers, text and containers. Nothing that it names is run.

A pickle is a program whose every call names a function. `CALLS` lists what may be called, and what is called instead: functions of this
file, which build values and do nothing else. Any other name ends the reading. What training scripts leave beside the weights (`INERT`)
is read as something without content. `torch.load` gets the same lists for its own format.
"""

import io
import math
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import torch
from torch import Tensor

DAMAGED = (  # what reading a damaged file raises, of pickle and of torch
    *(pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(OverflowError, MemoryError, struct.error),
)


_FORBIDDEN = re.compile(r"GLOBAL (\S+)")  # in torch's message


class ForbiddenNameError(Exception):
    """A file asks for something that is not on the list."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def read_pickle(path: Path) -> object:
    """Everything in the pickle.

    Raises:
        ForbiddenNameError: it names what is not on the list; nothing of that was run.
        OSError, ValueError and others of DAMAGED: it is damaged.
    """
    with path.open("rb") as file:
        return opened(_Reader(file).load())


def opened(value: Any) -> Any:
    """The same value with arrays and numpy's numbers as tensors and Python's numbers."""
    match value:
        case Array() | Numbers():
            return value.tensor()
        case dict():
            return {key: opened(item) for key, item in value.items()}
        case list() | tuple():
            return [opened(item) for item in value]
    return value


class ElementType:
    """In place of numpy.dtype."""

    def __init__(self, name: object = "", *_: object) -> None:
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in "biufc":
            raise ValueError(f"elements of type {name} are no numbers")

    def __setstate__(self, state: Sequence[object]) -> None:
        if (order := state[1]) in ("<", ">"):
            self.dtype = np.dtype(f"{order}{self.dtype.str[1:]}")


class Array:
    """In place of numpy.ndarray: made empty, and filled by its state."""

    def __init__(self, *_: object) -> None:
        self._values = np.empty(0)

    def __setstate__(self, state: Sequence[Any]) -> None:
        *_, shape, kind, columns_first, data = state
        self._values = _values(data, kind).reshape(shape, order="F" if columns_first else "C")

    @classmethod
    def of_buffer(cls, buffer: bytes, kind: ElementType, shape: Sequence[int], order: str) -> "Array":
        """In place of what rebuilds arrays in pickles of protocol 5."""
        array = cls()
        array._values = _values(buffer, kind).reshape(shape, order="F" if order == "F" else "C")
        return array

    def tensor(self) -> Tensor:
        """Its numbers."""
        native = self._values.dtype.newbyteorder("=")
        return torch.from_numpy(np.array(self._values, dtype=native, order="C"))


def _values(data: bytes, kind: ElementType) -> np.ndarray:
    return np.frombuffer(data, kind.dtype)


def _scalar(kind: ElementType, data: bytes) -> bool | int | float | complex:
    number: bool | int | float | complex = _values(data, kind)[0].item()
    return number


def _encoded(text: str, encoding: str) -> bytes:
    """In place of `_codecs.encode`: how protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {encoding}")
    return text.encode("latin1")


class Numbers:
    """In place of a tensor or a storage: a file can neither call its methods nor change what it is."""

    __slots__ = ("_values",)

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def __setstate__(self, state: object) -> NoReturn:
        raise ValueError("a tensor with a state of its own")

    def tensor(self) -> Tensor:
        """Its numbers; those of a storage in one row."""
        return self._values


class Inert:
    """In place of what a training script saves beside the weights: takes whatever a file gives it, and keeps nothing."""

    __slots__ = ()

    def __new__(cls, *_: object, **__: object) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, *_: object) -> None:
        pass


def _storage(data: bytes) -> Numbers:
    """In place of torch.storage._load_from_bytes, which would read the pickle within without any restriction; as a flat tensor."""
    storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.TypedStorage):
        raise TypeError("no storage")
    return Numbers(torch.empty(0, dtype=storage.dtype).set_(storage))


def _tensor(flat: Numbers, offset: int, size: Sequence[int], stride: Sequence[int], *_: object) -> Numbers:
    """In place of torch._utils._rebuild_tensor_v2.

    Raises ValueError for a tensor of more numbers than its storage (steps of 0 make a huge one of a small file), RuntimeError for one
    that reaches beyond it.
    """
    if not all(isinstance(number, int) and number >= 0 for number in (offset, *size, *stride)) or len(size) != len(stride):
        raise ValueError("a tensor of impossible size")
    if math.prod(size) > flat.tensor().numel():
        raise ValueError("a tensor of more numbers than its storage holds")
    return Numbers(flat.tensor().as_strided(size, stride, offset))


def _parameter(tensor: Numbers, *_: object) -> Numbers:
    return tensor


def _bytearray(content: object = b"", *encoding: str) -> bytearray:
    """In place of `bytearray`, which a number makes as large as it says."""
    if not isinstance(content, bytes | str):
        raise TypeError("a bytearray of no bytes")
    return bytearray(content.encode(*encoding) if isinstance(content, str) else content)


_NUMPY: dict[str, Callable[..., Any]] = {
    "numpy.dtype": ElementType,
    "numpy.ndarray": Array,
    **{f"numpy.{core}.multiarray._reconstruct": Array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": Array.of_buffer for core in ("core", "_core")},
}
CALLS: dict[str, Callable[..., Any]] = _NUMPY | {
    "_codecs.encode": _encoded,
    "builtins.bytearray": _bytearray,
    "builtins.complex": complex,
    "builtins.frozenset": frozenset,
    "builtins.set": set,
    "collections.OrderedDict": OrderedDict,
    "torch.Size": torch.Size,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage._load_from_bytes": _storage,
}

INERT = (
    "argparse.Namespace",  # the options of unilm, DeiT and MAE
    "builtins.getattr",  # how HistoryBuffer names its own methods; here it looks nothing up
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath")),
)


def load_torch(file: IO[bytes] | str, *, mapped: bool = False) -> object:
    """What `torch.load` reads with `weights_only`, numpy's numbers and arrays included. Raises as `read_pickle` does."""
    stand_ins: list[Any] = [*((call, name) for name, call in _NUMPY.items()), *((Inert, name) for name in INERT)]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return opened(torch.load(file, map_location="cpu", weights_only=True, mmap=mapped))
    except pickle.UnpicklingError as error:
        if found := _FORBIDDEN.search(str(error)):
            raise ForbiddenNameError(found[1]) from error
        raise


_RENAMED = {"__builtin__": "builtins"}  # in old protocols


class _Call:
    """A function that a pickle may call and cannot change."""

    __slots__ = ("_run",)
    _run: Callable[..., Any]

    def __init__(self, run: Callable[..., Any]) -> None:
        object.__setattr__(self, "_run", run)

    def __call__(self, *arguments: Any) -> Any:
        return self._run(*arguments)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(name)


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        name = f"{_RENAMED.get(module, module)}.{name}"
        if name in INERT:
            return Inert  # as a class, which newer protocols ask for
        if (call := CALLS.get(name)) is None:
            raise ForbiddenNameError(name)
        return _Call(call)
