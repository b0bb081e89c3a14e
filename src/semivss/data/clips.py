"""What every reader returns: a data set is a list of clips, a clip is frames in order, each with labels or without."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from semivss.data.labels import LabelSet


@runtime_checkable
class Clip(Protocol):
    """Frames of one video, oldest first. Reading is lazy: a file is opened when its frame or mask is asked for.

    `frame` and `labels` raise DefectError for a damaged or unsuitable file.
    """

    @property
    def name(self) -> str:
        """Folder name of the video; unique in its data set."""
        ...

    @property
    def stems(self) -> Sequence[str]:
        """File stem of each frame, in order."""
        ...

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """RGB frame number `index` (a position in `stems`)."""
        ...

    def is_labelled(self, index: int) -> bool:
        """Whether the frame has a mask that this data set may open."""
        ...

    def labels(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Training ids 0..C-1, 255 = ignore, of a labelled frame."""
        ...

    def stream(self) -> Iterator[tuple[str, UInt8[np.ndarray, "H W 3"]]]:
        """(stem, frame) in order, holding one frame at a time."""
        ...


@dataclass(frozen=True)
class VideoDataset:
    """A named list of clips over one label set, with what the reader had to leave out (defect kind -> file names)."""

    name: str
    label_set: LabelSet
    clips: tuple[Clip, ...]
    defects: dict[str, list[str]] = field(default_factory=dict)
