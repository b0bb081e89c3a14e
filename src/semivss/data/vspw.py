"""A folder in the VSPW layout in, clips out.

Layout: ``<root>/{train,val,test}.txt`` (one video a line), ``<root>/data/<video>/origin/*.jpg`` and, where there are labels,
``<root>/data/<video>/mask/*.png`` with the stems of the frames. A mask holds class id + 1; 0 ("others") and 255 (void) are ignored.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from semivss.data.clips import VideoDataset
from semivss.data.files import FileClip, IndexReader
from semivss.data.labels import LabelSet, distinct_colors, label_set, offset_table, vspw124
from semivss.data.lists import Selection, image_files
from semivss.data.policy import Policy
from semivss.errors import DataError, DefectError

_CLASSES = "label_num_dic_final.json"
_SPLITS = ("train", "val", "test")


def read_vspw(root: Path, split: str, *, labelled: str | None = None, policy: Policy = "strict") -> VideoDataset:
    """Open one split; frames and masks are read later.

    The frames of a video are those in its frame folder. A frame without a mask is kept as unlabelled, a mask without a frame is left
    out; where the split has masks at all, both are listed in `defects`. The EXIF orientation of frames is not applied.

    Args:
        root: the folder that holds `data/`.
        split: train, val or test, for the list of that name, or the path of a list relative to `root`. Lines are `<video>`, or
            `<video>/<stem>` for single frames. A root without any of the three lists is one split with every video.
        labelled: a list of the same form, relative to `root`: no other mask is opened.
        policy: strict raises for a listed video or frame that is missing; skip and ignore record it.

    Raises:
        DataError: a folder, list or class list is missing, empty or wrong.
    """
    root = Path(root)
    if not (root / "data").is_dir():
        raise DataError(f"{root}: no folder 'data' with one folder a video; give the folder that holds train.txt and data/")
    selection = _selection(root, split)
    allowed = Selection.read(root / labelled) if labelled else None
    defects = _Defects(policy)
    reader = IndexReader(offset_table(len(classes := read_classes(root)), 1))
    clips = tuple(clip for video in selection.videos if (clip := _clip(root, video, selection, allowed, reader, defects)))
    if not clips:
        raise DataError(f"{root}: no frames in split {split}; expected pictures in data/<video>/origin")
    if allowed is None:
        _check_masks(root, clips, defects)
    _check_selection(selection, {clip.name: clip.stems for clip in clips}, defects)
    if allowed:
        _check_labelled(allowed, {clip.name: clip for clip in clips}, defects)
    return VideoDataset(root.resolve().name, classes, clips, defects.files)


class _Defects:
    """Collects what had to be left out; under strict a defect that `demand` reports is raised."""

    def __init__(self, policy: Policy) -> None:
        self.files: dict[str, list[str]] = {}
        self._strict = policy == "strict"

    def note(self, kind: str, path: Path | str) -> None:
        self.files.setdefault(kind, []).append(str(path))

    def demand(self, kind: str, path: Path, detail: str, remedy: str, line: str = "") -> None:
        """`line` is the one of the list `path` that cannot be met."""
        if self._strict:
            raise DefectError(path, kind, detail, remedy)
        self.note(kind, f"{path}: {line}" if line else path)


def _selection(root: Path, split: str) -> Selection:
    path = root / (split if split.endswith(".txt") else f"{split}.txt")
    lists = [f"{name}.txt" for name in _SPLITS if (root / f"{name}.txt").is_file()]
    if path.is_file():
        return Selection.read(path)
    if lists or split not in _SPLITS:
        remedy = f"the folder has {', '.join(lists)}" if lists else "without lists, only train, val and test stand for every video"
        raise DataError(f"{path}: no such list; {remedy}")
    videos = sorted(folder.name for folder in (root / "data").iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not videos:
        raise DataError(f"{root / 'data'}: no videos; expected one folder a video")
    return Selection(root / "data", dict.fromkeys(videos))


def _clip(
    root: Path, video: str, selection: Selection, allowed: Selection | None, reader: IndexReader, defects: _Defects
) -> FileClip | None:
    folder = root / "data" / video
    if not folder.is_dir():
        detail = f"video {video} has no folder {folder}"
        defects.demand("missing_video", selection.path, detail, "correct the list, or add the video", video)
        return None
    frames = {stem: path for stem, path in image_files(folder / "origin").items() if selection.allows(video, stem)}
    if not frames:
        defects.demand("empty_video", folder / "origin", "no frames", "add .jpg or .png frames there, or take the video off the list")
        return None
    masks = image_files(folder / "mask", (".png",))
    if masks:
        _compare(video, frames, masks, selection, allowed, defects, folder)
    opened = (masks.get(stem) if allowed is None or allowed.allows(video, stem) else None for stem in frames)
    return FileClip(video, tuple(frames), tuple(frames.values()), tuple(opened), reader)


def _compare(
    video: str,
    frames: Mapping[str, Path],
    masks: Mapping[str, Path],
    selection: Selection,
    allowed: Selection | None,
    defects: _Defects,
    folder: Path,
) -> None:
    """Record frames that should have a mask and masks that have no frame."""
    if allowed is None:
        for stem in sorted(frames.keys() - masks.keys()):
            defects.note("missing_mask", folder / "mask" / f"{stem}.png")
    for stem in sorted(masks.keys() - frames.keys()):
        if selection.allows(video, stem):
            defects.note("missing_frame", masks[stem])


def _check_masks(root: Path, clips: Sequence[FileClip], defects: _Defects) -> None:
    """Record videos without a single mask, unless no video has one, as in the test split."""
    bare = [clip for clip in clips if not any(clip.masks)]
    for clip in bare if len(bare) < len(clips) else ():
        defects.note("missing_mask", root / "data" / clip.name / "mask")


def _check_selection(selection: Selection, present: Mapping[str, tuple[str, ...]], defects: _Defects) -> None:
    for line in selection.missing(present):
        if "/" in line:  # missing videos are recorded already
            defects.demand("listed_frame", selection.path, f"frame {line} does not exist", "correct the list, or add the frame", line)


def _check_labelled(allowed: Selection, clips: Mapping[str, FileClip], defects: _Defects) -> None:
    """A list of labelled frames promises masks: each must be a frame of the split with a mask."""
    masks = {name: {stem for stem, mask in zip(clip.stems, clip.masks, strict=True) if mask} for name, clip in clips.items()}
    for line in allowed.missing(masks):
        video, _, stem = line.partition("/")
        known = video in clips and (not stem or stem in clips[video].stems)
        kind, detail = ("missing_mask", "has no mask") if known else ("listed_frame", "is not in the split")
        what = f"labelled {'frame' if stem else 'video'} {line} {detail}"
        defects.demand(kind, allowed.path, what, "correct the list, or add the files", line)


def read_classes(root: Path) -> LabelSet:
    """The classes of a set in the VSPW layout: VSPW-124, unless `label_num_dic_final.json` in `root` lists others.

    That file maps each class name to its mask value as text, "others" to "0". Colours come from `categories.json` where it exists.

    Raises:
        DataError: the file is not of that form.
    """
    path = root / _CLASSES
    if not path.is_file():
        return vspw124()
    table = _json(path)
    try:
        values = {str(name): int(value) for name, value in table.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f'{path}: not of the form {{"class": "mask value", ...}}; correct it, or remove it for the 124 classes of VSPW'
        ) from error
    names = tuple(name for name, value in sorted(values.items(), key=lambda item: item[1]) if value not in (0, 255))
    if [values[name] for name in names] != list(range(1, len(names) + 1)):
        raise DataError(f"{path}: mask values must be 1, 2, 3, ... without gaps (0 is for others); correct the list")
    for known in ("vspw124", "camvid11"):
        if names == label_set(known).names:
            return label_set(known)
    things = dict(zip(vspw124().names, vspw124().things, strict=True))
    return LabelSet(root.resolve().name, names, _colors(root / "categories.json", names), tuple(things.get(name, False) for name in names))


def _colors(path: Path, names: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    if not path.is_file():
        return distinct_colors(len(names))
    try:
        colors = {row["name"]: tuple(int(channel) for channel in row["color"]) for row in _json(path)}
        chosen = tuple((colors[name][0], colors[name][1], colors[name][2]) for name in names)
        bytes(channel for color in chosen for channel in color)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{path}: needs a name and a color of three numbers 0..255 for each class; correct it, or remove it") from error
    return chosen


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); correct it, or copy it again") from error
