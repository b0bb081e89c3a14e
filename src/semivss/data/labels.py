"""Class names, colours and the tables that turn a data set's mask values into training ids 0..C-1, 255 = ignore."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Bool, UInt8

from semivss.errors import DataError, DefectError
from semivss.wording import counted

IGNORE = 255
_NO_ID = 254  # label sets end at 254 classes, so no id has this value


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


@dataclass(frozen=True, eq=False)
class MaskTable:
    """What the 8-bit values of a mask mean."""

    ids: UInt8[np.ndarray, "256"]  # mask value -> training id, 255 = ignore
    known: Bool[np.ndarray, "256"]  # mask values that have a meaning, ignored ones included

    def apply(self, raw: UInt8[np.ndarray, "H W"], path: Path | str) -> UInt8[np.ndarray, "H W"]:
        """Training ids of the mask `raw` that was read from `path`.

        Raises:
            StrayValuesError: kind unknown_id, a value has no meaning; the error carries the ids with 255 there.
        """
        marked = np.where(self.known, self.ids, np.uint8(_NO_ID))
        data = bytearray(np.ascontiguousarray(raw))  # bytes.translate is several times faster than indexing
        labels = np.frombuffer(data.translate(marked.tobytes()), np.uint8).reshape(raw.shape)
        if (labels == _NO_ID).any():
            raise _stray(path, raw, np.where(labels == _NO_ID, np.uint8(IGNORE), labels), self.known)
        return labels

    def then(self, ids: UInt8[np.ndarray, "256"]) -> "MaskTable":
        """The table that looks up a training id of this one in `ids`, in the same single step."""
        return MaskTable(ids[self.ids], self.known)


class StrayValuesError(DefectError):
    """A mask holds values without a meaning. `labels` are its training ids all the same, 255 at those pixels."""

    labels: UInt8[np.ndarray, "H W"] | None = None


def _stray(
    path: Path | str, raw: UInt8[np.ndarray, "H W"], labels: UInt8[np.ndarray, "H W"], known: Bool[np.ndarray, "256"]
) -> StrayValuesError:
    counts = np.bincount(raw.ravel(), minlength=256) * ~known
    value = int(counts.argmax())
    others = int((counts > 0).sum()) - 1
    more = f" and {counted(others, 'other value')}" if others else ""
    remedy = "correct the mask or its class list"
    error = StrayValuesError(path, "unknown_id", f"mask value {value} ({counts[value]} pixels){more} stands for no class", remedy, "ignore")
    error.labels = labels
    return error


@dataclass(frozen=True, eq=False)
class LabelMap:
    """How one source's mask values become ids of the target set; see `label_maps/`."""

    name: str
    target: str
    source_names: tuple[str, ...]
    table: UInt8[np.ndarray, "256"]  # index with an 8-bit mask; 255 where there is no counterpart
    category_table: Mapping[int, int]  # COCO panoptic: category_id -> target id
    known: Bool[np.ndarray, "256"]  # mask values that the source defines, ignored ones included
    ids: UInt8[np.ndarray, "256"]  # index with the source's training ids; 255 where there is no counterpart

    def mask_table(self) -> MaskTable:
        """The table for the source's mask files."""
        return MaskTable(self.table, self.known)


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
    loaded: dict[str, Any] = yaml.load(
        (resources.files("semivss.data") / "label_maps" / f"{name}.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
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


_COLORS: dict[str, tuple[tuple[int, int, int], ...]] = {  # the colours the sets are usually shown in
    "camvid11": (
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    ),
    "cityscapes19": (
        *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30), (220, 220, 0)),
        *((107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100)),
        *((0, 0, 230), (119, 11, 32)),
    ),
}


def label_set(name: str) -> LabelSet:
    """The classes of a data set: vspw124, ade20k150, coco_stuff171, coco_panoptic133, cityscapes19 or camvid11.

    A class counts as a thing where its VSPW counterpart does; the other data sets have no such flag, or another idea of it.

    Raises:
        DataError: no such set; the message lists the known ones.
    """
    if name == "vspw124":
        return vspw124()
    known = {map_name.split("_to_")[0]: map_name for map_name in label_map_names() if map_name.endswith("_to_vspw124")}
    if name not in known:
        raise DataError(f"label set {name!r} is unknown; choose one of {', '.join(sorted([*known, 'vspw124']))}")
    rows: Sequence[Mapping[str, Any]] = _load(known[name])["classes"]
    things = vspw124().things
    return LabelSet(
        name,
        tuple(row["name"] for row in rows),
        _COLORS.get(name) or distinct_colors(len(rows)),
        tuple(row["to_id"] != IGNORE and things[row["to_id"]] for row in rows),
    )


def label_map_names() -> tuple[str, ...]:
    """Names of the shipped maps, such as ade20k150_to_vspw124."""
    folder = resources.files("semivss.data") / "label_maps"
    return tuple(
        sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if "_to_" in file.name and file.name.endswith(".yaml"))
    )


@functools.cache
def load_label_map(name: str) -> LabelMap:
    """A shipped label map.

    Raises:
        DataError: no such map; the message lists the known ones.
    """
    if name not in label_map_names():
        raise DataError(f"label map {name!r} is unknown; choose one of {', '.join(label_map_names())}")
    tree = _load(name)
    rows: Sequence[Mapping[str, Any]] = tree["classes"]
    table, ids, known = np.full(256, IGNORE, np.uint8), np.full(256, IGNORE, np.uint8), np.zeros(256, bool)
    for row in rows:
        value = _mask_value(row, tree)
        table[value], ids[row["id"]], known[value] = row["to_id"], row["to_id"], True
    known[list(_ignored_values(tree))] = True
    return LabelMap(
        name,
        tree["target"],
        tuple(row["name"] for row in rows),
        table,
        {row["category_id"]: row["to_id"] for row in rows if "category_id" in row},
        known,
        ids,
    )


def _mask_value(row: Mapping[str, Any], tree: Mapping[str, Any]) -> int:
    """The value by which the source's mask files say this class."""
    offset = 1 if tree["source"] == "vspw124" else tree.get("pixel_value_offset", 0)
    value: int = row.get("pixel_value", row.get("label_id", row["id"] + offset))
    return value


def _ignored_values(tree: Mapping[str, Any]) -> tuple[int, ...]:
    """Mask values that the source defines without giving them a class that counts."""
    if tree["source"] == "cityscapes19":
        return (*range(34), IGNORE)  # label ids 0..33; the licence plate's -1 is 255 in 8 bits
    if tree["source"] == "vspw124" or tree.get("pixel_value_offset") == 1:
        return (0, IGNORE)
    return (*tree.get("unused_pixel_values", ()), IGNORE)


def offset_table(classes: int, offset: int) -> MaskTable:
    """The table of masks that store id + `offset`: offset 0 for training ids, 1 for VSPW's convention (0 = others). 255 is ignore."""
    ids, known = np.full(256, IGNORE, np.uint8), np.zeros(256, bool)
    ids[offset : offset + classes] = np.arange(classes)
    known[: offset + classes], known[IGNORE] = True, True
    return MaskTable(ids, known)


def source_table(name: str) -> MaskTable:
    """The table that turns the mask files of data set `name` (as `label_set` knows it) into its own training ids."""
    if name == "vspw124":
        return offset_table(124, 1)
    tree = _load(f"{name}_to_vspw124")
    ids = np.full(256, IGNORE, np.uint8)
    for row in tree["classes"]:
        ids[_mask_value(row, tree)] = row["id"]
    return MaskTable(ids, load_label_map(f"{name}_to_vspw124").known)
