"""A tree of index masks in, the same tree in the ids of a label map's target out."""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from semivss.atomic import atomic_file
from semivss.data.images import read_mask
from semivss.data.labels import LabelMap, LabelSet, MaskTable, label_set, load_label_map, offset_table
from semivss.errors import DataError
from semivss.progress import track

Encoding = Literal["ids", "vspw"]


def remap_tree(source: Path, out: Path, map_name: str, *, encoding: Encoding = "ids", source_ids: bool = False) -> int:
    """Write every index PNG below `source` to the same place below `out`, in the ids of the map's target; returns their number.

    Args:
        source: a folder of masks as the data set distributes them. In a folder of the VSPW layout only ``data/*/mask`` is read, in
            Cityscapes only the labelIds files (labelTrainIds where there are none).
        out: another folder; files there are replaced, each in one step.
        map_name: a shipped label map.
        encoding: "ids" writes ids 0..C-1 and 255 = ignore, "vspw" id + 1 and 0 = others.
        source_ids: the masks hold training ids 0..C-1 and 255, as predictions do.

    Raises:
        DataError: no such map, no masks, `out` lies in `source`, or a mask (named in the message) is damaged or holds an unknown id.
    """
    source, out, label_map = Path(source), Path(out), load_label_map(map_name)
    if label_map.category_table:
        raise DataError(f"{map_name}: panoptic masks hold segments, not classes; name this map as remap in a recipe's coco_panoptic source")
    if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
        raise DataError(f"{out}: lies in the folder that is read; choose another folder for the new masks")
    masks = _masks(source)
    if not masks:
        raise DataError(f"{source}: no PNG masks below this folder; give the folder of the annotations")
    target = label_set(label_map.target)
    for path in track(masks, "remap", total=len(masks), unit="masks"):
        labels = _table(path, label_map, source_ids).apply(read_mask(path), path)
        write_mask(out / path.relative_to(source), labels, target, encoding)
    return len(masks)


def write_mask(path: Path, labels: UInt8[np.ndarray, "H W"], classes: LabelSet, encoding: Encoding = "ids") -> None:
    """Write training ids as an index PNG with the classes' colours as palette. Raises SemivssError for a full or closed folder."""
    palette = classes.palette()
    if encoding == "vspw":
        labels, palette = labels + np.uint8(1), bytes(3) + palette[:765]  # 255 wraps round to 0, others
    image = Image.fromarray(labels)
    image.putpalette(palette)
    with atomic_file(path, sync=False) as file:
        image.save(file, "PNG")


def _masks(source: Path) -> list[Path]:
    pattern = "data/*/mask/*.png" if (source / "data").is_dir() else "**/*.png"
    files = [path for path in sorted(source.glob(pattern)) if not any(part.startswith(".") for part in path.relative_to(source).parts)]
    for ending in ("_labelIds", "_labelTrainIds"):
        if chosen := [path for path in files if path.stem.endswith(ending)]:
            return chosen
    return files


def _table(path: Path, label_map: LabelMap, source_ids: bool) -> MaskTable:
    if source_ids or path.stem.endswith("_labelTrainIds"):
        return offset_table(len(label_map.source_names), 0).then(label_map.ids)
    return label_map.mask_table()
