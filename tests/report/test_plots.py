import base64

import numpy as np

from semivss.report.plots import MOST_CLASSES, bars, confusion_picture, curves


def _svg(uri: str | None) -> str:
    assert uri is not None
    assert uri.startswith("data:image/svg+xml;base64,")
    return base64.b64decode(uri.partition(",")[2]).decode()


def test_curves_show_what_was_measured():
    rows = [{"step": "1", "loss": "2.0", "loss_dice": "1.5", "loss_mask": "0.5", "lr": ""}, {"step": "2", "loss": "1.0", "val_miou": "0.4"}]
    svg = _svg(curves(rows))
    for text in ("Training loss", "total", "dice", "mask", "Validation, %"):
        assert f">{text}</text>" in svg
    assert "Learning rate" not in svg  # no number in that column


def test_curves_show_how_many_pixels_were_reliable():
    row = {"step": "1", "loss": "3", "loss_cross_entropy": "1", "loss_unlabelled_cross_entropy": "1.5", "loss_contrast": "0.5"}
    svg = _svg(curves([row | {"reliable": "0.75", "alpha": "20"}]))
    for text in ("unlabelled cross entropy", "contrast", "Reliable pixels, %", "reliable", "100 % - alpha"):
        assert f">{text}</text>" in svg


def test_no_numbers_no_bars():
    assert bars({"val": [("a", None)]}) is None
    assert ">-</text>" in _svg(bars({"val": [("a", 0.5), ("b", None)]}))


def test_the_line_stands_at_the_baseline():
    entries = [("a", 0.25), ("b", 0.5)]
    plain, first, second = (_svg(bars({"val": entries}, name)) for name in ("", "a", "b"))
    assert plain.count("stroke-dasharray") == 0
    assert first.count("stroke-dasharray") == second.count("stroke-dasharray") == 1
    assert first != second


def test_no_numbers_no_curves():
    assert curves([]) is None
    assert curves([{"step": "1", "loss": ""}, {"step": "x", "loss": "1"}, {"loss": "1"}, {"step": "2", "loss": "nan"}]) is None


def test_confusion_picture_names_the_largest_classes():
    counts = np.zeros((41, 41), np.int64)
    counts[range(40), range(40)] = np.arange(40)
    svg = _svg(confusion_picture(counts, [f"name{k}$x$_" for k in range(40)]))
    assert svg.count(">name39$x$_</text>") == 2  # a row and a column; dollar signs are text
    assert f">name{39 - MOST_CLASSES}$x$_</text>" not in svg


def test_confusion_picture_counts_invalid_predictions_in_the_whole():
    counts = np.array([[1, 0, 3], [0, 4, 0], [0, 0, 0]], np.int64)  # three of four pixels of class 0 have no valid prediction
    svg = _svg(confusion_picture(counts, ["a", "b"]))
    assert ">25</text>" in svg
    assert svg.count(">100</text>") == 2  # class b, and the end of the scale


def test_nothing_labelled_no_confusion_picture():
    assert confusion_picture(np.zeros((3, 3), np.int64), ["a", "b"]) is None
