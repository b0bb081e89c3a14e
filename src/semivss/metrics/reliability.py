"""Pseudo labels with their entropy codes, and masks, in; how many pixels a threshold keeps, and how right they are, out."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8, UInt16

from semivss.data.codes import BIN_WIDTH, BINS, code_histogram
from semivss.data.labels import IGNORE


@dataclass(frozen=True)
class Kept:
    """What lies below a threshold, as fractions; None where there is nothing to divide by."""

    kept: float | None  # reliable pixels / pixels
    accuracy: float | None  # of the reliable pixels with a mask
    accuracy_rest: float | None  # of the unreliable ones


class Reliability:
    """Streaming counts of pixels by class of the pseudo label and by bin of the entropy code; two of them add up."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.pixels: Int64[np.ndarray, "C 4096"] = np.zeros((num_classes, BINS), np.int64)
        self.scored = np.zeros_like(self.pixels)  # where the mask says a class
        self.right = np.zeros_like(self.pixels)  # where it says the pseudo label's

    def update(self, labels: UInt8[np.ndarray, "H W"], codes: UInt16[np.ndarray, "H W"], truth: UInt8[np.ndarray, "H W"] | None) -> None:
        """Count one frame; pixels labelled 255 count nowhere. `truth` in training ids, none = no mask."""
        self.pixels += code_histogram(labels, codes, self.num_classes)
        if truth is not None:
            known = truth != IGNORE
            self.scored += code_histogram(np.where(known, labels, np.uint8(IGNORE)), codes, self.num_classes)
            self.right += code_histogram(np.where(known & (truth == labels), labels, np.uint8(IGNORE)), codes, self.num_classes)

    def __iadd__(self, other: "Reliability") -> "Reliability":
        self.pixels += other.pixels
        self.scored += other.scored
        self.right += other.right
        return self

    def kept(self, thresholds: Int64[np.ndarray, "C"], only: int | None = None) -> Kept:
        """What is below each class's threshold code (multiples of 16, as `percentile_code` gives them), over all classes or one of them."""
        below = np.arange(BINS)[None] * BIN_WIDTH < thresholds[:, None]
        rows = slice(None) if only is None else slice(only, only + 1)
        below = below[rows]
        pixels, scored, right = self.pixels[rows], self.scored[rows], self.right[rows]
        return Kept(_ratio(pixels[below], pixels), _ratio(right[below], scored[below]), _ratio(right[~below], scored[~below]))

    def accuracy(self) -> float | None:
        """Of all pixels with a mask."""
        return _ratio(self.right, self.scored)

    def accuracy_at(self, share: float) -> float | None:
        """Accuracy of the `share` of the scored pixels with the lowest entropy; linear within a bin."""
        scored, right = np.cumsum(self.scored.sum(0)), np.cumsum(self.right.sum(0))
        wanted = share * scored[-1]
        return float(np.interp(wanted, scored, right) / wanted) if wanted else None

    def auroc(self) -> float | None:
        """Chance that a right pixel has a lower entropy than a wrong one, ties counting half; none without pixels of both kinds."""
        right = self.right.sum(0).astype(np.float64)  # products of two counts leave int64
        wrong = self.scored.sum(0) - right
        above = wrong[::-1].cumsum()[::-1] - wrong / 2  # wrong pixels of higher entropy, and half of those in the same bin
        return _ratio(right * above, np.array(right.sum() * wrong.sum()))


def _ratio(part: np.ndarray, whole: np.ndarray) -> float | None:
    total = float(np.sum(whole))
    return float(np.sum(part)) / total if total else None
