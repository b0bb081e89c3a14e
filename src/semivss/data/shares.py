"""Labelled frames in, the share of each class among their pixels out; and the classes of which nothing can be learnt."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, UInt8

from semivss.data.clips import Clip, VideoDataset
from semivss.data.labels import IGNORE
from semivss.data.policy import Policy, read_labels
from semivss.errors import DataError
from semivss.progress import track
from semivss.wording import counted

SPREAD = 64  # distance of the frames that are looked at first
NAMED = 5  # classes that an error names


def class_shares(datasets: Sequence[VideoDataset], policy: Policy = "strict") -> Float64[np.ndarray, "C"]:
    """Shares, which sum to 1, of the classes over the labelled pixels of data sets of the same classes. Reads every mask once.

    Raises:
        DataError: no labelled pixel.
        DefectError: a damaged mask, under strict.
    """
    frames, classes = _labelled(datasets), len(datasets[0].label_set)
    counts = np.zeros(classes, np.int64)
    for clip, index in track(frames, "count classes", total=len(frames)):
        counts += np.bincount(_known(clip, index, policy), minlength=classes)
    if not counts.any():
        raise _nothing(datasets, len(frames))
    return counts / counts.sum()


def absent_classes(datasets: Sequence[VideoDataset], policy: Policy = "strict") -> list[str]:
    """Names of the classes that no mask shows; reads frames far apart first, until all are seen. Raises as `class_shares`."""
    frames, names = _labelled(datasets), datasets[0].label_set.names
    seen = np.zeros(len(names), bool)
    for first in range(SPREAD):
        for clip, index in frames[first::SPREAD]:
            seen[_known(clip, index, policy)] = True
            if seen.all():
                return []
    if not seen.any():
        raise _nothing(datasets, len(frames))
    return [name for name, found in zip(names, seen, strict=True) if not found]


def check_classes_shown(datasets: Sequence[VideoDataset], policy: Policy = "strict") -> None:
    """Raise DataError for a class that no mask shows; or as `class_shares`."""
    if names := absent_classes(datasets, policy):
        listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        raise DataError(
            f"{datasets[0].name}: no labelled pixel of {listed}: nothing can be learnt of a class that no training mask shows; label some, "
            'take the class out, or go without it by data.absent_classes = "allow"'
        )


def check_anything_shown(datasets: Sequence[VideoDataset], policy: Policy = "strict") -> None:
    """Raise as `class_shares` unless some mask shows some class. Reads masks until one does."""
    frames = _labelled(datasets)
    if not any(len(_known(clip, index, policy)) for clip, index in frames):
        raise _nothing(datasets, len(frames))


def _labelled(datasets: Sequence[VideoDataset]) -> list[tuple[Clip, int]]:
    return [(clip, index) for dataset in datasets for clip in dataset.clips for index in range(len(clip.stems)) if clip.is_labelled(index)]


def _known(clip: Clip, index: int, policy: Policy) -> UInt8[np.ndarray, "N"]:
    """Class ids of the labelled pixels; none where the mask cannot be used."""
    labels, _ = read_labels(clip, index, policy)
    return np.zeros(0, np.uint8) if labels is None else labels[labels != IGNORE]


def _nothing(datasets: Sequence[VideoDataset], masks: int) -> DataError:
    names = ", ".join(dataset.name for dataset in datasets)
    if not masks:
        return DataError(f"{names}: no labelled frame; give it masks (semivss data import --masks), or correct the list of labelled frames")
    return DataError(f"{names}: no labelled pixel in {counted(masks, 'mask')}; correct the masks, the remap or the list of labelled frames")
