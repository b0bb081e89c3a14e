"""Shares of the classes in labelled frames."""

from dataclasses import dataclass

import numpy as np
import pytest

from semivss.data.clips import VideoDataset
from semivss.data.labels import LabelSet
from semivss.data.shares import class_shares
from semivss.errors import DataError

CLASSES = LabelSet("three", ("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), (False,) * 3)


@dataclass(frozen=True)
class Masks:
    """A clip whose frames are labelled where a mask is given; no other is ever asked for."""

    name: str
    masks: tuple[list[int] | None, ...]

    @property
    def stems(self):
        return [f"{index:04d}" for index in range(len(self.masks))]

    def is_labelled(self, index):
        return self.masks[index] is not None

    def labels(self, index):
        return np.array([self.masks[index]], np.uint8)


def test_shares_are_of_the_labelled_pixels_of_all_data_sets():
    one = VideoDataset("one", CLASSES, (Masks("a", ([0, 0, 255, 1], None)), Masks("b", (None,))))
    other = VideoDataset("other", CLASSES, (Masks("c", ([0, 255, 255, 255],)),))
    assert class_shares([one, other]).tolist() == [0.75, 0.25, 0]


def test_no_labelled_pixel_is_an_error():
    bare = VideoDataset("bare", CLASSES, (Masks("a", (None, [255, 255])),))
    with pytest.raises(DataError, match="bare: no labelled pixel"):
        class_shares([bare])
