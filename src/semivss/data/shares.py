"""Labelled frames in, the share of each class among their pixels out; and word of classes that nothing can be learnt of."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from semivss.data.clips import VideoDataset
from semivss.data.policy import Policy, read_labels
from semivss.errors import DataError
from semivss.progress import track

ENOUGH = 256  # frames that are looked at for the word
NAMED = 5  # classes that it names


def class_shares(datasets: Sequence[VideoDataset], policy: Policy = "strict", most: int | None = None) -> Float64[np.ndarray, "C"]:
    """Shares, which sum to 1, of the classes over the labelled pixels of data sets of the same classes. Reads every mask once.

    Args:
        most: frames to look at, evenly spread; all the same where these show no labelled pixel. None = all.

    Raises:
        DataError: no labelled pixel.
        DefectError: a damaged mask, under strict.
    """
    classes = len(datasets[0].label_set)
    frames = [
        (clip, index) for dataset in datasets for clip in dataset.clips for index in range(len(clip.stems)) if clip.is_labelled(index)
    ]
    chosen = frames if most is None else frames[:: -(-len(frames) // most) or 1]
    counts = np.zeros(classes, np.int64)
    for clip, index in track(chosen, "count classes", total=len(chosen)):
        labels, _ = read_labels(clip, index, policy)
        if labels is not None:
            counts += np.bincount(labels.ravel(), minlength=256)[:classes]
    if counts.any():
        return counts / counts.sum()
    if len(chosen) < len(frames):
        return class_shares(datasets, policy)
    names = ", ".join(dataset.name for dataset in datasets)
    raise DataError(f"{names}: no labelled pixel in {len(frames)} masks; correct the masks, the remap or the list of labelled frames")


def missing_classes(datasets: Sequence[VideoDataset], policy: Policy = "strict") -> str:
    """A line that names the classes of which `ENOUGH` frames show no labelled pixel; empty if there are none. Raises as `class_shares`."""
    shares = class_shares(datasets, policy, ENOUGH)
    names = [name for name, share in zip(datasets[0].label_set.names, shares, strict=True) if not share]
    if not names:
        return ""
    listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return f"{datasets[0].name}: no labelled pixel of {listed} seen in the training masks; such a class cannot be learnt"
