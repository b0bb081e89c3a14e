"""Somebody's own frames or videos with their masks: a folder with dataset.toml in, clips out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt32

from semivss.data.clips import Clip, VideoDataset
from semivss.data.description import FILE_NAME, Color, Description, Masks, VideoRow, load_description
from semivss.data.files import FileClip, IndexReader, LabelReader
from semivss.data.images import read_color_mask, read_mask
from semivss.data.labels import IGNORE, LabelSet, MaskTable, StrayValuesError
from semivss.data.lists import Selection, image_files
from semivss.data.policy import Policy
from semivss.data.video import stem
from semivss.data.video_clip import OpenDecoders, VideoClip
from semivss.errors import DataError, DefectError

_PNG = (".png",)
LEFT_OUT = {  # kind -> what it is and the remedy
    "missing_frame": (
        "the mask has no frame",
        "add the frame, or rename or remove the mask (one of a video file has the frame's number for a name: 00000000.png is the first)",
    ),
    "empty_video": ("the folder holds no frames", "add .jpg or .png frames, or remove the folder"),
}


def read_folder(path: Path | str, split: str, *, labelled: str | None = None, policy: Policy = "strict") -> VideoDataset:
    """Open one split of the data set that a dataset.toml describes; frames and masks are read later.

    Pictures lie in `<frames>/<video>/<stem>.jpg` with masks in `<masks>/<video>/<stem>.png`; pictures right in `<frames>` are one video
    named after the data set, with masks right in `<masks>`. The masks of a video file are `<masks>/<video>/<frame number>.png`.

    Args:
        path: the folder of dataset.toml, or that file.
        split: a name in its splits.
        labelled: a list of `<video>` or `<video>/<stem>` lines, relative to the description: no other mask is opened.
        policy: strict raises for a listed video or frame that is missing, for a mask without a frame and for a video without frames;
            skip and ignore record them.

    Raises:
        DataError: the description, a folder or a list is missing or wrong; the message names it.
    """
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    if not Path(path).exists():
        raise DataError(f"{path}: no such folder; correct the path of the data set")
    if not file.is_file():
        raise DataError(f"{file}: no description of the data set; write it with `semivss data import FRAMES OUT --masks ... --classes ...`")
    return open_description(load_description(file), file, split, labelled=labelled, policy=policy)


def open_description(
    description: Description, file: Path, split: str, *, labelled: str | None = None, policy: Policy = "strict"
) -> VideoDataset:
    """As `read_folder`, for a description that is or would be in `file`."""
    root, classes = file.parent, description.label_set()
    selection = _selection(description, file, split)
    allowed = Selection.read(root / labelled) if labelled else None
    found = _Found(description, root, label_reader(description.masks, classes) if description.masks else None, allowed)
    names = list(selection.videos) or found.names()
    clips = [clip for name in names if (clip := found.clip(name, selection)) is not None]
    _demand(selection, {clip.name: clip.stems for clip in clips}, policy, found.defects, "frame")
    if allowed:
        masks = {clip.name: [stem for index, stem in enumerate(clip.stems) if clip.is_labelled(index)] for clip in clips}
        _demand(allowed, masks, policy, found.defects, "mask")
    found.check_masks(any(clip.is_labelled(index) for clip in clips for index in range(len(clip.stems))) or bool(selection.videos))
    if policy == "strict":
        refuse_left_out(found.defects)
    if not clips:
        where = root / description.frames if description.frames else file
        raise DataError(f"{where}: no frames for split {split!r}; put pictures there in one folder a video, or correct {file.name}")
    return VideoDataset(description.name, classes, tuple(clips), found.defects)


class _Found:
    """What lies in the folders of a description."""

    def __init__(self, description: Description, root: Path, reader: LabelReader | None, allowed: Selection | None) -> None:
        self.defects: dict[str, list[str]] = {}
        self._name, self._root, self._reader, self._allowed = description.name, root, reader, allowed
        self._frames = root / description.frames if description.frames else None
        self._masks = root / description.masks.folder if description.masks else None
        self._videos = {row.name: row for row in description.videos}
        self._decoders = OpenDecoders()
        for folder in (self._frames, self._masks):
            if folder is not None and not folder.is_dir():
                raise DataError(f"{folder}: no such folder; correct the path in {root / FILE_NAME}")

    def names(self) -> list[str]:
        """Every video: files of the description first, then folders of pictures by name."""
        if self._frames is None:
            return list(self._videos)
        others = {folder.resolve() for folder in (self._root, self._masks) if folder is not None}  # they may lie among the frames
        entries = [entry for entry in self._frames.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        folders = sorted(entry.name for entry in entries if entry.resolve() not in others)
        flat = [self._name] if image_files(self._frames) else []
        return list(self._videos) + flat + folders

    def clip(self, name: str, selection: Selection) -> Clip | None:
        """The video `name` with the frames of the selection; none if there are no such frames."""
        if name in self._videos:
            return self._video(self._videos[name], selection)
        pictures = self._pictures(name)
        if not pictures and self._frames is not None and not selection.videos:
            self._note("empty_video", self._frames / name)
        frames = {stem: path for stem, path in pictures.items() if not selection.videos or selection.allows(name, stem)}
        if not frames:
            return None
        masks = self._masks_of(name, pictures)
        return FileClip(name, tuple(frames), tuple(frames.values()), tuple(masks.get(stem) for stem in frames), self._reader or _no_labels)

    def _pictures(self, name: str) -> dict[str, Path]:
        if self._frames is None:
            return {}
        return image_files(self._frames / name) or (image_files(self._frames) if name == self._name else {})

    def _video(self, row: VideoRow, selection: Selection) -> VideoClip:
        masks = self._masks_of(row.name, {stem(index) for index in range(row.frames)})
        chosen = {int(name): path for name, path in masks.items() if not selection.videos or selection.allows(row.name, name)}
        return VideoClip(self._root / row.file, row.frames, row.name, chosen, self._reader, self._decoders)

    def _masks_of(self, name: str, stems: Collection[str]) -> dict[str, Path]:
        """Masks of these frames that may be opened. Masks of no frame are recorded; frames without a mask are unlabelled, which is fine."""
        if self._masks is None:
            return {}
        found = image_files(self._masks / name, _PNG) or (image_files(self._masks, _PNG) if name == self._name else {})
        for orphan in sorted(found.keys() - set(stems)) if self._allowed is None else ():
            self._note("missing_frame", found[orphan])
        return {key: path for key, path in found.items() if key in stems and (self._allowed is None or self._allowed.allows(name, key))}

    def check_masks(self, labelled: bool) -> None:
        """Record masks of videos that are not there. Raises DataError if none of the masks belongs to a frame."""
        if self._masks is None or self._allowed is not None:
            return
        masks = [path for path in sorted(self._masks.rglob("*.png")) if not path.name.startswith(".")]
        if not masks:
            raise DataError(f"{self._masks}: holds no mask (.png); add the masks, or take [masks] out of the description")
        if not labelled:
            raise DataError(f"{masks[0]}: none of the masks has the name of a frame; give mask and frame the same folder and stem")
        names = set(self.names())
        for path in masks:
            place = path.relative_to(self._masks).parent.as_posix()
            if place not in names and not (place == "." and self._name in names):
                self._note("missing_frame", path)

    def _note(self, kind: str, path: Path) -> None:
        self.defects.setdefault(kind, []).append(str(path))


def refuse_left_out(defects: Mapping[str, Sequence[str]]) -> None:
    """Raise DefectError if frames or masks would be left out: labels that somebody drew, and that would not be learnt from."""
    for kind, (detail, remedy) in LEFT_OUT.items():
        if files := defects.get(kind):
            more = f" ({len(files)} such {'masks' if kind == 'missing_frame' else 'folders'})" if len(files) > 1 else ""
            raise DefectError(files[0], kind, detail + more, remedy)


def _no_labels(path: Path) -> UInt8[np.ndarray, "H W"]:
    raise DataError(f"{path}: the data set has no masks")


def _selection(description: Description, file: Path, split: str) -> Selection:
    """The videos and frames of a split; no videos stand for all."""
    if split not in description.splits:
        remedy = "; import it again with --val-share 0.2 --force, or do without with -o data.val=" if split == "val" else ""
        raise DataError(f"{file}: no split {split!r}; it has {', '.join(description.splits) or 'none'}{remedy}")
    rule = description.splits[split]
    if rule == "all":
        return Selection(file, {})
    if isinstance(rule, str):
        return Selection.read(file.parent / rule)
    if not rule:
        raise DataError(f'{file}: split {split!r} is empty; list its videos, or write {split} = "all"')
    return Selection.of(file, rule)


def _demand(wanted: Selection, present: Mapping[str, object], policy: Policy, defects: dict[str, list[str]], what: str) -> None:
    for line in wanted.missing(present):  # type: ignore[arg-type]
        kind = {"mask": "missing_mask", "frame": "listed_frame" if "/" in line else "missing_video"}[what]
        if policy == "strict":
            raise DefectError(wanted.path, kind, f"{line} is listed, but has no {what}s", "correct the list, or add the files")
        defects.setdefault(kind, []).append(f"{wanted.path}: {line}")


def label_reader(masks: Masks, classes: LabelSet) -> LabelReader:
    """How the masks of a description become training ids."""
    if masks.encoding == "ids":
        return IndexReader(id_table(len(classes), masks.offset, masks.ignore))
    return ColorReader(color_codes(classes.colors, masks.ignore_colors))


def id_table(classes: int, offset: int, ignore: tuple[int, ...]) -> MaskTable:
    """The table of masks that store id + `offset`, with the values `ignore` read as 255. Every other value is unknown."""
    ids, known = np.full(256, IGNORE, np.uint8), np.zeros(256, bool)
    ids[offset : offset + classes], known[offset : offset + classes] = np.arange(classes), True
    ids[list(ignore)], known[list(ignore)] = IGNORE, True
    return MaskTable(ids, known)


@dataclass(frozen=True, eq=False)
class ColorCodes:
    """Exact colours and the ids they stand for."""

    keys: UInt32[np.ndarray, "K"]  # 65536 R + 256 G + B, ascending
    ids: UInt8[np.ndarray, "K"]

    def apply(self, colors: UInt8[np.ndarray, "H W 3"], path: Path) -> UInt8[np.ndarray, "H W"]:
        """Training ids of a colour-coded mask.

        Raises:
            StrayValuesError: kind unknown_color; the error carries the ids with 255 there.
        """
        packed = pack_colors(colors)
        place = np.searchsorted(self.keys, packed).clip(max=len(self.keys) - 1)
        known = self.keys[place] == packed
        labels = np.where(known, self.ids[place], np.uint8(IGNORE))
        if not known.all():
            raise _stray(path, packed[~known], labels)
        return labels


def color_codes(classes: tuple[Color, ...], ignore: tuple[Color, ...]) -> ColorCodes:
    """Codes of the class colours in the order of their ids, and of colours to ignore.

    Raises:
        DataError: two classes share a colour, or an ignored colour is a class's.
    """
    every = [*classes, *ignore]
    if len(set(every)) != len(every):
        twice = next(color for color in every if every.count(color) > 1)
        raise DataError(f"colour {','.join(map(str, twice))} stands for two classes (or for a class and ignore); give each its own")
    keys = pack_colors(np.array(every, np.uint8)[None])[0]
    ids = np.array([*range(len(classes)), *[IGNORE] * len(ignore)], np.uint8)
    order = np.argsort(keys)
    return ColorCodes(keys[order], ids[order])


def pack_colors(colors: UInt8[np.ndarray, "H W 3"]) -> UInt32[np.ndarray, "H W"]:
    """65536 R + 256 G + B."""
    wide = colors.astype(np.uint32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _stray(path: Path, packed: UInt32[np.ndarray, "N"], labels: UInt8[np.ndarray, "H W"]) -> StrayValuesError:
    values, counts = np.unique(packed, return_counts=True)
    most = int(values[counts.argmax()])
    color = f"{most >> 16},{most >> 8 & 255},{most & 255}"
    more = f" and {len(values) - 1} other colours" if len(values) > 1 else ""
    remedy = "add it to the classes or ignore_colors of dataset.toml"
    error = StrayValuesError(path, "unknown_color", f"colour {color} ({counts.max()} pixels){more} stands for no class", remedy, "ignore")
    error.labels = labels
    return error


@dataclass(frozen=True, eq=False)
class ColorReader:
    """Reads colour-coded PNGs: RGB, palette (by the palette's colours) or grey (a grey value v is the colour v,v,v)."""

    codes: ColorCodes

    def __call__(self, path: Path) -> UInt8[np.ndarray, "H W"]:
        """Training ids. Raises DefectError for a damaged file and StrayValuesError for colours without a meaning."""
        return self.codes.apply(read_colors(path), path)


def read_colors(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The colours of a mask, whichever way the PNG stores them. Raises DefectError for a damaged file."""
    try:
        return read_color_mask(path)
    except DefectError as error:
        if error.kind != "mask_grey":
            raise
        return np.repeat(read_mask(path)[..., None], 3, axis=2)
