"""A data set with large frames in, a copy of the same kind with smaller ones out: what training decodes at every step is then small.

Frames are shrunk by area means and stored as JPEG, masks by nearest neighbour as index PNGs (ids 0..C-1 of the classes, so what a source
calls otherwise is read once); lists and class files are copied. Frames that are small enough are copied as they are. A record for each
finished video, in ``<out>/.cache``, holds its files' sizes and times, and SHA-256 of pictures: a second call goes on behind it, and makes
frames anew whose files have changed.
"""

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from semivss.atomic import atomic_bytes, atomic_file, atomic_json, demand_folder
from semivss.data.clips import Clip, VideoDataset
from semivss.data.description import FILE_NAME, Masks, load_description, save_description
from semivss.data.detect import detect_kind
from semivss.data.files import FileClip
from semivss.data.folder import read_folder
from semivss.data.policy import DefectCounter, Policy, read_pair
from semivss.data.remap import Encoding, write_mask
from semivss.data.video_clip import VideoClip
from semivss.data.vspw import read_vspw
from semivss.digest import file_sha256
from semivss.errors import DataError
from semivss.lock import locked
from semivss.progress import say, track
from semivss.wording import counted

_RECORDS = ".cache"
_FRAMES, _MASKS = "frames", "masks"  # of a described folder's copy
_LISTS = ("*.txt", "*.json", "semi/*.txt")  # of a root in the VSPW layout


@dataclass(frozen=True)
class _Target:
    """Where a clip's copies go, and how."""

    frames: Path
    masks: Path
    encoding: Encoding
    short_side: int
    quality: int


def cache_copies(source: Path, out: Path, short_side: int, *, quality: int = 95, policy: Policy = "strict") -> int:
    """Copy every frame and mask of `source` that one of its splits names, with shorter sides of at most `short_side`; returns their frames.

    Args:
        source: a folder in the VSPW layout, or one with dataset.toml.
        out: a new folder, or one that an earlier call began.
        short_side: pixels; the other side follows, rounded.
        quality: of JPEGs, 1..100, colours at full resolution.
        policy: what happens to damaged files: strict stops, skip and ignore leave the frame out.

    Raises:
        DataError: another kind of data set, `out` lies in `source`, or holds copies of something else or of another size.
        DefectError: a damaged file, under strict; what was made before it stays.
    """
    source, out = Path(source), Path(out)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; give a data set in the VSPW layout or one with {FILE_NAME}")
    root = source if source.is_dir() else source.parent
    if out.resolve() == root.resolve() or root.resolve() in out.resolve().parents:
        raise DataError(f"{out}: lies in the data set that is read; choose another folder")
    kind = detect_kind(source)
    if kind not in ("vspw", "folder"):
        raise DataError(
            f"{source}: copies are made of the VSPW layout and of folders with {FILE_NAME}, not of {kind}; train from it as it is"
        )
    demand_folder(out)
    with locked(out):
        _begin(out, {"source": str(root.resolve()), "short_side": short_side, "quality": quality})
        made = _vspw(root, out, short_side, quality, policy) if kind == "vspw" else _described(source, out, short_side, quality, policy)
    say(f"copied {counted(made, 'frame')} to {out}; look at them with: semivss data check {out}")
    return made


def _begin(out: Path, job: dict[str, Any]) -> None:
    file = out / _RECORDS / "job.json"
    if file.exists():
        try:
            before = json.loads(file.read_text())
        except ValueError:
            before = {}
        changed = [f"{name} ({before.get(name)}, not {job[name]})" for name in job if before.get(name) != job[name]]
        if changed and any(path.name != file.name for path in file.parent.iterdir()):
            raise DataError(f"{out}: holds copies made with other {', '.join(changed)}; choose another folder")
    elif any(entry for entry in out.iterdir() if not entry.name.startswith(".")):
        raise DataError(f"{out}: is not empty; choose a new folder")
    atomic_json(file, job)
    for left in out.rglob(".*.tmp"):  # by a process that died
        left.unlink(missing_ok=True)


def _vspw(root: Path, out: Path, short_side: int, quality: int, policy: Policy) -> int:
    splits = [name for name in ("train", "val", "test") if (root / f"{name}.txt").is_file()] or ["train"]
    sets = [read_vspw(root, split, policy=policy) for split in splits]
    targets = (
        (clip, _Target(out / "data" / clip.name / "origin", out / "data" / clip.name / "mask", "vspw", short_side, quality))
        for clip in _clips(sets)
    )
    made = _copy_all(targets, len(_clips(sets)), sets[0], out, policy)
    for path in sorted(path for pattern in _LISTS for path in root.glob(pattern)):
        atomic_bytes(out / path.relative_to(root), path.read_bytes())
    return made


def _described(source: Path, out: Path, short_side: int, quality: int, policy: Policy) -> int:
    file = source / FILE_NAME if source.is_dir() else source
    description = load_description(file)
    sets = [read_folder(file, split, policy=policy) for split in description.splits]
    targets = ((clip, _Target(out / _FRAMES / clip.name, out / _MASKS / clip.name, "ids", short_side, quality)) for clip in _clips(sets))
    made = _copy_all(targets, len(_clips(sets)), sets[0], out, policy)
    splits: dict[str, tuple[str, ...] | str] = {}
    for name, rule in description.splits.items():
        listed = isinstance(rule, str) and rule != "all"
        splits[name] = f"{name}.txt" if listed else rule
        if listed:
            atomic_bytes(out / f"{name}.txt", (file.parent / str(rule)).read_bytes())
    for path in sorted(file.parent.glob("*.txt")):  # lists of labelled frames that recipes name
        if path.name not in splits.values():
            atomic_bytes(out / path.name, path.read_bytes())
    masks = Masks(folder=_MASKS) if description.masks else None
    copied = description.model_copy(update={"frames": _FRAMES, "masks": masks, "videos": (), "splits": splits})
    save_description(copied, out / FILE_NAME)
    return made


def _clips(sets: Sequence[VideoDataset]) -> list[Clip]:
    """Every clip of the splits; where two name different frames of a video, each has its turn."""
    return [clip for dataset in sets for clip in dataset.clips]


def _copy_all(targets: Iterable[tuple[Clip, _Target]], total: int, dataset: VideoDataset, out: Path, policy: Policy) -> int:
    made, defects = 0, DefectCounter()
    there: dict[str, tuple[_Target, dict[str, Any]]] = {}  # of each video, all frames that a split names
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding, resizing and compressing let go of the interpreter
        for clip, target in track(targets, "copy", total=total, unit="videos"):
            target.frames.mkdir(parents=True, exist_ok=True)
            record = out / _RECORDS / f"{clip.name}.json"
            try:
                before = json.loads(record.read_text()) if record.exists() else {}
            except ValueError:
                before = {}
            one = partial(_copy, clip, target, dataset, policy, defects, before)
            lines = pool.map(one, range(len(clip.stems))) if isinstance(clip, FileClip) else map(one, range(len(clip.stems)))
            found = {stem: line for stem, line in zip(clip.stems, lines, strict=True) if line is not None}
            atomic_json(record, before | found)
            made += len(found)
            there[clip.name] = (target, there.get(clip.name, (target, {}))[1] | found)
    for name, (target, frames) in there.items():
        _clear(target, frames)
        atomic_json(out / _RECORDS / f"{name}.json", frames)
    if defects:
        say(f"left out, or without their masks: {defects}")
    return made


def _clear(target: _Target, frames: Mapping[str, Any]) -> None:
    """Remove copies of what the source no longer has."""
    for folder in (target.frames, target.masks):
        for path in folder.glob("[!.]*"):
            if path.stem not in frames:
                path.unlink()


def _copy(
    clip: Clip, target: _Target, dataset: VideoDataset, policy: Policy, defects: DefectCounter, before: dict[str, Any], index: int
) -> dict[str, Any] | None:
    """Make one frame's files, unless they are there; its line of the record, none if it is left out."""
    stem, sources = clip.stems[index], list(_sources(clip, index))
    state = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sources if path.exists()]
    copied = target.frames / f"{stem}.jpg"
    kept = [path for path in target.frames.glob(f"{glob.escape(stem)}.*") if path.stem == stem]
    whole = bool(kept) and (not clip.is_labelled(index) or (target.masks / f"{stem}.png").exists())
    if whole and before.get(stem, {}).get("sources") == state:
        return dict(before[stem])
    pair, found = read_pair(clip, index, policy)
    defects.add(found)
    if pair is None:
        return None
    height, width = pair.frame.shape[:2]
    scale = target.short_side / min(height, width)
    if scale >= 1 and isinstance(clip, FileClip):
        copied = target.frames / sources[0].name
        atomic_bytes(copied, sources[0].read_bytes(), sync=False)
    else:
        _write_jpeg(copied, _shrunk(pair.frame, scale, cv2.INTER_AREA), target.quality)
    mask = target.masks / f"{stem}.png"
    if pair.labels is None:
        mask.unlink(missing_ok=True)
    else:
        target.masks.mkdir(parents=True, exist_ok=True)
        write_mask(mask, _shrunk(pair.labels, scale, cv2.INTER_NEAREST_EXACT), dataset.label_set, target.encoding)
    for other in kept:
        if other != copied:
            other.unlink()
    return {"sources": state, "sha256": [file_sha256(path) for path in sources] if isinstance(clip, FileClip) else []}


def _sources(clip: Clip, index: int) -> Iterator[Path]:
    """The files that a frame and its mask come from."""
    if isinstance(clip, FileClip):
        yield clip.frames[index]
    elif isinstance(clip, VideoClip):
        yield clip.path
    mask = clip.masks[index] if isinstance(clip, FileClip | VideoClip) else None
    if mask is not None:
        yield mask


def _shrunk(image: np.ndarray, scale: float, interpolation: int) -> np.ndarray:
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=interpolation))


def _write_jpeg(path: Path, frame: UInt8[np.ndarray, "H W 3"], quality: int) -> None:
    with atomic_file(path, sync=False) as file:
        Image.fromarray(frame).save(file, "JPEG", quality=quality, subsampling=0)
