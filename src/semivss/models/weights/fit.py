"""Tensors of a file and of a module in, which belongs where out: by names, and with positions resized to the module's grid of patches."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from semivss.models.positions import SPECIAL, Grid, resize_positions, resize_table
from semivss.models.weights.lite0 import lite_names
from semivss.models.weights.shapes import square_side, table_side

State = Mapping[str, Tensor]
_WRAPPERS = ("module.", "model.", "backbone.", "body.", "encoder.")
_TABLES = ("relative_position_bias_table", "rel_pos_table.weight")
_POSITIONS = ("pos_embed",)


@dataclass(frozen=True)
class Fit:
    """A file's tensors at their places in a module."""

    tensors: dict[str, Tensor]  # name in the module -> tensor of its shape
    mismatched: tuple[str, ...]  # in the module, which has another shape there
    unexpected: tuple[str, ...]  # in the file only, as named there


def fit_by_name(tensors: State, state: State, target: Grid | None = None, source: Grid | None = None) -> Fit:
    """Equal names belong together.

    Args:
        tensors: of the file, under the module's names.
        state: of the module.
        target: grid of patches that the module's positions are for; none = it has none to resize.
        source: that of the file's; none = a square one.
    """
    return _fitted(tensors, {name: name for name in state if name in tensors}, state, target, source)


def fit_by_likeness(tensors: State, state: State) -> Fit:
    """Names belong together that are equal but for wrappers in front; those wrappers that let most tensors fit.

    For weights whose family has no table of names: timm's own, timm's `features_only` form, and EfficientNet-Lite's.
    """
    return _fitted(tensors, _pairs(tensors, state), state, None, None)


def _fitted(tensors: State, pairs: Mapping[str, str], state: State, target: Grid | None, source: Grid | None) -> Fit:
    resized = {name: _resized(name, tensors[origin], state[name], target, source) for name, origin in pairs.items()}
    fits = {name: tensor for name, tensor in resized.items() if tensor.shape == state[name].shape}
    return Fit(fits, tuple(name for name in pairs if name not in fits), tuple(sorted(tensors.keys() - set(pairs.values()))))


def _resized(name: str, tensor: Tensor, wanted: Tensor, target: Grid | None, source: Grid | None) -> Tensor:
    """A table or positions for the grid `target`, whatever their shape: 16 patches may be 4 x 4 or 2 x 8; any other tensor as it is."""
    if target is None or not name.endswith((*_TABLES, *_POSITIONS)):
        return tensor
    if tensor.ndim != wanted.ndim or tensor.ndim < 2 or tensor.shape[-1] != wanted.shape[-1]:
        return tensor
    if name.endswith(_TABLES):
        grid = source or _square(table_side(len(tensor)))
        if grid is not None and grid != target and len(tensor) == (2 * grid[0] - 1) * (2 * grid[1] - 1) + SPECIAL:
            return resize_table(tensor, grid, target)
    if name.endswith(_POSITIONS):
        flat = tensor.flatten(0, -2)
        if source is None and square_side(len(flat)):  # of a ViT without class token
            flat = torch.cat([torch.zeros_like(flat[:1]), flat])
        grid = source or _square(square_side(len(flat) - 1))
        if grid is not None and len(flat) == grid[0] * grid[1] + 1 and (grid != target or tensor.shape != wanted.shape):
            return torch.cat([flat[:1], resize_positions(flat[1:], grid, target)]).view(wanted.shape)
    return tensor


def _square(side: int | None) -> Grid | None:
    return (side, side) if side else None


def _pairs(tensors: State, state: State) -> dict[str, str]:
    """Name in `state` -> name in `tensors`, in the order of `state`."""
    best: dict[str, str] = {}
    most = -1
    for ahead, wrapper in itertools.product(_wrappers(tensors), _wrappers(state)):
        source = {name.removeprefix(ahead): name for name in tensors if name.startswith(ahead)}
        target = {name.removeprefix(wrapper): name for name in state if name.startswith(wrapper)}
        pairs = {target[new]: source[old] for old, new in _respelled(source, target).items() if new in target}
        fits = sum(tensors[origin].shape == state[name].shape for name, origin in pairs.items())
        if fits > most:
            best, most = pairs, fits
    return {name: best[name] for name in state if name in best}


def _respelled(source: Iterable[str], target: Iterable[str]) -> dict[str, str]:
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


def _wrappers(names: Iterable[str]) -> list[str]:
    """Every chain of known wrapper names that some name starts with, the empty one first."""
    return sorted({chain for name in names for chain in _peel(name)}, key=lambda chain: (len(chain), chain))


def _peel(name: str) -> Iterator[str]:
    taken = ""
    yield taken
    while known := next((wrapper for wrapper in _WRAPPERS if name.startswith(wrapper, len(taken))), None):
        taken += known
        yield taken
