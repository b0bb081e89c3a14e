"""Shares of the classes in labelled frames."""

from dataclasses import dataclass

import numpy as np
import pytest

from semivss.data.clips import VideoDataset
from semivss.data.labels import LabelSet
from semivss.data.shares import absent_classes, check_anything_shown, check_classes_shown, class_shares
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


def test_no_labelled_frame_is_an_error_with_a_remedy():
    bare = VideoDataset("bare", CLASSES, (Masks("a", (None, None)),))
    for question in (class_shares, check_classes_shown, check_anything_shown):
        with pytest.raises(DataError, match=r"bare: no labelled frame; give it masks .*list of labelled frames"):
            question([bare])


def test_a_class_that_one_mask_of_many_shows_is_not_absent():
    masks = [[0, 0, 1]] * 300
    masks[171] = [2, 255, 255]
    assert absent_classes([VideoDataset("many", CLASSES, (Masks("a", tuple(masks)),))]) == []
    assert absent_classes([VideoDataset("many", CLASSES, (Masks("a", tuple(masks[:171])),))]) == ["blue"]


def test_reading_stops_when_all_classes_have_been_seen():
    masks = ([0, 1, 2], *[None] * 5, "never read")
    assert absent_classes([VideoDataset("all", CLASSES, (Masks("a", masks),))]) == []


def test_one_labelled_pixel_is_something():
    bare = VideoDataset("bare", CLASSES, (Masks("a", ([255, 255], [255, 255])),))
    with pytest.raises(DataError, match="bare: no labelled pixel in 2 masks"):
        check_anything_shown([bare])
    check_anything_shown([bare, VideoDataset("one", CLASSES, (Masks("a", ([255, 0], "never read")),))])


def test_classes_without_a_pixel_are_refused_by_name():
    some = VideoDataset("some", CLASSES, (Masks("a", ([0, 255],)),))
    with pytest.raises(DataError, match=r"some: no labelled pixel of green, blue: .* data\.absent_classes"):
        check_classes_shown([some])
    check_classes_shown([VideoDataset("all", CLASSES, (Masks("a", ([0, 1, 2],)),))])
    with pytest.raises(DataError, match="bare: no labelled pixel in 1 mask;"):
        check_classes_shown([VideoDataset("bare", CLASSES, (Masks("a", ([255],)),))])
