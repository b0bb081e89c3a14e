"""Labelled frames in, the share of each class among their pixels out."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from semivss.data.clips import VideoDataset
from semivss.data.policy import Policy, read_labels
from semivss.errors import DataError
from semivss.progress import track


def class_shares(datasets: Sequence[VideoDataset], policy: Policy = "strict") -> Float64[np.ndarray, "C"]:
    """Shares, which sum to 1, of the classes over all labelled pixels of data sets of the same classes. Reads every mask once.

    Raises:
        DataError: no labelled pixel.
        DefectError: a damaged mask, under strict.
    """
    classes = len(datasets[0].label_set)
    counts = np.zeros(classes, np.int64)
    frames = [
        (clip, index) for dataset in datasets for clip in dataset.clips for index in range(len(clip.stems)) if clip.is_labelled(index)
    ]
    for clip, index in track(frames, "count classes", total=len(frames)):
        labels, _ = read_labels(clip, index, policy)
        if labels is not None:
            counts += np.bincount(labels.ravel(), minlength=256)[:classes]
    if not counts.any():
        names = ", ".join(dataset.name for dataset in datasets)
        raise DataError(f"{names}: no labelled pixel to take the shares of the classes from; name a data set with masks")
    return counts / counts.sum()
