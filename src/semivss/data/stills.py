"""Data sets of single pictures in, one-frame clips out, in the set's own classes or straight in those of a label map's target.

Only names are read when a set is opened (and the JSON file of COCO panoptic). Pictures are converted to RGB when they are read.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from semivss.data.clips import VideoDataset
from semivss.data.files import FileClip, IndexReader, LabelReader
from semivss.data.images import read_color_mask
from semivss.data.labels import (
    IGNORE,
    LabelMap,
    LabelSet,
    MaskTable,
    StrayValuesError,
    label_set,
    load_label_map,
    offset_table,
    source_table,
)
from semivss.data.lists import Selection, image_files
from semivss.data.policy import Policy
from semivss.errors import DataError, DefectError

_PNG = (".png",)


def read_ade20k(
    root: Path, split: str, *, remap: str | None = None, labelled: str | None = None, policy: Policy = "strict"
) -> VideoDataset:
    """ADE20K scene parsing: ``images/<split>/*.jpg`` and ``annotations/<split>/*.png`` (id + 1, 0 = other).

    Args:
        root: the folder ADEChallengeData2016.
        split: train (also "training"), val (also "validation"), or another folder of both.
        remap: a shipped label map; none = ade20k150.
        labelled: a list of stems, relative to `root`: no other mask is opened.
        policy: strict raises for a list that names what is missing; otherwise it is recorded in `defects`.

    Raises:
        DataError: a folder or list is missing or empty, or the map is for another data set.
    """
    root, split = Path(root), {"train": "training", "val": "validation"}.get(split, split)
    frames = image_files(root / "images" / split)
    masks = image_files(root / "annotations" / split, _PNG)
    target = _Target("ade20k150", remap)
    return _dataset(root, root / "images" / split, frames, masks, target.classes, IndexReader(target.files), labelled, policy)


def read_coco_stuff(
    root: Path, split: str, *, remap: str | None = None, labelled: str | None = None, policy: Policy = "strict"
) -> VideoDataset:
    """COCO-Stuff pixel maps: ``<split>2017/*.jpg`` with ``stuffthingmaps/<split>2017/*.png`` (0..181 with gaps, 255), or the layout
    ``images/<split>2017`` with ``annotations/<split>2017/<stem>.png`` or ``<stem>_labelTrainIds.png`` (0..170, 255).

    Arguments and errors as `read_ade20k`; without remap the classes are coco_stuff171. Where both forms of a mask exist, the contiguous one
    is read.
    """
    root, split = Path(root), _coco_split(split)
    folder = _first(root / split, root / "images" / split)
    masks = image_files(_first(root / "stuffthingmaps" / split, root / "annotations" / split), _PNG)
    target, ending = _Target("coco_stuff171", remap), "_labelTrainIds"
    contiguous = {stem.removesuffix(ending): path for stem, path in masks.items() if stem.endswith(ending)}
    reader = IndexReader(target.train_ids if contiguous else target.files)
    return _dataset(root, folder, image_files(folder), contiguous or masks, target.classes, reader, labelled, policy)


def read_coco_panoptic(
    root: Path, split: str, *, remap: str | None = None, labelled: str | None = None, policy: Policy = "strict"
) -> VideoDataset:
    """COCO panoptic: ``<split>2017/*.jpg``, ``annotations/panoptic_<split>2017.json`` and the folder of the same name with RGB-coded PNGs.

    A pixel's segment is R + 256 G + 65536 B; its class stands in the JSON file. Pixels of no segment and of crowds become 255.
    Arguments and errors as `read_ade20k`; without remap the classes are coco_panoptic133.
    """
    root, split = Path(root), _coco_split(split)
    folder = _first(root / split, root / "images" / split)
    masks = image_files(_first(root / "annotations" / f"panoptic_{split}", root / f"panoptic_{split}"), _PNG)
    target = _Target("coco_panoptic133", remap)
    description = _first(root / "annotations" / f"panoptic_{split}.json", root / f"panoptic_{split}.json")
    segments = _segments(description, target.categories) if masks else {}
    reader = PanopticReader(segments)
    return _dataset(root, folder, image_files(folder), masks, target.classes, reader, labelled, policy)


def read_cityscapes(
    root: Path, split: str, *, remap: str | None = None, labelled: str | None = None, policy: Policy = "strict"
) -> VideoDataset:
    """Cityscapes: ``leftImg8bit/<split>/<city>/*_leftImg8bit.png`` with ``gtFine/<split>/<city>/*_gtFine_labelIds.png`` or
    ``_labelTrainIds.png``.

    Arguments and errors as `read_ade20k`; without remap the classes are cityscapes19. Stems are ``<city>_<sequence>_<frame>``. Where both
    forms of a split's masks exist, the distributed labelIds are read.
    """
    root = Path(root)
    folder = root / "leftImg8bit" / split
    frames = _cities(folder, "_leftImg8bit")
    masks = _cities(root / "gtFine" / split, "_gtFine_labelIds")
    target = _Target("cityscapes19", remap)
    reader = IndexReader(target.files if masks else target.train_ids)
    masks = masks or _cities(root / "gtFine" / split, "_gtFine_labelTrainIds")
    return _dataset(root, folder, frames, masks, target.classes, reader, labelled, policy)


class _Target:
    """The classes that come out, and the tables that lead to them."""

    def __init__(self, source: str, remap: str | None) -> None:
        label_map: LabelMap | None = load_label_map(remap) if remap else None
        own = label_set(source)
        if label_map and not label_map.name.startswith(f"{source}_to_"):
            raise DataError(f"label map {remap} is not for {source}; choose {source}_to_vspw124, or none for the set's own classes")
        ids = label_map.ids if label_map else np.arange(256, dtype=np.uint8)
        self.classes: LabelSet = label_set(label_map.target) if label_map else own
        self.files: MaskTable = source_table(source).then(ids)  # distributed mask files
        self.train_ids: MaskTable = offset_table(len(own), 0).then(ids)  # masks of contiguous ids
        known = load_label_map(f"{source}_to_vspw124")
        self.categories: dict[int, int] = {category: int(ids[index]) for index, category in enumerate(known.category_table)}


@dataclass(frozen=True, eq=False)
class PanopticReader:
    """Reads RGB-coded segment ids; `segments` holds the sorted ids of each picture and the class of each."""

    segments: Mapping[str, tuple[Int64[np.ndarray, "S"], UInt8[np.ndarray, "S"]]]

    def __call__(self, path: Path) -> UInt8[np.ndarray, "H W"]:
        """Training ids of the PNG. Raises DefectError, kind unknown_id where a segment is not in the JSON file."""
        if path.stem not in self.segments:
            raise DefectError(path, "unknown_id", "the picture is not in the panoptic JSON file", "use masks and JSON of one release")
        ids, classes = self.segments[path.stem]
        red, green, blue = np.moveaxis(read_color_mask(path).astype(np.int64), -1, 0)
        pixels = red + 256 * green + 65536 * blue
        place = np.searchsorted(ids, pixels).clip(max=len(ids) - 1)
        found = ids[place] == pixels
        labels = np.where(found, classes[place], np.uint8(IGNORE))
        if not found.all():
            error = StrayValuesError(
                path,
                "unknown_id",
                f"segment {pixels[~found][0]} ({(~found).sum()} pixels without a segment) is not in the panoptic JSON file",
                "use masks and JSON of one release",
                "ignore",
            )
            error.labels = labels
            raise error
        return labels


def _segments(path: Path, categories: Mapping[int, int]) -> dict[str, tuple[Int64[np.ndarray, "S"], UInt8[np.ndarray, "S"]]]:
    """Stem -> segment ids in order, and the class of each; segment 0 is no segment."""

    def shrink(node: dict[str, Any]) -> Any:  # a full file lists millions of segments: keep two numbers of each
        if "category_id" not in node:
            return node
        return node["id"], IGNORE if node.get("iscrowd") else categories[node["category_id"]]

    try:
        tree = json.loads(path.read_bytes(), object_hook=shrink)
        entries = {
            Path(entry["file_name"]).stem: sorted([(0, IGNORE), *map(tuple, entry["segments_info"])]) for entry in tree["annotations"]
        }
        return {
            stem: (np.array([i for i, _ in rows], np.int64), np.array([c for _, c in rows], np.uint8)) for stem, rows in entries.items()
        }
    except KeyError as error:
        raise DataError(f"{path}: {error} is no category or key of COCO panoptic; use the file as COCO distributes it") from error
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a readable COCO panoptic file ({str(error)[:80]}); copy it again") from error


def _dataset(
    root: Path,
    folder: Path,
    frames: Mapping[str, Path],
    masks: Mapping[str, Path],
    classes: LabelSet,
    reader: LabelReader,
    labelled: str | None,
    policy: Policy,
) -> VideoDataset:
    """One clip a picture. Pictures without a mask stay, unlabelled; masks without a picture are left out; both are recorded."""
    if not frames:
        raise DataError(f"{folder}: no pictures; check the folder of the data set and the split")
    allowed = Selection.read(root / labelled) if labelled else None
    defects: dict[str, list[str]] = {}
    if masks and not allowed:
        _record(defects, "missing_mask", (str(path) for stem, path in frames.items() if stem not in masks))
    _record(defects, "missing_frame", (str(path) for stem, path in masks.items() if stem not in frames))
    if allowed and (missing := allowed.missing({stem: (stem,) for stem in frames if stem in masks})):
        if policy == "strict":
            raise DefectError(
                allowed.path, "missing_mask", f"{missing[0]} is no labelled picture of the split", "correct the list, or add the files"
            )
        defects["missing_mask"] = missing

    def mask(stem: str) -> Path | None:
        return masks.get(stem) if allowed is None or allowed.allows(stem, stem) else None

    clips = tuple(FileClip(stem, (stem,), (path,), (mask(stem),), reader) for stem, path in frames.items())
    return VideoDataset(root.resolve().name, classes, clips, defects)


def _record(defects: dict[str, list[str]], kind: str, files: Iterable[str]) -> None:
    if names := list(files):
        defects[kind] = names


def _cities(folder: Path, ending: str) -> dict[str, Path]:
    """`<city>_<sequence>_<frame>` -> file, of all city folders."""
    if not folder.is_dir():
        return {}
    cities = sorted(city for city in folder.iterdir() if city.is_dir() and not city.name.startswith("."))
    files = (item for city in cities for item in image_files(city, _PNG).items())
    return {stem.removesuffix(ending): path for stem, path in files if stem.endswith(ending)}


def _coco_split(split: str) -> str:
    return f"{split}2017" if split in ("train", "val", "test") else split


def _first(*paths: Path) -> Path:
    """The first path that exists, or the first of all for the message."""
    return next((path for path in paths if path.exists()), paths[0])
