"""A layer's relative-position table and a grid in; the bias that attention adds out, kept while nobody learns, up to a limit of memory.

Spreading a table over all pairs of tokens takes up to half of a BEiT's time, and in prediction it gives the same numbers for every image
of a size. Only `torch.inference_mode` keeps biases: it says that no gradient will be wanted of them. They belong to no state dict, and a
copy of the model, in memory or in a file, starts without.

Letters: R rows of a table, G heads, T tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semivss.models.positions import Grid, relative_bias, resize_table

LIMIT = 1 << 30  # bytes a model
Key = tuple[int, Grid, torch.dtype]  # identity of the table, grid of the image, type of the logits


@dataclass
class _Kept:
    table: Tensor  # held, so that its identity stays its own
    state: tuple[int, int]  # of the table when the bias was made
    bias: Tensor
    used: int  # when, in calls


class BiasMemory:
    """Biases of all layers of a trunk.

    When a bias finds no room, what has not been used since it last found none gives way: where several sizes come round in turn the same
    ones stay, and sizes that no longer come make room.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        """`limit`: bytes that are kept at most; 0 = nothing is."""
        self.limit = limit
        self._kept: dict[Key, _Kept] = {}
        self._refused: dict[Key, int] = {}
        self._calls = 0

    def bias(self, table: Float[Tensor, "R G"], source: Grid, grid: Grid, dtype: torch.dtype) -> Float[Tensor, "1 G T T"]:
        """What `relative_bias` makes of a parameter, made for the grid `source`, for an image of the grid `grid`."""

        def make() -> Tensor:
            return relative_bias(resize_table(table, source, grid).to(dtype), grid)

        recording = torch.compiler.is_compiling() or torch.compiler.is_exporting()
        if not torch.is_inference_mode_enabled() or table.is_inference() or recording:  # the second has no version to go by
            return make()
        return self._remembered((id(table), grid, dtype), table, make)

    def shrink(self, limit: int) -> None:
        """Keep no more than `limit` bytes, or the limit of before where that was less."""
        self.limit = min(self.limit, limit)
        if self.size > self.limit:
            self.clear()

    def clear(self) -> None:
        """Let go of everything."""
        self._kept.clear()
        self._refused.clear()

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(kept.bias.nbytes for kept in self._kept.values())

    def _remembered(self, key: Key, table: Tensor, make: Callable[[], Tensor]) -> Tensor:
        self._calls += 1
        state = (table._version, 0 if table.is_meta else table.data_ptr())
        kept = self._kept.get(key)
        if kept is not None and kept.table is table and kept.state == state:
            kept.used = self._calls
            return kept.bias
        self._kept.pop(key, None)
        bias = make()
        if self._make_room(key, bias.nbytes):
            self._kept[key] = _Kept(table, state, bias, self._calls)
        return bias

    def _make_room(self, key: Key, wanted: int) -> bool:
        """Whether `wanted` more bytes fit, now that what is idle has gone."""
        if self.size + wanted > self.limit:
            since = self._refused.get(key, 0)
            self._kept = {other: kept for other, kept in self._kept.items() if kept.used >= since}
        fits = self.size + wanted <= self.limit
        if fits:
            self._refused.pop(key, None)
        else:
            self._refused[key] = self._calls
        return fits

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: the limit alone."""
        return {"limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["limit"])  # type: ignore[misc]


def biases_of(model: nn.Module) -> list[BiasMemory]:
    """The memories of a model's trunks."""
    parts = (getattr(part, "biases", None) for part in model.modules())
    return list({id(memory): memory for memory in parts if isinstance(memory, BiasMemory)}.values())
