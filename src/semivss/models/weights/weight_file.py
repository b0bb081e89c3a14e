"""A file or folder of weights in, its tensors and what it says about them out. Nothing in it is run, nothing is downloaded.

The content tells what a file is, not its name: safetensors, torch's own format in both its forms, or a plain pickle of tensors. A folder
holds config.json and safetensors or torch files, in one piece or several (as transformers, timm and semivss write them).
"""

import codecs
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semivss.atomic import newest
from semivss.errors import WeightsError
from semivss.models.weights.plain_pickle import DAMAGED, ForbiddenNameError, load_torch, read_pickle

CONFIG = "config.json"
WHOLE = ("model.safetensors", "pytorch_model.bin")
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")  # averaged weights first, as timm does
_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # torch's form before zip: a number, pickled
_AGAIN = "get the file again"


@dataclass(frozen=True)
class WeightFile:
    """What lies in a file or folder."""

    path: Path  # as it was given
    form: str  # "safetensors", "torch", "pickle"
    tensors: dict[str, Tensor]  # on the CPU, named as in the file; those of a large file are read when they are looked at
    files: tuple[Path, ...]  # that the tensors lie in
    config: Mapping[str, Any] = field(default_factory=dict)  # config.json of a folder
    meta: Mapping[str, Any] = field(default_factory=dict)  # what a file of mmcv says about itself


def read_weights(path: Path) -> WeightFile:
    """Everything in `path`.

    Raises:
        WeightsError: one line with the file, what is wrong and the remedy. A file that would run code is not read.
    """
    if path.is_dir():
        return _read_folder(path)
    form, tree = _read_file(path)
    meta = tree.get("meta") if isinstance(tree, Mapping) else None
    tensors = _unwrap(tree)
    if not tensors:
        raise WeightsError(f"{path}: holds no named tensors; give a state dict as safetensors or torch file")
    return WeightFile(path, form, tensors, (path,), meta=meta if isinstance(meta, Mapping) else {})


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder; empty where there is none. Raises WeightsError for one that is no JSON table."""
    path = newest(folder, CONFIG)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); mend its permissions") from error
    except ValueError as error:
        raise WeightsError(f"{path}: damaged, not JSON; get the folder again") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: damaged, not a table of settings; get the folder again")
    return config


def _read_folder(folder: Path) -> WeightFile:
    config = read_config(folder)
    if whole := next((path for name in WHOLE if (path := newest(folder, name)).is_file()), None):
        form, tree = _read_file(whole)
        return WeightFile(folder, form, _unwrap(tree), (whole,), config)
    index = next((path for name in WHOLE if (path := folder / f"{name}.index.json").is_file()), None)
    if index is None:
        raise WeightsError(f"{folder}: no weights there ({' or '.join(WHOLE)}); give a weight file, or the folder that holds it")
    places = _places(index)
    tensors: dict[str, Tensor] = {}
    form = ""
    for name in sorted(set(places.values())):
        form, tree = _read_file(folder / name)
        tensors |= _unwrap(tree)
    if lacking := sorted(places.keys() - tensors.keys()):
        raise WeightsError(f"{index}: lists {lacking[0]}, which {places[lacking[0]]} does not hold; get the folder again")
    return WeightFile(folder, form, tensors, tuple(folder / name for name in sorted(set(places.values()))), config)


def _places(index: Path) -> dict[str, str]:
    """Tensor -> file of a model in several pieces, all of which are there."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = set(places.values())
        sound = bool(names) and all(isinstance(name, str) and Path(name).name == name for name in names)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index}: damaged, not a list of tensors and files; get the folder again") from error
    if not sound:
        raise WeightsError(f"{index}: damaged, it names files outside its folder; get the folder again")
    if missing := sorted(name for name in names if not (index.parent / name).is_file()):
        raise WeightsError(
            f"{index.parent}: {len(missing)} of {len(names)} weight files are missing, the first is {missing[0]}; get them too"
        )
    return dict(places)


def demand_weights(path: Path) -> None:
    """Raise WeightsError where there is neither a file nor a folder. Reads nothing."""
    try:
        path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(f"{path}: cannot read the weight file ({error.strerror}); give the path of a local file, or lite0")


def _read_file(path: Path) -> tuple[str, object]:
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise _unreadable(path, error) from error
    if head[4:9] == b"\0\0\0\0{":
        return "safetensors", _read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):
            raise WeightsError(f"{path}: cut off, its end is missing: the download did not finish; {_AGAIN}")
        return "torch", _guarded(path, _torch_reader(path, mapped=path.suffix != ".safetensors"))
    if head.startswith(_TORCH_MAGIC):
        return "torch", _guarded(path, _torch_reader(path, mapped=False))
    if head.startswith(b"\x80"):
        return "pickle", _guarded(path, lambda: read_pickle(path))
    raise WeightsError(f"{path}: {_no_weights(head)}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise WeightsError(f"{path}: not a sound safetensors file ({_first_line(error)}); {_AGAIN}") from error


def _torch_reader(path: Path, *, mapped: bool) -> Callable[[], object]:
    """A zip can be mapped into memory, so that looking at names reads no weights; not under a name that makes torch read it otherwise."""
    if mapped:
        return lambda: load_torch(str(path), mapped=True)

    def read() -> object:
        with path.open("rb") as file:
            return load_torch(file)

    return read


def _guarded(path: Path, read: Callable[[], object]) -> object:
    try:
        return read()
    except ForbiddenNameError as error:
        raise WeightsError(
            f"{path}: holds {error.name}, which is neither tensor nor plain value, so the file was not read; "
            "give a state dict, best as safetensors"
        ) from error
    except DAMAGED as error:
        raise WeightsError(f"{path}: not a sound torch file or pickle of tensors ({_first_line(error)}); {_AGAIN}") from error


def _no_weights(head: bytes) -> str:
    text = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if not head:
        return f"empty; {_AGAIN}"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"a web page, not weights: the download failed, or its address needs a login; {_AGAIN}"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the weights; get the file itself with git lfs pull"
    return f"neither safetensors nor a torch file nor a pickle; {_AGAIN}"


def _unwrap(tree: object) -> dict[str, Tensor]:
    while isinstance(tree, Mapping) and (inner := next((key for key in _CONTAINERS if isinstance(tree.get(key), Mapping)), None)):
        tree = tree[inner]
    if not isinstance(tree, Mapping):
        return {}
    return {name: value for name, value in tree.items() if isinstance(name, str) and isinstance(value, Tensor)}


def some(names: Iterable[str]) -> str:
    """The first few of a list, for a message."""
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def demand_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise WeightsError for a tensor with NaN or infinite values."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsError(f"{path}: {name} holds values that are not finite; the file is damaged, {_AGAIN}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
