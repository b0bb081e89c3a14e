"""Codes of entropies, and thresholds taken from their histogram."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semivss.data.codes import ABOVE, BIN_WIDTH, BINS, code_histogram, code_of_entropy, entropy_of_code, percentile_code, reliable


def histogram(codes: np.ndarray) -> np.ndarray:
    return code_histogram(np.zeros(codes.shape, np.uint8), codes, 1)[0]


def test_codes_span_the_range_and_come_back() -> None:
    assert code_of_entropy(np.array([0.0, math.log(7), 99.0, -1.0]), 7).tolist() == [0, 65535, 65535, 0]
    entropies = np.linspace(0, math.log(7), 1000)
    codes = code_of_entropy(entropies, 7)
    assert codes.dtype == np.uint16
    np.testing.assert_allclose(entropy_of_code(codes, 7), entropies, atol=4e-5)
    assert (np.diff(codes.astype(int)) >= 0).all()
    assert code_of_entropy(1e-4, 124) > 250  # confident pixels are told apart: a linear 8-bit code would have them all at 0


def test_every_code_is_its_own_inverse() -> None:
    codes = np.arange(65536).astype(np.uint16)
    assert np.array_equal(code_of_entropy(entropy_of_code(codes, 12), 12), codes)


def test_the_histogram_counts_each_class_by_bin_and_leaves_255_out() -> None:
    labels = np.array([[0, 1, 1, 255]], np.uint8)
    codes = np.array([[15, 16, 65535, 3]], np.uint16)
    counts = code_histogram(labels, codes, 2)
    assert counts.shape == (2, BINS)
    assert counts.sum() == 3
    assert (counts[0, 0], counts[1, 1], counts[1, BINS - 1]) == (1, 1, 1)


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=60), st.floats(0.1, 100))
def test_the_threshold_is_the_percentile_to_a_bin(values: list[int], alpha: float) -> None:
    codes = np.array([values], np.uint16)
    threshold = percentile_code(histogram(codes), alpha)
    exact = float(np.percentile(codes, 100 - alpha, method="lower"))
    assert threshold <= exact < threshold + BIN_WIDTH
    assert (codes >= threshold).mean() >= alpha / 100 - 1 / codes.size


def test_ties_are_unreliable() -> None:
    same = histogram(np.full((4, 5), 777, np.uint16))
    assert percentile_code(same, 20.0) <= 777  # nothing is strictly below the percentile
    half = np.array([[10] * 5 + [1000] * 5], np.uint16)
    assert 10 < percentile_code(histogram(half), 20.0) <= 1000
    assert percentile_code(histogram(half), 60.0) <= 10


@pytest.mark.parametrize(("alpha", "counts"), [(0.0, np.ones(BINS, np.int64)), (20.0, np.zeros(BINS, np.int64))])
def test_no_code_reaches_the_threshold_of_nothing(alpha: float, counts: np.ndarray) -> None:
    assert percentile_code(counts, alpha) == ABOVE > 65535
    assert percentile_code(np.ones(BINS, np.int64), 100.0) == 0


def test_reliable_pixels_have_a_label_and_a_code_below_the_threshold_of_its_class():
    labels = np.array([[0, 0, 1, 1, 255]], np.uint8)
    codes = np.array([[15, 16, 31, 32, 0]], np.uint16)
    assert reliable(labels, codes, np.array([16, 32])).tolist() == [[True, False, True, False, False]]
    assert reliable(labels, codes, np.array([ABOVE, ABOVE])).tolist() == [[True, True, True, True, False]]
