"""Overlay pictures: colours, legend, sizes."""

import numpy as np
import pytest

from semivss.data.labels import LabelSet, label_set, vspw124
from semivss.data.palette import blend, colorize
from semivss.infer.overlay import classes_present, compose, fit, legend, overlay, side_by_side

TWO = LabelSet("two", ("sky", "a very long name of a class that cannot fit anywhere"), ((255, 0, 0), (0, 0, 200)), (False, True))


def test_colours_are_mixed_and_ignored_pixels_keep_the_frame() -> None:
    frame = np.array([[[100, 100, 100], [0, 0, 0], [9, 8, 7]]], np.uint8)
    labels = np.array([[0, 1, 255]], np.uint8)
    assert blend(frame, labels, TWO.colors, 0.5)[0].tolist() == [[178, 50, 50], [0, 0, 100], [9, 8, 7]]
    assert colorize(labels, TWO.colors)[0].tolist() == [[255, 0, 0], [0, 0, 200], [0, 0, 0]]


@pytest.mark.parametrize("size", [(240, 320), (480, 853), (1080, 1920), (320, 240)])
def test_the_legend_shows_the_colours_of_the_classes_present(size: tuple[int, int]) -> None:
    classes = vspw124()
    labels = np.full(size, 3, np.uint8)
    labels[: size[0] // 2] = 60
    frame = np.zeros((*size, 3), np.uint8)
    picture = overlay(frame, labels, classes)
    strip = picture[size[0] :]
    assert picture.shape[1] == size[1]
    assert 0.04 < len(strip) / size[0] < 0.3
    for index, seen in ((3, True), (60, True), (100, False)):
        assert (strip == classes.colors[index]).all(2).any() == seen
    assert np.array_equal(picture[: size[0]], blend(frame, labels, classes.colors))


def test_side_by_side_is_frame_then_overlay() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (240, 300, 3), dtype=np.uint8)
    labels = np.zeros((240, 300), np.uint8)
    picture = side_by_side(frame, labels, TWO)
    assert np.array_equal(picture[:240, :300], frame)
    assert np.array_equal(picture[:240, 300:], blend(frame, labels, TWO.colors))


def test_specks_are_not_named_and_the_largest_class_comes_first() -> None:
    labels = np.full((100, 100), 2, np.uint8)
    labels[:30], labels[99, 95:], labels[50] = 7, 9, 255
    assert classes_present(labels, 124) == [2, 7]


def test_classes_that_do_not_fit_are_counted_and_the_height_does_not_depend_on_them() -> None:
    classes = vspw124()
    few, many = legend(320, 11, [1, 2], classes), legend(320, 11, list(range(10, 50)), classes)
    assert few.shape == many.shape
    drawn = [index for index in range(10, 50) if (many == classes.colors[index]).all(2).sum() >= 81]
    assert drawn == list(range(10, 21))  # twelve places, the last one says "+29"


@pytest.mark.parametrize("width", [320, 640, 853])
def test_a_set_of_twelve_classes_is_shown_whole(width: int) -> None:
    classes = label_set("camvid11")
    twelve = LabelSet("own", (*classes.names, "other"), (*classes.colors, (1, 2, 3)), (False,) * 12)
    strip = legend(width, 11, list(range(12)), twelve)
    assert [index for index in range(12) if (strip == twelve.colors[index]).all(2).sum() < 81] == []


def test_the_strip_is_no_higher_than_its_classes_need() -> None:
    assert len(legend(320, 11, [0, 1], TWO)) < 30


def test_a_small_frame_is_enlarged_and_another_size_is_fitted_in() -> None:
    labels, frame = np.zeros((60, 80), np.uint8), np.full((60, 80, 3), 255, np.uint8)
    picture = compose(frame, labels, TWO, "overlay", None)
    assert picture.shape[1] == 320
    turned = compose(frame.swapaxes(0, 1).copy(), labels.T.copy(), TWO, "overlay", picture.shape[:2])
    assert turned.shape == picture.shape
    assert fit(np.full((10, 20, 3), 7, np.uint8), (40, 40))[:, 0, 0].tolist() == [0] * 10 + [7] * 20 + [0] * 10
