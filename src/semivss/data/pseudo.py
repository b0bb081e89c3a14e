"""A folder of pseudo labels in; the labels, entropy codes and likely classes of any of its frames out, checked against its manifest.

`infer/pseudo.py` writes the folder and describes its files. A label file whose content is no longer the recorded one was corrected by
hand: its pixels are all certain (code 0, which no model's entropy has here), whatever its entropy file says, because a person looked at
them; 255 stays "ignore".
"""

import contextlib
import functools
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8, UInt16

from semivss.data.clips import VideoDataset
from semivss.data.codes import BINS, class_thresholds
from semivss.data.images import read_codes, read_mask
from semivss.data.labels import IGNORE, LabelSet
from semivss.data.policy import Policy
from semivss.digest import file_sha256
from semivss.errors import DataError, DefectError
from semivss.progress import track

KIND = "pseudo labels"  # what the manifest says it is one of
HISTOGRAM = "histogram.npz"
ENTROPY, TOP, CONFIDENCE = "entropy", "top_classes", "confidence"  # folders beside those of the videos
HISTOGRAMS, RECORDS = "histograms", "records"
_AGAIN = "label again: semivss run with --again, or the same semivss pseudo-label command"


@dataclass(frozen=True, eq=False)
class PseudoFolder:
    """Pseudo labels of some videos, read frame by frame. Frames go by (video, stem)."""

    folder: Path
    label_set: LabelSet
    histogram: Int64[np.ndarray, "C 4096"]  # pixels of each pseudo class by entropy code, as they were labelled
    stems: Mapping[str, frozenset[str]]  # labelled frames of each video
    edited: tuple[str, ...]  # "<video>/<stem>" of frames whose labels were corrected by hand, in the manifest's order
    made_from: Mapping[str, Any]  # hashes and weights of the models, views, window
    damaged: frozenset[str]  # videos of which frames could not be read
    states: Mapping[str, tuple[int, ...]]  # of every file, by its path in the folder, when they were compared with their hashes

    @functools.cached_property
    def _edited(self) -> frozenset[str]:
        return frozenset(self.edited)

    def labels(self, video: str, stem: str) -> UInt8[np.ndarray, "H W"]:
        """The arg max of every pixel, or what a person made of it; 255 only where a person wrote it.

        Raises:
            DefectError: the file is gone or damaged, or holds an id that is neither a class nor 255.
            DataError: it changed since the folder was opened.
        """
        path = self.folder / video / f"{stem}.png"
        labels = read_mask(path)
        self._check_unchanged(f"{video}/{stem}.png")
        stray = (labels >= len(self.label_set)) & (labels != IGNORE)
        if stray.any():
            worst, pixels = int(labels[stray].max()), int(stray.sum())
            detail = f"holds the id {worst} ({pixels} pixels are no class), but ids are 0..{len(self.label_set) - 1} and 255"
            raise DefectError(path, "unknown_id", detail, "correct the file, or delete it and " + _AGAIN)
        return labels

    def codes(self, video: str, stem: str) -> UInt16[np.ndarray, "H W"]:
        """Entropy codes (`data/codes.py`), 1 at least; all 0 for a frame corrected by hand. Raises DefectError; DataError as `labels`."""
        codes = read_codes(self.folder / ENTROPY / video / f"{stem}.png")
        self._check_unchanged(f"{ENTROPY}/{video}/{stem}.png")
        return np.zeros_like(codes) if self.is_edited(video, stem) else codes.clip(min=1)

    def top_classes(self, video: str, stem: str) -> UInt8[np.ndarray, "K h w"] | None:
        """Ids of the K most likely classes of each 8 x 8 cell, most likely first; none where they were not written. Raises DefectError."""
        path = self.folder / TOP / video / f"{stem}.npz"
        if not path.is_file():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                return np.asarray(file["ids"], np.uint8)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DefectError(path, "truncated", "not readable as class ids", f"delete it and {_AGAIN}") from error

    def is_edited(self, video: str, stem: str) -> bool:
        """Whether a person corrected the frame's labels."""
        return f"{video}/{stem}" in self._edited

    def _check_unchanged(self, path: str) -> None:
        """Labels that are corrected while a training reads them would count as the models' own, and no stamp would know."""
        if _state(self.folder / path) != self.states[path]:
            raise DataError(
                f"{self.folder / path}: changed while it was in use; start again with --again --accept-edited when all corrections are made"
            )

    def thresholds(self, alpha: float, per_class: bool = False) -> Int64[np.ndarray, "C"]:
        """Of every pseudo class the code from which on a pixel is unreliable, so that `alpha` percent of all labelled pixels are, or
        of each class's; a class without a pixel then has the code that none reaches.
        """
        return dataset_thresholds([self], alpha, per_class)

    def check(self, dataset: VideoDataset, policy: Policy = "strict") -> None:
        """See that every frame of `dataset` is labelled; its classes do not matter, since it may have none.

        Under skip and ignore frames of videos that labelling could not read to the end may be missing.

        Raises:
            DataError: a frame has no pseudo label.
        """
        may_miss = frozenset() if policy == "strict" else self.damaged
        names = [(clip.name, stem) for clip in dataset.clips if clip.name not in may_miss for stem in clip.stems]
        missing = [f"{video}/{stem}" for video, stem in names if stem not in self.stems.get(video, ())]
        if missing:
            more = f" ({len(missing)} of {len(names)} frames are missing)" if len(missing) > 1 else ""
            remedy = f"label the whole of {dataset.name}: semivss pseudo-label goes on where it stopped"
            raise DataError(f"{self.folder}: incomplete, no pseudo label of {missing[0]}{more}; {remedy}")


def dataset_thresholds(folders: Sequence[PseudoFolder], alpha: float, per_class: bool) -> Int64[np.ndarray, "C"]:
    """`PseudoFolder.thresholds` over the pixels of several folders together."""
    return class_thresholds(np.sum([folder.histogram for folder in folders], axis=0), alpha, per_class)


def open_pseudo(folder: Path, *, accept_edited: bool = False) -> PseudoFolder:
    """Open a folder of pseudo labels and compare every file with its recorded hash.

    Args:
        accept_edited: use files that were changed by hand, instead of stopping there.

    Raises:
        DataError: no finished folder of pseudo labels, other classes, a file is gone, a label file was edited, or any other one was,
            which `accept_edited` does not change.
        DefectError: an edited file holds no labels of its frame.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    names = tuple(manifest["classes"])
    states = _states(folder, manifest["files"])
    changed = _changed(folder, manifest["files"], states)
    if other := [path for path in changed if not _is_label(Path(path))]:
        raise DataError(f"{folder / other[0]}: changed since it was written; labels alone may be corrected by hand: delete it and {_AGAIN}")
    if changed and not accept_edited:
        more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise DataError(
            f"{folder / changed[0]}: edited by hand (other hash than in the manifest){more}; use what is there with --accept-edited"
        )
    own = LabelSet(manifest["label_set"], names, tuple(map(tuple, manifest["colors"])), (False,) * len(names))
    labelled = [path for path in (Path(entry["path"]) for entry in manifest["files"]) if _is_label(path)]
    edited = tuple(Path(path).with_suffix("").as_posix() for path in changed)
    stems: dict[str, set[str]] = {}
    for path in labelled:
        stems.setdefault(path.parent.as_posix(), set()).add(path.stem)
    opened = PseudoFolder(
        folder,
        own,
        _histogram(folder / HISTOGRAM, manifest["histogram"]["sha256"], len(names)),
        {video: frozenset(found) for video, found in stems.items()},
        edited,
        manifest["made_from"],
        frozenset(video["name"] for video in manifest["videos"] if video["defects"]),
        states,
    )
    _check_edited(opened)
    return opened


def check_classes(folder: Path, names: tuple[str, ...], label_set: LabelSet) -> None:
    """Raise DataError unless the pseudo labels' class ids mean what they mean in `label_set`."""
    if names == label_set.names:
        return
    if len(names) != len(label_set):
        what = f"they have {len(names)} classes, {label_set.name} has {len(label_set)}"
    else:
        index = next(i for i, pair in enumerate(zip(names, label_set.names, strict=True)) if pair[0] != pair[1])
        order = "the same classes in another order" if sorted(names) == sorted(label_set.names) else "another class set"
        what = f"they were made with {order}: id {index} is {names[index]!r} there and {label_set.names[index]!r} in {label_set.name}"
    raise DataError(f"{folder}: pseudo labels do not fit, {what}; label the video with models trained on these classes")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        inside = next((path.parent for path in (*folder.glob("pseudo*/manifest.json"), *folder.glob("[0-9]*/manifest.json"))), None)
        remedy = f"give {inside}" if inside else "make them with semivss pseudo-label"
        raise DataError(f"{folder}: no finished pseudo labels there (no manifest.json); {remedy}")
    try:
        manifest = dict(json.loads(path.read_bytes()))
        if manifest.get("kind") != KIND:
            raise DataError(f"{folder}: predictions, no pseudo labels (they lack the entropies' histogram); use semivss pseudo-label")
        manifest["classes"], manifest["made_from"]["models"], manifest["files"], manifest["histogram"]
        [(video["name"], video["defects"]) for video in manifest["videos"]]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not readable as a manifest of pseudo labels; {_AGAIN}") from error
    return manifest


def _is_label(path: Path) -> bool:
    return path.suffix == ".png" and path.parts[0] not in (ENTROPY, CONFIDENCE, TOP)


def _state(file: Path) -> tuple[int, ...]:
    """Size, time of change and number on its disk, which are others after an edit. Raises OSError."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _states(folder: Path, files: list[dict[str, Any]]) -> dict[str, tuple[int, ...]]:
    states = {}
    for entry in files:
        with contextlib.suppress(OSError):
            states[entry["path"]] = _state(folder / entry["path"])
    return states


def _changed(folder: Path, files: list[dict[str, Any]], states: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Paths of files whose content is not the recorded one. Raises DataError for a file that is gone.

    A run opens a folder several times: files are read again only where a state is another one since.
    """
    known = hashlib.sha256()
    for entry in files:
        known.update(f"{entry['path']} {entry['sha256']} {states.get(entry['path'])}\n".encode())
    return _compared(folder.absolute(), known.digest())


@functools.lru_cache(maxsize=8)
def _compared(folder: Path, state: bytes) -> tuple[str, ...]:
    """What `_changed` returns, for files of this `state`."""
    changed = []
    files = _manifest(folder)["files"]
    for entry in track(files, "check pseudo labels", total=len(files), unit="files"):
        path = folder / entry["path"]
        try:
            same = path.stat().st_size == entry["size"] and file_sha256(path) == entry["sha256"]
        except OSError as error:
            raise DataError(f"{path}: incomplete pseudo labels, the file cannot be read ({error.strerror}); {_AGAIN}") from error
        if not same:
            changed.append(entry["path"])
    return tuple(changed)


def _histogram(path: Path, sha256: str, num_classes: int) -> Int64[np.ndarray, "C 4096"]:
    try:
        if file_sha256(path) != sha256:
            raise ValueError("other content")
        with np.load(path, allow_pickle=False) as file:
            counts = np.asarray(file["counts"], np.int64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: the histogram of entropies cannot be read, or is not the recorded one; {_AGAIN}") from error
    if counts.shape != (num_classes, BINS):
        raise DataError(f"{path}: a histogram of shape {counts.shape} instead of {(num_classes, BINS)}; {_AGAIN}")
    return counts


def _check_edited(opened: PseudoFolder) -> None:
    """A corrected label map must have known ids and the size of its frame, which the entropy map beside it still has."""
    for name in opened.edited:
        video, _, stem = name.rpartition("/")
        path = opened.folder / f"{name}.png"
        try:
            labels = opened.labels(video, stem)
        except DefectError as error:
            if error.kind == "unknown_id":
                raise
            remedy = f"save it as a palette or grey PNG of class ids, or delete it and {_AGAIN}"
            raise DefectError(path, error.kind, error.detail, remedy) from error
        codes = read_codes(opened.folder / ENTROPY / video / f"{stem}.png")
        if labels.shape != codes.shape:
            detail = f"edited to {labels.shape[1]}x{labels.shape[0]} pixels, its frame has {codes.shape[1]}x{codes.shape[0]}"
            raise DefectError(path, "size_mismatch", detail, "save it at the frame's size, without smoothing")
