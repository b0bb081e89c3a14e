"""Class names, colours and the tables that turn a data set's mask values into training ids 0..C-1, 255 = ignore."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import yaml
from jaxtyping import UInt8

from semivss.errors import DataError

IGNORE = 255


@dataclass(frozen=True)
class LabelSet:
    """The classes of a task, in the order of their training ids."""

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]  # RGB, 0..255; two classes may share one
    things: tuple[bool, ...]  # countable objects, as opposed to stuff

    def __post_init__(self) -> None:
        if not 2 <= len(self.names) <= 254:
            raise DataError(f"label set {self.name}: {len(self.names)} classes; ids are 8-bit and 255 means ignore: give 2 to 254 classes")
        if len(set(self.names)) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise DataError(f"label set {self.name}: class {twice!r} is listed twice; give every class its own name")

    def __len__(self) -> int:
        return len(self.names)

    def palette(self) -> bytes:
        """768 bytes for an indexed PNG: class colours, then black; ignore (255) is black too."""
        flat = [channel for color in self.colors for channel in color]
        return bytes(flat + [0] * (768 - len(flat)))


@dataclass(frozen=True)
class LabelMap:
    """How one source's mask values become ids of the target set; see `label_maps/`."""

    name: str
    target: str
    source_names: tuple[str, ...]
    table: UInt8[np.ndarray, "256"]  # index with an 8-bit mask; 255 where there is no counterpart
    category_table: Mapping[int, int]  # COCO panoptic: category_id -> target id
    known: UInt8[np.ndarray, "256"]  # 1 for mask values that the source defines, ignored ones included


def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """`count` colours that differ from each other, the same on every call (golden-ratio walk through the hues)."""
    import colorsys

    colors = []
    for index in range(count):
        red, green, blue = colorsys.hsv_to_rgb((index * 0.618034) % 1.0, (0.9, 0.55, 0.75)[index % 3], (0.95, 0.75)[index // 3 % 2])
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(colors)


@functools.cache
def _load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load((resources.files("semivss.data") / "label_maps" / f"{name}.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


@functools.cache
def vspw124() -> LabelSet:
    """The 124 classes of VSPW with the colours and thing flags of its sister set VIPSeg."""
    rows: Sequence[Mapping[str, Any]] = _load("vspw124")["classes"]
    return LabelSet(
        "vspw124",
        tuple(row["name"] for row in rows),
        tuple(tuple(row["color"]) for row in rows),
        tuple(bool(row["thing"]) for row in rows),
    )
