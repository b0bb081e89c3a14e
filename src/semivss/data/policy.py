"""What happens to a damaged file: a clip and a frame number in, what may be used of them and the defects met out.

The one place that knows the policies:

* ``strict``: the defect is raised, the run stops with one line that names the file and the remedy.
* ``skip``: the frame is left out and the defect recorded.
* ``ignore``: what is sound is used. Mask values without a meaning become 255; a mask that cannot be read or has another size than its
  frame counts as 255 everywhere; a frame that cannot be read is left out all the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from semivss.data.clips import Clip
from semivss.data.labels import IGNORE, StrayValuesError
from semivss.errors import DefectError

Policy = Literal["strict", "skip", "ignore"]


class Defect(NamedTuple):
    """One thing wrong with one file."""

    kind: str
    path: str


@dataclass(frozen=True)
class Pair:
    """A frame with its labels."""

    frame: UInt8[np.ndarray, "H W 3"]  # RGB
    labels: UInt8[np.ndarray, "H W"] | None  # training ids, 255 = ignore; none where the data set has no mask to open


def read_pair(clip: Clip, index: int, policy: Policy) -> tuple[Pair | None, tuple[Defect, ...]]:
    """Frame `index` of `clip` with its labels, under `policy`, and the defects met on the way.

    Returns:
        The pair, or none where the frame has to be left out (never under strict); and the defects, none of them under strict.

    Raises:
        DefectError: under strict, for the first defect.
    """
    try:
        frame = clip.frame(index)
    except DefectError as error:
        if policy == "strict":
            raise
        return None, (Defect(error.kind, error.path),)
    if not clip.is_labelled(index):
        return Pair(frame, None), ()
    labels, defects = read_labels(clip, index, policy)
    if labels is not None and labels.shape != frame.shape[:2]:
        mismatch = _size_error(clip, index, frame, labels)
        if policy == "strict":
            raise mismatch
        labels, defects = None, (*defects, Defect(mismatch.kind, mismatch.path))
    if policy == "skip" and defects:
        return None, defects
    return Pair(frame, np.full(frame.shape[:2], IGNORE, np.uint8) if labels is None else labels), defects


def read_labels(clip: Clip, index: int, policy: Policy) -> tuple[UInt8[np.ndarray, "H W"] | None, tuple[Defect, ...]]:
    """The labels of labelled frame `index` without its frame, as scoring needs them; none where they cannot be used.

    Raises:
        DefectError: under strict, for any defect of the mask.
    """
    try:
        return clip.labels(index), ()
    except StrayValuesError as error:
        if policy == "strict":
            raise
        return (error.labels if policy == "ignore" else None), (Defect(error.kind, error.path),)
    except DefectError as error:
        if policy == "strict":
            raise
        return None, (Defect(error.kind, error.path),)


def _size_error(clip: Clip, index: int, frame: UInt8[np.ndarray, "H W 3"], labels: UInt8[np.ndarray, "h w"]) -> DefectError:
    masks = getattr(clip, "masks", None)  # clips made of files know the mask's path
    where = masks[index] if masks else f"{clip.name}/{clip.stems[index]}"
    detail = f"mask is {labels.shape[1]}x{labels.shape[0]}, its frame {frame.shape[1]}x{frame.shape[0]}"
    return DefectError(where, "size_mismatch", detail, "make the mask again at the frame's size (nearest neighbour)", "skip")


class DefectCounter:
    """Which files had which defect. A file counts once a kind, however often it is read; counters can be merged."""

    def __init__(self, defects: Mapping[str, Iterable[str]] | None = None) -> None:
        """Start from `defects` (kind -> file names), such as `VideoDataset.defects`."""
        self._files: dict[str, set[str]] = {kind: set(files) for kind, files in (defects or {}).items() if files}

    def add(self, defects: Iterable[tuple[str, str]]) -> None:
        """Record (kind, path) pairs, as `read_pair` returns them."""
        for kind, path in defects:
            self._files.setdefault(kind, set()).add(str(path))

    def merge(self, other: "DefectCounter") -> None:
        """Take over what `other` (another worker, an earlier run) has recorded."""
        for kind, files in other._files.items():
            self._files.setdefault(kind, set()).update(files)

    def counts(self) -> dict[str, int]:
        """Number of files of each kind, kinds in alphabetical order."""
        return {kind: len(self._files[kind]) for kind in sorted(self._files)}

    def to_dict(self, limit: int | None = 20) -> dict[str, Any]:
        """``{kind: {"count": n, "files": [...]}}`` with at most `limit` names a kind; none = all, as a checkpoint needs."""
        return {kind: {"count": count, "files": sorted(self._files[kind])[:limit]} for kind, count in self.counts().items()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "DefectCounter":
        """The counter that `to_dict(limit=None)` described."""
        return cls({kind: entry["files"] for kind, entry in value.items()})

    def __bool__(self) -> bool:
        return bool(self._files)

    def __str__(self) -> str:
        """Such as ``truncated 2, unknown_id 1``; empty without defects."""
        return ", ".join(f"{kind} {count}" for kind, count in self.counts().items())
