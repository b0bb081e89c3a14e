"""A tree of masks and a class list in, how the pixels stand for classes out: by exact colour or by id. Nothing is guessed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from semivss.data.description import ClassRow, Color, Masks
from semivss.data.folder import pack_colors, read_colors
from semivss.data.images import read_mask
from semivss.data.labels import IGNORE
from semivss.errors import DataError, DefectError
from semivss.progress import say, track

BLACK: Color = (0, 0, 0)


@dataclass
class _Survey:
    """What the pixels of a tree of masks hold; the file that first held each value."""

    ids: dict[int, Path] = field(default_factory=dict)
    colors: dict[Color, Path] = field(default_factory=dict)
    rgb: Path | None = None  # a mask that has colours only

    def add(self, path: Path) -> None:
        try:
            for value in np.unique(read_mask(path)):
                self.ids.setdefault(int(value), path)
        except DefectError as error:
            if error.kind != "mask_rgb":
                raise
            self.rgb = self.rgb or path
        for packed in np.unique(pack_colors(read_colors(path))).tolist():
            self.colors.setdefault((packed >> 16, packed >> 8 & 255, packed & 255), path)


def understand_masks(masks: Path, rows: tuple[ClassRow, ...], classes: Path | None, offset: int | None, frames: Path | None) -> Masks:
    """Read every mask and say how its pixels stand for classes; the folder is left empty. Nothing is guessed from brightness.

    Args:
        masks: the folder.
        rows: the classes.
        classes: the file they were read from.
        offset: mask value of the first class; none = as the masks say.
        frames: the folder of frames: if that is `masks` too, JPEGs there are frames.

    Raises:
        DataError: no masks or no classes; DefectError: a damaged mask, or a value that stands for no class.
    """
    if not masks.is_dir():
        raise DataError(f"{masks}: no such folder; give the folder of masks")
    if not rows:
        raise DataError(f"{classes or masks}: masks need a class list; give --classes FILE with one name a line, in the order of the ids")
    files = sorted(path for path in masks.rglob("*.png") if not path.name.startswith("."))
    if frames is None or frames.resolve() != masks.resolve():
        _refuse_jpegs(masks)
    if not files:
        raise DataError(f"{masks}: no masks (.png) in it or its folders; give the folder of masks")
    survey = _Survey()
    for path in track(files, "reading masks", total=len(files)):
        survey.add(path)
    return _by_color(survey, rows, classes) if survey.rgb or _all_known(survey.colors, rows) else _by_id(survey, rows, classes, offset)


def _refuse_jpegs(masks: Path) -> None:
    for path in sorted(masks.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg") and not path.name.startswith("."):
            raise DefectError(path, "wrong_type", "the mask is a JPEG, which changes ids when it compresses", "write the masks as PNG")


def _all_known(colors: Mapping[Color, Path], rows: tuple[ClassRow, ...]) -> bool:
    """Whether the masks (palettes included) show nothing but class colours, and more than black."""
    return all(row.color for row in rows) and set(colors) <= {BLACK, *(row.color for row in rows)} and set(colors) != {BLACK}


def _by_color(survey: _Survey, rows: tuple[ClassRow, ...], classes: Path | None) -> Masks:
    known = {row.color for row in rows}
    if None in known:
        raise DefectError(survey.rgb or "", "mask_rgb", "the mask shows colours", f"give every class of {classes} its colour: name: r,g,b")
    for color, path in survey.colors.items():
        if color not in known | {BLACK}:
            shown = ",".join(map(str, color))
            raise DefectError(path, "unknown_color", f"colour {shown} stands for no class", f"add a line 'name: {shown}' to {classes}")
    say("masks: read by colour" + ("" if BLACK in known else "; black is ignored"))
    return Masks(folder="", encoding="colors", ignore_colors=() if BLACK in known else (BLACK,))


def _by_id(survey: _Survey, rows: tuple[ClassRow, ...], classes: Path | None, offset: int | None) -> Masks:
    values = set(survey.ids) - {IGNORE}
    highest = max(values, default=0)
    first = _first_value(survey, rows) if offset is None else offset
    if highest - first >= len(rows):
        detail = f"mask value {highest} stands for no class: {classes} lists {len(rows)}, from value {first} on"
        raise DefectError(survey.ids[highest], "unknown_id", detail, "add the missing classes to the list, or correct the mask")
    ignored = (*range(first), IGNORE)
    last = f"value {first + len(rows) - 1} is {rows[-1].name!r}"
    say(f"masks: value {first} is {rows[0].name!r}, {last}; ignored: {', '.join(map(str, ignored))}")
    return Masks(folder="", encoding="ids", offset=first, ignore=ignored)


def _first_value(survey: _Survey, rows: tuple[ClassRow, ...]) -> int:
    """The mask value of the first class, if the values without 255 reach from one end of the class list to the other: 0 or 1.

    Where they do not, a class that never occurs, an ignored 0 and a stray value cannot be told from each other.

    Raises:
        DefectError: kind offset; both 0 and 1 are possible. It names the file with the highest value.
    """
    values, last = set(survey.ids) - {IGNORE}, len(rows) - 1
    lowest, highest = min(values, default=0), max(values, default=last)
    if highest > last + 1 or (lowest, highest) in ((0, last), (1, last + 1)):
        return int(lowest == 1)
    name = repr(rows[0].name)
    if lowest == 0 and highest == last + 1:
        why = f", one value more than the {len(rows)} classes: {name} is value 1 and 0 is ignored, or it is value 0 and {highest} a mistake"
    else:
        why = f" and never {last if lowest == 0 else 0}, so {name} may be value 0 or value 1"
    detail = f"the masks hold {lowest} to {highest}{why}"
    raise DefectError(survey.ids[highest], "offset", detail, "say which with --offset 0 or --offset 1 (1 ignores the value 0)")
