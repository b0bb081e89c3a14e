"""Score maps made in tiles against whole ones: every window enlarged, mixed, added up, and every view resized, as published code does."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semivss.infer import score_map
from semivss.infer.answers import TOP_STRIDE, read_answers
from semivss.infer.score_map import FusedScores, ScoreMap, WholeScores
from semivss.infer.views import View
from semivss.posterior import entropy, normalise_, pixel_distribution, resize_maps
from semivss.tensors import Distribution, MaskLogits, PixelLogits

CLASSES, QUERIES = 5, 7
CPU = torch.device("cpu")
VIEWS = (
    View(),
    View(flip=True),
    View(1.5, flip=True),
    View(0.75),
    View(crop=(24, 40), stride=(16, 24)),
    View(1.3, flip=True, crop=(32, 32), stride=(20, 28)),
    View(2.6, crop=(48, 64)),
    View(0.5, base=(90, 75), crop=(32, 32), stride=(11, 13)),
)


def mask_answer(height: int, width: int, seed: int) -> MaskLogits:
    generator = torch.Generator().manual_seed(seed)
    cells = -(-height // 4), -(-width // 4)
    masks = torch.randn(1, QUERIES, *cells, generator=generator) * 3
    return MaskLogits(torch.randn(1, QUERIES, CLASSES + 1, generator=generator), masks, masks[:, :1])


def pixel_answer(height: int, width: int, seed: int, rows: tuple[int, ...] | None = None) -> PixelLogits:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, CLASSES if rows is None else len(rows), -(-height // 4), -(-width // 4), generator=generator) * 3
    return PixelLogits(logits, logits[:, :1], rows)


def answers(view: View, size: tuple[int, int], make) -> list:
    return [(window, make(window.height, window.width, seed)) for seed, window in enumerate(view.windows(size))]


def whole_votes(view: View, size: tuple[int, int], make) -> Tensor:
    """Every window at its own full size, padded into the view and divided by the count; the view mirrored back and resized."""
    high, wide = view.size(size)
    total, count = torch.zeros(1, CLASSES, high, wide, dtype=torch.float64), torch.zeros(high, wide, dtype=torch.float64)
    for window, answer in answers(view, size, make):
        if isinstance(answer, MaskLogits):
            masks = resize_maps(answer.mask_logits, (window.height, window.width)).double().sigmoid()
            votes = torch.einsum("bqc,bqhw->bchw", answer.class_logits.double().softmax(-1)[..., :-1], masks)
        else:
            votes = pixel_distribution(answer, (window.height, window.width)).double()
        there = (slice(window.top, window.top + window.height), slice(window.left, window.left + window.width))
        total[..., there[0], there[1]] += votes
        count[there] += 1
    total = total / count
    total = total.flip(-1) if view.flip else total
    return F.interpolate(total, size, mode="bilinear", align_corners=False)[0]


def streamed(views, size: tuple[int, int], make, rule: str = "spread", dtype: torch.dtype = torch.float32) -> FusedScores:
    votes = ScoreMap(size, CLASSES, CPU, dtype)
    for view in views:
        for window, answer in answers(view, size, make):
            votes.add(answer, view, window, 1 / len(views))
    return FusedScores(((1.0, rule, votes),))


@pytest.mark.parametrize("make", [mask_answer, pixel_answer])
@pytest.mark.parametrize("size", [(60, 90), (61, 83), (33, 130)])
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_a_view_read_in_tiles_is_the_view_made_whole(view: View, size: tuple[int, int], make) -> None:
    expected = whole_votes(view, size, make)
    p = streamed([view], size, make, rule="l1").whole()
    torch.testing.assert_close(p.double(), expected / expected.sum(0), atol=3e-6, rtol=0)


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([0.5, 0.9, 1.0, 1.7]), st.booleans(), st.integers(8, 40), st.integers(3, 8))
@settings(max_examples=40, deadline=None)
def test_any_size_scale_and_window(height: int, width: int, scale: float, flip: bool, crop: int, stride: int) -> None:
    view, size = View(scale, flip, (crop, crop + 5), (stride, stride)), (height, width)
    expected = whole_votes(view, size, mask_answer)
    p = streamed([view], size, mask_answer, rule="l1").whole()
    torch.testing.assert_close(p.double(), expected / expected.sum(0), atol=3e-6, rtol=0)


def test_views_are_averaged_and_the_sum_of_their_votes_becomes_a_distribution() -> None:
    size = (61, 83)
    votes = torch.stack([whole_votes(view, size, mask_answer) for view in VIEWS]).mean(0)
    for rule in ("spread", "l1", "softmax"):
        p = streamed(VIEWS, size, mask_answer, rule).whole()
        torch.testing.assert_close(p.double(), normalise_(votes.clone(), rule, 0), atol=3e-6, rtol=0)


def test_a_small_tile_a_small_band_and_a_full_sum_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    size = (61, 83)
    expected = streamed(VIEWS[:5], size, mask_answer).whole()
    for tile, band in itertools.product((1, 1 << 30), (1, 1 << 30)):
        score_map._plan.cache_clear()
        monkeypatch.setattr(score_map, "_TILE", tile)
        monkeypatch.setattr(score_map, "_BAND", band)
        torch.testing.assert_close(streamed(VIEWS[:5], size, mask_answer).whole(), expected, atol=1e-6, rtol=0)
    score_map._plan.cache_clear()


@pytest.mark.parametrize("views", [VIEWS[:1], VIEWS])  # the windows' maps are kept | the sum is
def test_a_sum_in_half_precision_is_near(views) -> None:
    size = (61, 83)
    p, half = (streamed(views, size, mask_answer, dtype=dtype).whole() for dtype in (torch.float32, torch.float16))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, p, atol=2e-3, rtol=0)


def test_one_view_holds_the_windows_maps_and_no_map_of_all_pixels() -> None:
    size, votes = (64, 96), ScoreMap((64, 96), 40, CPU)
    votes.add(MaskLogits(torch.randn(1, 7, 41), torch.randn(1, 7, 16, 24), torch.randn(1, 1, 16, 24)), View(), View().windows(size)[0], 1.0)
    assert votes._total is None
    assert FusedScores(((1.0, "spread", votes),)).whole().shape == (40, 64, 96)


@pytest.mark.parametrize("make", [mask_answer, pixel_answer])
def test_direct_sampling_of_an_unscaled_view_is_the_exact_one(make) -> None:
    view, size = View(flip=True, crop=(24, 40), stride=(16, 24)), (61, 83)
    exact, direct = (
        streamed([View(flip=True, crop=view.crop, stride=view.stride, sampling=s)], size, make).whole() for s in ("exact", "direct")
    )
    torch.testing.assert_close(exact, direct, atol=1e-6, rtol=0)


def test_direct_sampling_reads_the_logits_at_the_centres_of_the_frames_pixels() -> None:
    size, view = (60, 90), View(2.0, sampling="direct")
    (_, answer) = answers(view, size, mask_answer)[0]
    expected = pixel_distribution(answer, size)  # maps of 30 x 45 cells span the whole frame, as they do the view of 120 x 180
    torch.testing.assert_close(streamed([view], size, mask_answer).whole(), expected[0], atol=2e-6, rtol=0)


def test_direct_sampling_leaves_queries_out_that_are_sure_of_no_class() -> None:
    masks = torch.full((1, 2, 15, 20), 20.0)
    classes = torch.tensor([[[9.0, 0, 0, 0, 0, 0], [0.0, 0, 0, 0, 0, 9.0]]])  # one is sure of class 0, one of "no object"
    view, size = View(1.5, sampling="direct"), (40, 54)
    for sampling, kept in (("direct", 1), ("exact", 2)):
        votes = ScoreMap(size, CLASSES, CPU)
        votes.add(MaskLogits(classes, masks, masks[:, :1]), View(1.5, sampling=sampling), view.windows(size)[0], 1.0)
        assert votes._kept[0].sheet.table.shape[1] == kept


def test_a_window_in_which_no_query_is_of_a_class_is_unsure_of_all() -> None:
    classes = torch.tensor([[[-9.0] * CLASSES + [9.0]] * QUERIES])
    masks = torch.randn(1, QUERIES, 10, 14)
    for sampling in ("exact", "direct"):
        votes = ScoreMap((40, 54), CLASSES, CPU)
        view = View(1.5, sampling=sampling)
        votes.add(MaskLogits(classes, masks, masks[:, :1]), view, view.windows((40, 54))[0], 1.0)
        p = FusedScores(((1.0, "spread", votes),)).whole()
        torch.testing.assert_close(p, torch.full_like(p, 1 / CLASSES), atol=1e-4, rtol=0)


def test_rows_that_count_for_one_class_are_merged_before_the_softmax() -> None:
    rows, size = (0, 1, 1, 2, 3, 4, 0), (33, 41)

    def make(height: int, width: int, seed: int) -> PixelLogits:
        return pixel_answer(height, width, seed, rows)

    expected = whole_votes(View(1.5), size, make)
    torch.testing.assert_close(streamed([View(1.5)], size, make).whole().double(), expected, atol=3e-6, rtol=0)


def test_a_distribution_is_read_as_spanning_its_window() -> None:
    def make(height: int, width: int, seed: int) -> Distribution:
        return Distribution(torch.rand(1, CLASSES, height, width, generator=torch.Generator().manual_seed(seed)).softmax(1))

    for view in VIEWS[:4]:
        expected = whole_votes(view, (33, 41), make)
        torch.testing.assert_close(streamed([view], (33, 41), make).whole().double(), expected, atol=3e-6, rtol=0)


def test_answers_read_in_one_pass_are_those_of_the_whole_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_map, "_BAND", 1)  # bands of 8 rows; 61 rows end within a cell of the likely classes
    p = streamed(VIEWS[:2], (61, 83), mask_answer).whole()
    for scores in (streamed(VIEWS[:2], (61, 83), mask_answer), WholeScores(p)):
        found = read_answers(scores, entropy=True, confidence=True, top_classes=3, probabilities="float16")
        np.testing.assert_array_equal(found.labels, p.argmax(0).numpy())
        share = (entropy(p[None])[0] / np.log(CLASSES)).numpy()
        np.testing.assert_allclose(found.codes, 65535 * np.sqrt(share), atol=1)
        np.testing.assert_allclose(found.confidence, 255 * p.amax(0), atol=0.6)
        np.testing.assert_array_equal(found.probabilities, p.half().numpy())
        cells = F.avg_pool2d(p[None], TOP_STRIDE, ceil_mode=True, count_include_pad=False)[0]
        np.testing.assert_array_equal(found.top_classes, cells.topk(3, 0).indices.numpy())
    bare = read_answers(WholeScores(p))
    assert (bare.codes, bare.confidence, bare.top_classes, bare.probabilities) == (None, None, None, None)
