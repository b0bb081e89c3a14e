"""Shares of the classes in labelled frames."""

from dataclasses import dataclass

import numpy as np
import pytest

from semivss.data.clips import VideoDataset
from semivss.data.labels import LabelSet
from semivss.data.shares import ENOUGH, class_shares, missing_classes
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

    def frame(self, index):
        raise AssertionError("no frame is needed")

    def stream(self):
        raise AssertionError("no frame is needed")

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


def test_a_sample_is_enough_unless_it_shows_nothing():
    many = tuple([0, 0, 1] for _ in range(3 * ENOUGH))
    assert class_shares([VideoDataset("many", CLASSES, (Masks("a", many),))], most=ENOUGH).tolist() == [2 / 3, 1 / 3, 0]
    rare = tuple([2] if index == 5 else [255] for index in range(3 * ENOUGH))  # no multiple of 3
    assert class_shares([VideoDataset("rare", CLASSES, (Masks("a", rare),))], most=ENOUGH).tolist() == [0, 0, 1]


def test_classes_without_a_pixel_are_named():
    some = VideoDataset("some", CLASSES, (Masks("a", ([0, 255],)),))
    assert missing_classes([some]) == "some: no labelled pixel of green, blue seen in the training masks; such a class cannot be learnt"
    assert missing_classes([VideoDataset("all", CLASSES, (Masks("a", ([0, 1, 2],)),))]) == ""
