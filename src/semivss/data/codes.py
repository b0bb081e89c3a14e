"""Entropies in, the 16-bit codes of their files out, and back; histograms of codes in, the code of a percentile out. The one home of both.

A code is round(65535 * sqrt(H / log C)): the square root spends the codes where most pixels are, near 0. Everything that splits pixels
compares codes, so that a pixel is on the same side of a threshold wherever and whenever it is asked: code >= threshold is unreliable.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8, UInt16

from semivss.data.labels import IGNORE

HIGHEST = 65535
ABOVE = HIGHEST + 1  # the threshold that no code reaches: every pixel is reliable
BINS = 4096
BIN_WIDTH = ABOVE // BINS  # codes a bin


def code_of_entropy(entropy: Float[np.ndarray, "..."] | float, num_classes: int) -> UInt16[np.ndarray, "..."]:
    """Codes of entropies in nats; what lies outside 0..log C is cut."""
    share = np.clip(np.asarray(entropy, np.float32) / np.float32(math.log(num_classes)), 0, 1)
    return np.asarray(np.rint(HIGHEST * np.sqrt(share)), np.uint16)


def relative_entropy(codes: Any) -> Float[np.ndarray, "..."]:
    """Shares of the largest entropy, H / log C, float64, of integer codes (an array or one number)."""
    return np.asarray(np.square(np.asarray(codes, np.float64) / HIGHEST))


def entropy_of_code(codes: Any, num_classes: int) -> Float[np.ndarray, "..."]:
    """Entropies in nats, float64, of integer codes (an array or one number)."""
    return np.asarray(relative_entropy(codes) * math.log(num_classes))


def code_histogram(labels: UInt8[np.ndarray, "H W"], codes: UInt16[np.ndarray, "H W"], num_classes: int) -> Int64[np.ndarray, "C 4096"]:
    """Pixels of each class (row) by code, 16 codes a bin. Labels that are no class are not counted."""
    known = labels < num_classes
    keys = labels[known].astype(np.int64) * BINS + codes[known] // BIN_WIDTH
    return np.bincount(keys, minlength=num_classes * BINS).reshape(num_classes, BINS)


def percentile_code(counts: Int64[np.ndarray, "4096"], alpha: float) -> int:
    """The threshold from which on codes are unreliable: the (100 - alpha)th percentile, as the lower edge of the bin it lies in.

    At least `alpha` percent of the pixels are unreliable then: ties, and what shares the percentile's bin (1/4096 of the range), fall on
    the unreliable side, as U2PL's strict `<` has it. All codes equal: nothing is reliable. alpha 0, or no pixel: `ABOVE`.
    """
    total = int(counts.sum())
    if alpha <= 0 or not total:
        return ABOVE
    rank = (100 - alpha) / 100 * (total - 1)  # of the order statistics, as numpy.percentile counts them
    position = int(np.searchsorted(np.cumsum(counts), math.floor(rank), side="right"))
    return position * BIN_WIDTH


def class_thresholds(counts: Int64[np.ndarray, "C 4096"], alpha: float, per_class: bool) -> Int64[np.ndarray, "C"]:
    """The threshold of every pseudo class: `percentile_code` over the pixels of all classes, or within each of them."""
    if per_class:
        return np.array([percentile_code(row, alpha) for row in counts], np.int64)
    return np.full(len(counts), percentile_code(counts.sum(0), alpha), np.int64)


def cuts_of(thresholds: Int64[np.ndarray, "C"]) -> tuple[int, ...]:
    """The different thresholds, ascending, of classes that have one below `ABOVE`; empty: every pixel is reliable."""
    return tuple(sorted({int(code) for code in thresholds if code < ABOVE}))


def reliable(
    labels: UInt8[np.ndarray, "H W"], codes: UInt16[np.ndarray, "H W"], thresholds: Int64[np.ndarray, "C"]
) -> Bool[np.ndarray, "H W"]:
    """Pixels with a pseudo label whose code is below the threshold of their class."""
    table = np.append(thresholds, np.zeros(256 - len(thresholds), np.int64))
    return np.asarray((labels != IGNORE) & (codes < table[labels]))
