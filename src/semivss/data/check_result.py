"""The records a check fills: what each split holds, the defects, and small pictures for the preview."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from semivss.data.labels import LabelSet
from semivss.data.palette import Colors, blend

TILE = 320  # width of a picture in the preview


@dataclass(frozen=True)
class Sample:
    """A small frame, plain and under its class colours."""

    title: str
    frame: UInt8[np.ndarray, "h w 3"]
    colored: UInt8[np.ndarray, "h w 3"] | None  # none: unlabelled

    @classmethod
    def of(cls, title: str, frame: UInt8[np.ndarray, "H W 3"], labels: UInt8[np.ndarray, "H W"] | None, colors: Colors) -> "Sample":
        """Shrink a frame and its labels to a tile."""
        height, width = frame.shape[:2]
        size = (TILE, max(1, round(height * TILE / width)))
        small = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX if width > TILE else Image.Resampling.NEAREST))
        if labels is None:
            return cls(title, small, None)
        mask = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        return cls(title, small, blend(small, mask, colors, 0.8))


@dataclass(frozen=True)
class DefectLine:
    """One thing wrong, as a person reads it."""

    kind: str
    line: str  # file: what; remedy


@dataclass
class SplitResult:
    """What one split holds."""

    name: str
    label_set: LabelSet
    clips: int = 0
    frames: int = 0  # that could be read
    labelled: int = 0  # with a mask that could be read
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (height, width) -> frames
    rates: Counter[float] = field(default_factory=Counter)  # frames a second -> video files
    pixels: Int64[np.ndarray, "256"] = field(default_factory=lambda: np.zeros(256, np.int64))  # a training id; 255 = ignored
    frames_with: Int64[np.ndarray, "256"] = field(default_factory=lambda: np.zeros(256, np.int64))
    defects: list[DefectLine] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)  # for the preview


@dataclass(frozen=True)
class CheckResult:
    """What a path was understood to be."""

    path: Path
    kind: str
    splits: tuple[SplitResult, ...]
    notes: tuple[str, ...] = ()  # worth knowing, no defect
    warnings: tuple[str, ...] = ()  # no defect of a file, but most likely a mistake

    @property
    def defects(self) -> list[DefectLine]:
        """Those of all splits, each once."""
        return list(dict.fromkeys(line for split in self.splits for line in split.defects))
