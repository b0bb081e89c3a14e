"""Label maps in, integer counts out, and from the counts every score that one confusion matrix gives."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from semivss.data.labels import IGNORE
from semivss.errors import DataError


@dataclass(frozen=True)
class ClassScores:
    """Scores of one confusion matrix, as fractions; None where nothing was there to score.

    The mean runs over the classes that occur in the ground truth. A class that is only predicted has an IoU of 0 in `iou`,
    enters no mean, and costs the classes it replaces.
    """

    acc: float | None  # correct pixels / labelled pixels
    acc_class: float | None  # mean recall
    miou: float | None
    weighted_iou: float | None  # IoU weighted by the share of ground truth pixels
    iou: tuple[float | None, ...]  # a class each; None = in neither ground truth nor prediction
    truth_pixels: tuple[int, ...]
    predicted_pixels: tuple[int, ...]  # on labelled pixels only
    correct_pixels: tuple[int, ...]


class Confusion:
    """Streaming confusion matrix over classes 0..C-1; two of them add up to the matrix of both parts.

    `counts[i, j]` = pixels with truth i and prediction j. The last row is ignored ground truth, the last column predictions that
    are no class (>= C): these count as wrong for their ground truth class and as a prediction of nothing.
    """

    def __init__(self, num_classes: int, counts: Int64[np.ndarray, "C1 C1"] | None = None) -> None:
        if not 1 <= num_classes <= IGNORE:
            raise ValueError(f"num_classes is {num_classes}; labels are 8-bit and 255 means ignore, so it must be 1..255")
        self.num_classes = num_classes
        self.counts: Int64[np.ndarray, "C1 C1"] = np.zeros((num_classes + 1, num_classes + 1), np.int64) if counts is None else counts

    def update(self, truth: UInt8[np.ndarray, "..."], prediction: UInt8[np.ndarray, "..."]) -> None:
        """Count one label map, ground truth in training ids (255 ignored).

        Raises:
            DataError: the two differ in size, or the ground truth holds an id that is neither a class nor 255.
        """
        self.counts += pair_counts(truth, prediction, self.num_classes)

    def __add__(self, other: "Confusion") -> "Confusion":
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot add counts of {self.num_classes} and {other.num_classes} classes")
        return Confusion(self.num_classes, self.counts + other.counts)

    @property
    def matrix(self) -> Int64[np.ndarray, "C C"]:
        """Labelled pixels with a valid prediction: row = ground truth, column = prediction."""
        return self.counts[:-1, :-1]

    @property
    def labelled_pixels(self) -> int:
        """Pixels whose ground truth is a class."""
        return int(self.counts[:-1].sum())

    @property
    def invalid_pixels(self) -> int:
        """Labelled pixels whose prediction is no class; each of them counts as wrong."""
        return int(self.counts[:-1, -1].sum())

    @property
    def invalid_ignored_pixels(self) -> int:
        """Ignored pixels whose prediction is no class; they cost nothing."""
        return int(self.counts[-1, -1])

    def scores(self) -> ClassScores:
        """Acc, Acc_class, mIoU, weighted IoU and IoU per class, as the VSPW evaluator defines them."""
        correct = np.diagonal(self.matrix)
        truth, predicted = self.counts[:-1].sum(1), self.matrix.sum(0)
        union = truth + predicted - correct
        iou = correct / np.maximum(union, 1)
        present = truth > 0
        total = int(truth.sum())
        return ClassScores(
            acc=float(correct.sum() / total) if total else None,
            acc_class=float(np.mean(correct[present] / truth[present])) if total else None,
            miou=float(np.mean(iou[present])) if total else None,
            weighted_iou=float(np.sum(truth[present] / total * iou[present])) if total else None,
            iou=tuple(float(value) if there else None for value, there in zip(iou, union > 0, strict=True)),
            truth_pixels=tuple(truth.tolist()),
            predicted_pixels=tuple(predicted.tolist()),
            correct_pixels=tuple(correct.tolist()),
        )


def pair_counts(truth: UInt8[np.ndarray, "..."], prediction: UInt8[np.ndarray, "..."], num_classes: int) -> Int64[np.ndarray, "C1 C1"]:
    """Pixels of each (truth, prediction) pair, laid out as in `Confusion.counts`. Raises DataError as `Confusion.update` does."""
    if truth.shape != prediction.shape:
        raise DataError(f"the prediction has size {size_text(prediction)}, the mask {size_text(truth)}; predict at the size of the mask")
    if not truth.size:
        return np.zeros((num_classes + 1, num_classes + 1), np.int64)
    rows, columns = truth.reshape(-1), prediction.reshape(-1)
    starts, lengths = _runs(rows, columns)
    keys = rows[starts].astype(np.uint16) << 8 | columns[starts]
    table = np.bincount(keys, weights=lengths, minlength=1 << 16).astype(np.int64)  # exact: sums of integers far below 2**53
    return _fold(table.reshape(256, 256), num_classes)


def _runs(rows: UInt8[np.ndarray, "N"], columns: UInt8[np.ndarray, "N"]) -> tuple[Int64[np.ndarray, "R"], Int64[np.ndarray, "R"]]:
    """First pixel and length of each stretch of equal pairs. Label maps are flat: there are far fewer stretches than pixels."""
    changed = rows[1:] != rows[:-1]
    changed |= columns[1:] != columns[:-1]
    edges = np.concatenate(([0], np.flatnonzero(changed) + 1, [rows.size]))
    return edges[:-1], np.diff(edges)


def _fold(table: Int64[np.ndarray, "256 256"], num_classes: int) -> Int64[np.ndarray, "C1 C1"]:
    stray = np.flatnonzero(table[num_classes:IGNORE].any(1))
    if stray.size:
        raise DataError(f"ground truth id {num_classes + stray[0]} is neither a class (0..{num_classes - 1}) nor 255; give reduced labels")
    counts = np.empty((num_classes + 1, num_classes + 1), np.int64)
    counts[:-1, :-1] = table[:num_classes, :num_classes]
    counts[:-1, -1] = table[:num_classes, num_classes:].sum(1)
    counts[-1, :-1] = table[IGNORE, :num_classes]
    counts[-1, -1] = table[IGNORE, num_classes:].sum()
    return counts


def size_text(labels: np.ndarray) -> str:
    """Such as 853x480: width first, as for pictures."""
    return "x".join(str(side) for side in reversed(labels.shape))
