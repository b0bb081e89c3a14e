"""A clip made of image files: paths in, frames and training ids out, each file opened when it is asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from semivss.data.images import read_frame, read_mask
from semivss.data.labels import MaskTable

LabelReader = Callable[[Path], UInt8[np.ndarray, "H W"]]  # mask file -> training ids, 255 = ignore; raises DefectError


@dataclass(frozen=True, eq=False)
class IndexReader:
    """Reads index PNGs through a table."""

    table: MaskTable

    def __call__(self, path: Path) -> UInt8[np.ndarray, "H W"]:
        """Training ids of the mask file. Raises DefectError for a damaged file and StrayValuesError for values without a meaning."""
        return self.table.apply(read_mask(path), path)


@dataclass(frozen=True, eq=False, slots=True)
class FileClip:
    """Frames and masks in files. Implements `Clip`."""

    name: str
    stems: tuple[str, ...]
    frames: tuple[Path, ...]
    masks: tuple[Path | None, ...]  # none: the frame has no mask, or none that may be opened
    read_labels: LabelReader

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """RGB frame. Raises DefectError for a damaged file."""
        return read_frame(self.frames[index])

    def is_labelled(self, index: int) -> bool:
        """Whether the frame has a mask that this data set may open."""
        return self.masks[index] is not None

    def labels(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Training ids, 255 = ignore. Raises DefectError for a damaged or unsuitable mask."""
        path = self.masks[index]
        if path is None:
            raise IndexError(f"frame {self.stems[index]} of {self.name} has no labels")
        return self.read_labels(path)

    def stream(self) -> Iterator[tuple[str, UInt8[np.ndarray, "H W 3"]]]:
        """(stem, frame) in order, holding one frame at a time."""
        for stem, path in zip(self.stems, self.frames, strict=True):
            yield stem, read_frame(path)
