"""Names in a weight file and in a backbone in, which of them belong together out: under the wrappers' names that let most tensors fit.

For weights whose family has no table of names: timm's own, timm's `features_only` form (`stages.0.` becomes `stages_0.`), and
EfficientNet-Lite's.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from semivss.models.lite0 import lite_names

_PREFIXES = ("module.", "model.", "backbone.", "body.", "encoder.")


def pair_names(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str]:
    """Name in `state` -> name in `tensors`, in the order of `state`."""
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
