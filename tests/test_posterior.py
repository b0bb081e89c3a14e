"""Class distributions, entropies and splits against values that can be worked out by hand."""

import math

import numpy as np
import pytest
import torch

from semivss.posterior import (
    class_distribution,
    class_factors,
    class_softmax,
    entropy,
    entropy_percentile,
    l1_,
    mask_votes,
    resize_maps,
    softmax,
    split_labels,
    spread_,
    unreliability_threshold,
    unreliability_thresholds,
)
from semivss.tensors import Distribution, MaskLogits, PixelLogits

RULES = ["spread", "l1", "softmax"]


def pixels(*votes: list[float]) -> torch.Tensor:
    """A row of pixels with these votes."""
    return torch.tensor(votes).T[None, :, None]


@pytest.mark.parametrize("apart", [0.0, 55.0, 59.0, 61.0, 500.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_softmax_of_few_classes_is_torchs_however_far_rows_lie_apart(apart: float, dtype: torch.dtype) -> None:
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows[3:] -= apart
    exact = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(class_softmax(rows, -1), rows.softmax(-1), atol=exact, rtol=exact)


def test_softmax_of_few_classes_keeps_what_is_not_finite() -> None:
    rows = torch.tensor([[0.0, -math.inf, 1.0], [math.nan, 0.0, 1.0], [0.0, 1.0, 2.0]])
    torch.testing.assert_close(class_softmax(rows, -1), rows.softmax(-1), equal_nan=True)


def mask_logits(batch: int = 2, queries: int = 5, classes: int = 4, size: tuple[int, int] = (6, 8), seed: int = 0) -> MaskLogits:
    generator = torch.Generator().manual_seed(seed)
    return MaskLogits(
        torch.randn(batch, queries, classes + 1, generator=generator) * 2,
        torch.randn(batch, queries, *size, generator=generator) * 3,
        torch.zeros(batch, 3, *size),
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [None, (24, 32), (23, 29), (50, 31)])
def test_every_rule_gives_a_distribution_of_the_size_asked_for(rule, size):
    p = class_distribution(mask_logits(), size, rule)
    assert p.shape == (2, 4, *(size or (6, 8)))
    assert p.dtype == torch.float32
    assert p.min() >= 0
    torch.testing.assert_close(p.sum(1), torch.ones_like(p[:, 0]))


def test_pixel_logits_become_a_softmax_after_resizing():
    output = PixelLogits(torch.tensor([[[[0.0, 4.0]], [[0.0, 0.0]]]]), torch.zeros(1, 1, 1, 2))
    p = class_distribution(output, (1, 4))
    # bilinear with align_corners=False puts the four centres at 0, 1/4, 3/4 and 1 of the way between the two cells
    expected = torch.tensor([0.0, 1.0, 3.0, 4.0]).sigmoid()
    torch.testing.assert_close(p[0, 0, 0], expected)


def test_spread_equals_l1_where_the_votes_reach_one():
    votes = pixels([0.9, 0.6, 0.0])
    torch.testing.assert_close(spread_(votes.clone()), l1_(votes.clone()))
    torch.testing.assert_close(spread_(votes.clone()).flatten(), torch.tensor([0.6, 0.4, 0.0]))


def test_spread_gives_missing_mass_to_all_classes():
    p = spread_(pixels([0.2, 0.1, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(p[0, :, 0, 0], torch.tensor([0.2, 0.1, 0.0, 0.0]) + 0.7 / 4)
    torch.testing.assert_close(p[0, :, 0, 1], torch.full((4,), 0.25))


def test_l1_is_certain_of_a_faint_vote_and_uniform_without_any():
    p = l1_(pixels([1e-6, 0.0], [0.0, 0.0]))
    torch.testing.assert_close(p[0, :, 0], torch.tensor([[1.0, 0.5], [0.0, 0.5]]))


def test_published_softmax_squeezes_the_entropy():
    votes = torch.zeros(1, 124, 1, 2)
    votes[0, 0, 0, 0] = 1.0
    narrow = entropy(softmax(votes.clone()))[0, 0]
    wide = entropy(spread_(votes.clone()))[0, 0]
    assert softmax(votes).max() < 0.0217
    assert narrow[1] - narrow[0] < 0.02
    assert wide[0] == 0.0
    assert wide[1] == pytest.approx(math.log(124), abs=1e-4)


def test_duplicate_queries_do_not_break_the_entropy():
    output = MaskLogits(torch.tensor([[[9.0, 0.0, 0.0]] * 2]), torch.full((1, 2, 1, 1), 9.0), torch.zeros(1, 1, 1, 1))
    assert mask_votes(output).sum() > 1.9
    assert 0 <= entropy(class_distribution(output)).item() < 0.01


def test_votes_are_resized_before_they_are_normalised():
    output = mask_logits()
    votes = resize_maps(mask_votes(output), (24, 32))
    torch.testing.assert_close(class_distribution(output, (24, 32), "l1"), votes / votes.sum(1, keepdim=True))


def test_no_object_votes_for_no_class():
    output = MaskLogits(torch.tensor([[[0.0, 0.0, 50.0]]]), torch.full((1, 1, 1, 1), 50.0), torch.zeros(1, 1, 1, 1))
    assert mask_votes(output).sum() < 1e-6


@pytest.mark.parametrize("size", [(23, 29), (21, 32), (24, 31)])
def test_an_odd_size_moves_nothing(size):
    maps = torch.randn(1, 2, 6, 8)
    torch.testing.assert_close(resize_maps(maps, size), resize_maps(maps, (24, 32))[..., : size[0], : size[1]])


def test_maps_and_logits_are_left_alone():
    output = mask_logits()
    before = output.mask_logits.clone()
    pixel = PixelLogits(torch.randn(1, 2, 3, 3), torch.zeros(1, 1, 3, 3))
    logits = pixel.logits.clone()
    for size in (None, (6, 8), (12, 16)):
        class_distribution(output, size)
        class_distribution(pixel, size)
    assert torch.equal(output.mask_logits, before)
    assert torch.equal(pixel.logits, logits)


@pytest.mark.parametrize("rule", RULES)
def test_the_distribution_has_the_gradient_of_its_formula(rule):
    output = mask_logits(batch=1, queries=2, classes=3, size=(2, 2))

    def distribution(masks: torch.Tensor) -> torch.Tensor:
        return class_distribution(MaskLogits(output.class_logits, masks, output.pixel_features), (8, 8), rule)

    masks = output.mask_logits.clone().requires_grad_()
    direction = torch.randn_like(distribution(masks))
    (gradient,) = torch.autograd.grad((distribution(masks) * direction).sum(), masks)
    step = torch.zeros_like(masks)
    step[0, 1, 0, 1] = 1e-2
    numeric = ((distribution(masks + step) - distribution(masks - step)).double() * direction).sum() / 2e-2
    assert gradient[0, 1, 0, 1].item() == pytest.approx(numeric.item(), rel=2e-2, abs=1e-4)


def test_half_precision_logits_give_float32():
    output = mask_logits()
    half = MaskLogits(output.class_logits.bfloat16(), output.mask_logits.bfloat16(), output.pixel_features)
    with torch.autocast("cpu", torch.bfloat16):
        p = class_distribution(half, (24, 32))
    assert p.dtype == torch.float32
    torch.testing.assert_close(p.sum(1), torch.ones(2, 24, 32))


def test_unknown_rule_names_the_known_ones():
    with pytest.raises(ValueError, match="spread, l1, softmax"):
        class_distribution(mask_logits(), rule="max")


def test_two_equal_classes_have_entropy_log_two():
    assert entropy(pixels([0.5, 0.5, 0.0])).item() == pytest.approx(math.log(2))


def test_entropy_of_many_classes():
    p = torch.softmax(torch.randn(2, 124, 3, 5), 1)
    torch.testing.assert_close(entropy(p), -(p * p.log()).sum(1))
    assert entropy(torch.full((1, 124, 1, 1), 1 / 124)).item() == pytest.approx(math.log(124), abs=1e-5)


def test_a_pixel_at_the_threshold_is_unreliable():
    p = pixels([0.5, 0.5], [0.9, 0.1])
    gamma = entropy(p)[0, 0, 0].item()
    split = split_labels(p.argmax(1).to(torch.uint8), entropy(p), gamma)
    assert split.unreliable.tolist() == [[[True, False]]]
    assert split.labels.tolist() == [[[255, 0]]]


def entropies(*values: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A row of pixels with these entropies, all labelled 0."""
    return torch.tensor(values).view(1, 1, -1), torch.zeros(1, 1, len(values), dtype=torch.uint8)


@pytest.mark.parametrize("percent", [0.0, 3.7, 25.0, 50.0, 80.0, 99.9, 100.0])
def test_percentile_is_numpys(percent):
    values = torch.rand(2, 13, 7)
    labels = (torch.rand(2, 13, 7) < 0.3).to(torch.uint8) * 255
    expected = np.percentile(values[labels == 0].numpy(), percent)
    assert entropy_percentile(values, labels, percent) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 3.7, 50.0, 100.0])
def test_thresholds_of_classes_are_those_of_their_pixels_alone(alpha):
    values, labels = torch.rand(2, 13, 7).round(decimals=1), torch.randint(0, 6, (2, 13, 7), dtype=torch.uint8)
    labels[labels == 3] = 255  # class 3 has no pixel
    found = unreliability_thresholds(values, labels, alpha, 7)
    for number in range(7):
        own = torch.where(labels == number, labels, torch.full_like(labels, 255))
        assert float(found[number]) == pytest.approx(unreliability_threshold(values, own, alpha), abs=1e-6)


def test_nothing_is_unreliable_without_labels_or_with_alpha_zero():
    values, labels = entropies(0.1, 0.2, 0.3)
    assert unreliability_threshold(values, labels, 0.0) == math.inf
    assert unreliability_threshold(values, torch.full_like(labels, 255), 20.0) == math.inf
    assert split_labels(labels, values, math.inf).unreliable.sum() == 0


def test_equal_entropies_leave_nothing_reliable():
    values, labels = entropies(0.1, 0.1, 0.1, 0.1)
    split = split_labels(labels, values, unreliability_threshold(values, labels, 20.0))
    assert split.unreliable.all()
    assert (split.labels == 255).all()


def test_alpha_percent_of_the_labelled_pixels_are_unreliable():
    values, labels = torch.rand(1, 40, 50), torch.zeros(1, 40, 50, dtype=torch.uint8)
    labels[:, :10] = 255
    split = split_labels(labels, values, unreliability_threshold(values, labels, 20.0))
    assert split.unreliable.sum() == 300
    assert not split.unreliable[:, :10].any()


def test_each_class_may_have_its_own_threshold():
    values, labels = entropies(0.1, 0.3, 0.1, 0.3)
    labels[..., 2:] = 1
    labels[..., 1] = 255
    split = split_labels(labels, values, torch.tensor([0.2, 0.05]))
    assert split.unreliable.tolist() == [[[False, False, True, True]]]
    assert split.labels.tolist() == [[[0, 255, 255, 255]]]


def test_aligned_corners_keep_the_corner_cells():
    maps = torch.randn(1, 2, 3, 4)
    large = resize_maps(maps, (9, 13), align_corners=True)
    torch.testing.assert_close(large[..., ::4, ::4], maps)


def test_factors_are_bounded_and_spare_classes_without_labels():
    mean, wanted = torch.tensor([0.001, 0.9, 0.0, 0.099]), torch.tensor([0.5, 0.01, 0.49, 0.0])
    assert class_factors(mean, wanted, 1.0).tolist() == pytest.approx([10, 0.1, 10, 1])
    assert class_factors(mean, wanted, 0.5).tolist() == pytest.approx([10**0.5, 0.1**0.5, 10**0.5, 1])
    assert class_factors(torch.tensor([0.2, 0.8]), torch.tensor([0.5, 0.5]), 1.0).tolist() == pytest.approx([2.5, 0.625])


def test_a_distribution_is_resized_as_the_whole_image_even_where_it_looks_like_a_segmenters_map():
    p = torch.tensor([[0.0, 1.0], [1.0, 0.0]])[None, :, None]  # two classes, one row of two pixels
    row = class_distribution(Distribution(p), (1, 5))[0, 1, 0]  # ceil(5 / 4) = 2 cells of 4 pixels, if they were logits
    torch.testing.assert_close(row, torch.tensor([1.0, 0.9, 0.5, 0.1, 0.0]))
    whole = class_distribution(Distribution(p))
    torch.testing.assert_close(whole, p, rtol=0, atol=0)
    assert whole.data_ptr() != p.data_ptr()  # the running sum is written in place
