"""Counts by class and code against the same numbers made pixel by pixel."""

import numpy as np
import pytest

from semivss.data.codes import ABOVE, percentile_code
from semivss.metrics.reliability import Reliability


def sample(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, (20, 30)).astype(np.uint8)
    labels[0, :5] = 255
    truth = np.where(random.random(labels.shape) < 0.7, labels, random.integers(0, 3, labels.shape)).astype(np.uint8)
    truth[5, :9] = 255
    codes = (random.random(labels.shape) * 40000 + 20000 * (truth != labels)).astype(np.uint16)
    return labels, codes, truth


def test_kept_and_accuracies_are_those_of_the_pixels() -> None:
    labels, codes, truth = sample()
    counts = Reliability(3)
    counts.update(labels, codes, truth)
    thresholds = np.array([percentile_code(row, 30.0) for row in counts.pixels])
    reliable = codes < np.append(thresholds, [0] * 253)[labels]
    known, valid = (truth != 255) & (labels != 255), labels != 255
    for only, of in ((None, valid), (1, labels == 1)):
        found = counts.kept(thresholds, only)
        assert found.kept == pytest.approx(reliable[of].mean())
        assert found.accuracy == pytest.approx((labels == truth)[of & known & reliable].mean())
        assert found.accuracy_rest == pytest.approx((labels == truth)[of & known & ~reliable].mean())
    assert counts.accuracy() == pytest.approx((labels == truth)[known].mean())


def test_accuracy_of_the_surest_share_and_the_auroc() -> None:
    labels, codes, truth = sample()
    counts = Reliability(3)
    codes = codes // 4096 * 4096  # many ties
    counts.update(labels, codes, truth)
    known = (truth != 255) & (labels != 255)
    right, value = (labels == truth)[known], codes[known].astype(int)
    surest = np.argsort(value, kind="stable")[: round(0.8 * right.size)]
    assert counts.accuracy_at(0.8) == pytest.approx(right[surest].mean(), abs=0.02)  # linear among ties
    assert counts.accuracy_at(1.0) == pytest.approx(counts.accuracy())
    lower = (value[right][:, None] < value[~right][None]).mean() + (value[right][:, None] == value[~right][None]).mean() / 2
    assert counts.auroc() == pytest.approx(lower)


def test_parts_add_up_and_a_frame_without_mask_only_counts_as_kept() -> None:
    first, second = Reliability(3), Reliability(3)
    labels, codes, truth = sample()
    first.update(labels, codes, truth)
    second.update(*sample(1)[:2], None)
    pixels, scored = first.pixels.sum() + second.pixels.sum(), first.scored.sum()
    first += second
    assert (first.pixels.sum(), first.scored.sum()) == (pixels, scored)


def test_nothing_to_divide_by_is_none() -> None:
    counts = Reliability(2)
    found = counts.kept(np.array([ABOVE, ABOVE]))
    assert (found.kept, found.accuracy, found.accuracy_rest) == (None, None, None)
    assert (counts.accuracy(), counts.accuracy_at(0.8), counts.auroc()) == (None, None, None)
    counts.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 9, np.uint16), np.ones((2, 2), np.uint8))
    assert counts.kept(np.array([0, 0])).kept == 0
    assert counts.kept(np.array([0, 0])).accuracy is None
    assert counts.auroc() is None
