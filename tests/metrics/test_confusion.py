import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional import classification

from semivss.errors import DataError
from semivss.metrics.confusion import Confusion

CLASSES = 5
truths = arrays(np.uint8, (7, 6), elements=st.sampled_from([0, 1, 2, 3, 4, 255]))
predictions = arrays(np.uint8, (7, 6), elements=st.sampled_from([0, 1, 2, 3, 4, 5, 200, 255]))


def _counted(truth: np.ndarray, prediction: np.ndarray, classes: int = CLASSES) -> Confusion:
    confusion = Confusion(classes)
    confusion.update(truth, prediction)
    return confusion


def _row(*values: int) -> np.ndarray:
    return np.array([values], np.uint8)


def test_scores_that_can_be_checked_by_hand():
    scores = _counted(_row(0, 0, 0, 1, 255), _row(0, 0, 1, 1, 2), 3).scores()
    assert scores.acc == 3 / 4
    assert scores.acc_class == pytest.approx((2 / 3 + 1) / 2)
    assert scores.miou == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores.weighted_iou == pytest.approx(3 / 4 * 2 / 3 + 1 / 4 * 1 / 2)
    assert scores.iou == (pytest.approx(2 / 3), 0.5, None)  # class 2 was predicted under an ignored pixel only


def test_a_class_that_is_only_predicted_enters_no_mean_but_costs_the_others():
    scores = _counted(_row(0, 0, 1, 1), _row(0, 2, 1, 1), 3).scores()
    assert scores.iou == (0.5, 1.0, 0.0)
    assert scores.miou == 0.75


def test_an_invalid_prediction_is_wrong_for_its_class_and_counted():
    confusion = _counted(_row(0, 0, 1, 255), _row(0, 255, 9, 9), 3)
    assert (confusion.invalid_pixels, confusion.invalid_ignored_pixels) == (2, 1)
    scores = confusion.scores()
    assert scores.acc == pytest.approx(1 / 3)
    assert scores.iou == (0.5, 0.0, None)
    assert scores.predicted_pixels == (1, 0, 0)


def test_nothing_labelled_gives_no_score():
    scores = _counted(_row(255, 255), _row(0, 1), 2).scores()
    assert (scores.acc, scores.acc_class, scores.miou, scores.weighted_iou) == (None, None, None, None)
    assert scores.iou == (None, None)


@given(truths, predictions)
def test_counts_equal_the_definition(truth, prediction):
    expected = np.zeros((CLASSES + 1, CLASSES + 1), np.int64)
    for g, p in zip(truth.flat, prediction.flat, strict=True):
        expected[min(g, CLASSES), min(p, CLASSES)] += 1
    np.testing.assert_array_equal(_counted(truth, prediction).counts, expected)


@given(truths, predictions, st.integers(0, 7))
def test_parts_add_up_to_the_whole(truth, prediction, cut):
    parts = _counted(truth[:cut], prediction[:cut]) + _counted(truth[cut:], prediction[cut:])
    np.testing.assert_array_equal(parts.counts, _counted(truth, prediction).counts)


@settings(max_examples=25, deadline=None)
@given(truths, arrays(np.uint8, (7, 6), elements=st.integers(0, CLASSES - 1)))
def test_agrees_with_torchmetrics(truth, prediction):
    ours, pair = _counted(truth, prediction), (torch.from_numpy(prediction).long(), torch.from_numpy(truth).long())
    theirs = classification.multiclass_confusion_matrix(*pair, num_classes=CLASSES, ignore_index=255)
    np.testing.assert_array_equal(ours.matrix, theirs.numpy())
    if ours.labelled_pixels:
        options = {"num_classes": CLASSES, "ignore_index": 255}
        assert ours.scores().acc == pytest.approx(float(classification.multiclass_accuracy(*pair, average="micro", **options)), abs=1e-6)
        weighted = classification.multiclass_jaccard_index(*pair, average="weighted", **options)
        assert ours.scores().weighted_iou == pytest.approx(float(weighted), abs=1e-6)
        each = classification.multiclass_jaccard_index(*pair, average="none", **options)
        assert [value or 0.0 for value in ours.scores().iou] == pytest.approx(each.tolist(), abs=1e-6)


def test_a_frame_larger_than_one_chunk_is_counted_whole():
    random = np.random.default_rng(0)
    truth, prediction = random.integers(0, 3, (2, 300, 700), dtype=np.uint8)
    counts = _counted(truth, prediction, 3).matrix
    assert counts.sum() == truth.size
    assert counts[2, 1] == np.count_nonzero((truth == 2) & (prediction == 1))


def test_labels_that_were_not_reduced_are_refused():
    with pytest.raises(DataError, match="ground truth id 7 is neither"):
        _counted(_row(0, 7), _row(0, 0), 3)


def test_sizes_must_agree():
    with pytest.raises(DataError, match="size 2x1, the mask 3x1"):
        _counted(_row(0, 1, 1), _row(0, 1))


def test_counts_of_different_label_sets_do_not_add():
    with pytest.raises(ValueError, match="3 and 4 classes"):
        Confusion(3) + Confusion(4)
