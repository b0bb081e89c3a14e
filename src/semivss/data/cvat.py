"""A CVAT export "Segmentation mask 1.1" in, a data set with index PNGs out.

Ids come from the colours of labelmap.txt, never from brightness. The export holds ``labelmap.txt`` (``name:R,G,B:parts:actions``),
``SegmentationClass/**/*.png`` (1 or 3 channels, colour = class), lists in ``ImageSets/Segmentation/*.txt`` and, if it was exported with
pictures, ``JPEGImages/``.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from semivss.data.archive import unpack
from semivss.data.description import ClassRow, Color, Description, Masks, VideoRow, describe, parse_color
from semivss.data.folder import ColorCodes, color_codes, read_colors
from semivss.data.holdout import Holdout
from semivss.data.images import read_mask
from semivss.data.importer import NO_HOLDOUT, finish, staged, video_row
from semivss.data.labels import IGNORE, LabelSet, MaskTable
from semivss.data.lists import read_list
from semivss.data.remap import write_mask
from semivss.data.understand import BLACK
from semivss.data.video import stem
from semivss.errors import DataError, DefectError
from semivss.progress import say, track

_MASKS, _PICTURES, _LISTS = "SegmentationClass", "JPEGImages", "ImageSets/Segmentation"
_BACKGROUND = "background"


def import_cvat(
    source: Path,
    frames: Path | None,
    out: Path,
    *,
    background_class: bool = False,
    holdout: Holdout = NO_HOLDOUT,
    force: bool = False,
) -> Description:
    """Convert the masks to index PNGs in `out`/masks, copy the pictures of the zip to `out`/frames, and describe both.

    Args:
        source: the zip, or its unpacked folder.
        frames: the folder of frames, or the video file they were taken from, for an export without pictures. Left where it is.
        out: the new folder.
        background_class: keep the label map's row "background" as a class; otherwise it is ignored, as black without a row always is.
        holdout: the videos for validation, where the export has no subsets.
        force: replace what an earlier import wrote there.

    Raises:
        DataError: a part is missing, damaged, unsafe or does not fit; nothing is written then.
    """
    source, out = Path(source), Path(out)
    with staged(out, force) as stage:
        unpacked = source if source.is_dir() else stage / ".cvat"
        if not source.is_dir():
            unpack(source, unpacked, lambda name: name == "labelmap.txt" or name.startswith((f"{_MASKS}/", f"{_PICTURES}/", f"{_LISTS}/")))
        label_map = read_label_map(unpacked / "labelmap.txt", source, background_class)
        name = re.sub(r"[^\w.-]", "_", out.resolve().name)
        masks = _masks(unpacked, source)
        video = _video(frames, out)
        kept = _pictures(unpacked, source, frames, stage / "frames", name)
        _convert(masks, label_map, stage / "masks", name, video, source)
        description = describe(
            str(out),
            name=name,
            frames=kept,
            masks=Masks(folder="masks"),
            videos=(video,) if video else (),
            splits=_splits(unpacked, name, video),
            classes=label_map.classes,
        )
        result = finish(description, stage, stage, holdout)
        shutil.rmtree(stage / ".cvat", ignore_errors=True)
        return result


@dataclass(frozen=True, eq=False)
class CvatLabelMap:
    """What labelmap.txt says."""

    classes: tuple[ClassRow, ...]  # in the order of the file, without an ignored background
    codes: ColorCodes  # by colour
    rows: MaskTable  # by row number, for one-channel masks that hold them
    colors: frozenset[Color]  # every colour that has a meaning

    def label_set(self) -> LabelSet:
        """Names and colours for the written masks."""
        colors = tuple(row.color or BLACK for row in self.classes)
        return LabelSet("cvat", tuple(row.name for row in self.classes), colors, (False,) * len(colors))


def read_label_map(path: Path, source: Path, background_class: bool) -> CvatLabelMap:
    """Read labelmap.txt.

    Raises:
        DataError: it is missing, or a row has no colour or one that another row has.
    """
    if not path.is_file():
        raise DataError(f"{source}: no labelmap.txt in it; export from CVAT as 'Segmentation mask 1.1'")
    rows = [_row(path, line) for line in read_list(path) if not line.startswith("#")]
    is_background = [row.name.lower() == _BACKGROUND for row in rows]
    if background_class and not any(is_background):
        raise DataError(f"{path}: has no row 'background'; leave out --background-class, or add the row background:0,0,0::")
    kept = [row for row, background in zip(rows, is_background, strict=True) if background_class or not background]
    ignored = {row.color or BLACK for row in rows if row not in kept} | {BLACK} - {row.color for row in kept}
    codes = color_codes(tuple(row.color or BLACK for row in kept), tuple(sorted(ignored)))
    ids = np.full(256, IGNORE, np.uint8)
    ids[: len(rows)] = [kept.index(row) if row in kept else IGNORE for row in rows]
    known = np.arange(256) < len(rows)
    return CvatLabelMap(tuple(kept), codes, MaskTable(ids, known), frozenset({row.color or BLACK for row in kept} | ignored))


def _row(path: Path, line: str) -> ClassRow:
    parts = line.rsplit(":", 3)
    if len(parts) != 4 or not parts[0].strip():
        raise DataError(f"{path}: line {line!r} is not of the form name:r,g,b:parts:actions; export again from CVAT")
    return ClassRow(name=parts[0].strip(), color=parse_color(parts[1], path, line))


def _masks(unpacked: Path, source: Path) -> dict[PurePosixPath, Path]:
    """Name below SegmentationClass without suffix -> file."""
    folder = unpacked / _MASKS
    files = sorted(path for path in folder.rglob("*.png") if not path.name.startswith("."))
    if not files:
        raise DataError(f"{source}: no masks in {_MASKS}; export from CVAT as 'Segmentation mask 1.1' after labelling")
    return {PurePosixPath(path.relative_to(folder).with_suffix("")): path for path in files}


def _video(frames: Path | None, out: Path) -> VideoRow | None:
    return video_row(frames.resolve(), out, []) if frames is not None and frames.is_file() else None


def _pictures(unpacked: Path, source: Path, frames: Path | None, target: Path, name: str) -> str | None:
    """The folder of pictures as the description names it; those of the export are copied to one folder a video."""
    if frames is not None:
        if not frames.exists():
            raise DataError(f"{frames}: no such file or folder; give the folder of frames, or the video")
        return None if frames.is_file() else frames.resolve().as_posix()
    folder = unpacked / _PICTURES
    pictures = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not pictures:
        raise DataError(f"{source}: holds masks but no pictures; give their folder or video with --frames, or export with images")
    for path in pictures:
        video, frame = _place(PurePosixPath(path.relative_to(folder)), name)
        (target / video).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / video / frame)
    return "frames"


def _place(path: PurePosixPath, name: str) -> tuple[str, str]:
    """Video and file name of a picture or mask; those in no folder belong to the video `name`."""
    return "_".join(path.parts[:-1]) or name, path.name


def _convert(masks: dict[PurePosixPath, Path], label_map: CvatLabelMap, out: Path, name: str, video: VideoRow | None, source: Path) -> None:
    """Write every mask as an index PNG under the name of its frame."""
    classes, by_row = label_map.label_set(), _grey_holds_rows(masks, label_map)
    for key, path in track(masks.items(), "converting masks", total=len(masks)):
        folder, frame = (video.name, _frame_number(key, source, video)) if video else _place(key, name)
        write_mask(out / folder / f"{frame}.png", _labels(path, label_map, by_row), classes)


def _labels(path: Path, label_map: CvatLabelMap, by_row: bool) -> UInt8[np.ndarray, "H W"]:
    if by_row and _is_grey(path):
        return label_map.rows.apply(read_mask(path), path)
    return label_map.codes.apply(read_colors(path), path)


def _is_grey(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(26)[25:] == b"\x00"  # colour type in the header of a PNG


def _grey_holds_rows(masks: dict[PurePosixPath, Path], label_map: CvatLabelMap) -> bool:
    """Whether the one-channel masks hold row numbers of the label map. A grey that is a colour of the map is that colour."""
    values = {int(value) for path in masks.values() if _is_grey(path) for value in np.unique(read_mask(path))}
    if all((value, value, value) in label_map.colors for value in values):
        return False
    say("masks of one channel: their values are no colours of labelmap.txt, they are read as its row numbers, from 0")
    return True


def _frame_number(key: PurePosixPath, source: Path, video: VideoRow) -> str:
    digits = re.search(r"(\d+)$", key.name)
    if not digits or int(digits[1]) >= video.frames:
        detail = f"mask {key.name!r} does not name a frame of {video.name}, which has {video.frames}"
        raise DefectError(source, "missing_frame", detail, "mask names end in the frame number, from 0; give the right video")
    return stem(int(digits[1]))


def _splits(unpacked: Path, name: str, video: VideoRow | None) -> dict[str, tuple[str, ...] | str]:
    """CVAT's subsets (Train, Validation, ...) as splits; everything is "train" without subsets."""
    lists = {path.stem.lower(): path for path in sorted((unpacked / _LISTS).glob("*.txt"))}
    lists.pop("default", None)
    if not lists or video or "train" not in lists:
        return {"train": "all"}
    return {split: tuple("/".join(_place(PurePosixPath(line), name)) for line in read_list(path)) for split, path in lists.items()}
