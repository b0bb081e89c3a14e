"""L_u: which pixels count, what they weigh, and what is left when none is reliable; for both heads."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semivss.losses.mask import mask_loss
from semivss.losses.supervised import distribution_loss
from semivss.losses.unsupervised import pixel_unsupervised_loss, reliable_factor, unsupervised_loss
from semivss.posterior import class_distribution, resize_maps, split_labels
from semivss.settings import Mask2FormerHead, Model, Semi
from semivss.tensors import MaskLogits, PixelLogits, Split

CLASSES = 4
MASKS = Model(head="mask2former", mask2former=Mask2FormerHead(channels=32, heads=4, queries=6, points=200))


def split_of(kept: int, dropped: int, none: int, images: int = 1) -> Split:
    """Rows of 16 pixels: reliable ones of class 1, unreliable ones, and such without a pseudo label, in each image."""
    labels = torch.cat([torch.full((images, rows, 16), value, dtype=torch.uint8) for rows, value in ((kept + dropped, 1), (none, 255))], 1)
    doubt = torch.zeros(labels.shape)
    doubt[:, kept:] = 1.0
    return split_labels(labels, doubt, 0.5)


def mask_logits(images: int, size: tuple[int, int], seed: int = 0) -> MaskLogits:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn(images, 6, size[0] // 4, size[1] // 4, generator=generator)
    return MaskLogits(torch.randn(images, 6, CLASSES + 1, generator=generator), masks, torch.zeros(images, 1, *masks.shape[2:]))


@pytest.mark.parametrize(
    ("options", "factor"), [({}, 12 / 8), ({"count_ignored": True}, 2.0), ({"limit": 1.2}, 1.2), ({"limit": None}, 12 / 8)]
)
def test_the_mean_is_multiplied_by_all_over_reliable(options, factor):
    split = split_of(kept=8, dropped=4, none=4)
    assert reliable_factor(split, **options).item() == pytest.approx(factor)
    assert pixel_unsupervised_loss(torch.zeros(1, CLASSES, 4, 4), split, **options).item() == pytest.approx(factor * math.log(CLASSES))


def test_few_reliable_pixels_weigh_five_times_at_most():
    split = split_of(kept=1, dropped=15, none=0)
    assert reliable_factor(split).item() == 5
    assert reliable_factor(split, limit=None).item() == 16


@pytest.mark.parametrize("limit", [1.5, 4.0])
def test_the_recipes_largest_factor_holds_for_both_heads(limit):
    split, semi = split_of(kept=4, dropped=12, none=0), Semi(max_area_factor=limit, weigh_masks=True, unsupervised=1.0)
    pixels = PixelLogits(torch.zeros(1, CLASSES, 4, 4), torch.zeros(1, 1, 4, 4))
    assert unsupervised_loss(pixels, split, Model(), semi)["cross_entropy"].item() == pytest.approx(limit * math.log(CLASSES))
    masks, head = mask_logits(1, (16, 16)), MASKS.mask2former.model_copy(update={"min_area": semi.min_area})
    found = unsupervised_loss(masks, split, MASKS, semi, torch.Generator().manual_seed(0))
    assert found == mask_loss(masks, split.labels, head, torch.Generator().manual_seed(0), torch.tensor([limit]))


def test_each_image_has_a_factor_of_its_own_where_asked():
    split = Split(
        *(torch.cat(pair) for pair in zip(*((s.labels, s.unreliable) for s in (split_of(8, 8, 0), split_of(4, 0, 12))), strict=True))
    )
    assert reliable_factor(split, images=True).tolist() == [2.0, 1.0]
    assert reliable_factor(split).item() == pytest.approx(20 / 12)


@pytest.mark.parametrize("split", [split_of(0, 16, 0), split_of(0, 0, 16), split_of(0, 7, 9)])
@pytest.mark.parametrize("count_ignored", [True, False])
def test_nothing_reliable_is_zero_with_a_zero_gradient(split, count_ignored):
    logits = torch.randn(1, CLASSES, 4, 4, requires_grad=True)
    loss = pixel_unsupervised_loss(logits, split, limit=None, count_ignored=count_ignored)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


def test_unreliable_and_ignored_pixels_get_no_gradient():
    logits = torch.randn(1, CLASSES, 4, 4, requires_grad=True)
    pixel_unsupervised_loss(logits, split_of(kept=8, dropped=4, none=4)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, :, 3:] == 0).all()  # beyond the one cell that bilinear resizing reaches
    assert (logits.grad[:, :, :2] != 0).all()


def test_aligned_corners_are_an_argument():
    logits, split = torch.randn(1, CLASSES, 4, 4), split_of(8, 8, 0)
    large = resize_maps(logits, (16, 16), align_corners=True)
    expected = 2 * F.cross_entropy(large[:, :, :8], torch.ones(1, 8, 16, dtype=torch.int64))
    torch.testing.assert_close(pixel_unsupervised_loss(logits, split, align_corners=True), expected)
    assert pixel_unsupervised_loss(logits, split) != expected


def test_terms_of_both_heads_carry_lambda_u():
    split, semi = split_of(8, 4, 4, images=2), Semi(unsupervised=0.5)
    output = PixelLogits(torch.zeros(2, CLASSES, 4, 4), torch.zeros(2, 1, 4, 4))
    terms = unsupervised_loss(output, split, Model(), semi)
    assert terms.keys() == {"cross_entropy"}
    assert terms["cross_entropy"].item() == pytest.approx(0.5 * 1.5 * math.log(CLASSES))
    masks = mask_logits(2, (16, 16))
    plain = mask_loss(masks, split.labels, MASKS.mask2former, torch.Generator().manual_seed(0))
    terms = unsupervised_loss(masks, split, MASKS, semi, torch.Generator().manual_seed(0))
    assert {name: term.item() for name, term in terms.items()} == {name: pytest.approx(0.5 * term.item()) for name, term in plain.items()}


def test_small_pseudo_classes_are_no_targets():
    split = split_of(16, 0, 0)
    split.labels[0, 0, :15] = 2  # 15 pixels
    for area, targets in ((16, 1), (15, 2)):
        output = mask_logits(1, (16, 16))
        output.class_logits.requires_grad_()
        terms = unsupervised_loss(output, split, MASKS, Semi(min_area=area), torch.Generator().manual_seed(0))
        (gradient,) = torch.autograd.grad(terms["class"], output.class_logits)
        assert (gradient[0, :, :CLASSES] < 0).sum() == targets  # a matched query is pushed towards its class


def mean_terms(output: MaskLogits, split: Split, weigh: bool) -> dict[str, Tensor]:
    return unsupervised_loss(output, split, MASKS, Semi(weigh_masks=weigh), torch.Generator().manual_seed(0))


def test_mask_terms_are_weighed_by_image_only_where_asked():
    output = mask_logits(1, (16, 16))
    plain, weighed = (mean_terms(output, split_of(8, 8, 0), weigh) for weigh in (False, True))
    for name in ("mask", "dice"):
        torch.testing.assert_close(weighed[name], 2 * plain[name])
    torch.testing.assert_close(weighed["class"], plain["class"])


@pytest.mark.parametrize("rule", ["spread", "l1", "softmax"])
def test_likelihood_is_that_of_the_distribution(rule):
    output, split = mask_logits(2, (16, 16)), split_of(8, 4, 4, images=2)
    p = class_distribution(output, (16, 16), rule)
    torch.testing.assert_close(distribution_loss(output, split.labels, rule), -p[:, 1, :8].log().mean())


def test_likelihood_joins_the_terms_of_masks_with_its_weight():
    output, split = mask_logits(2, (16, 16)), split_of(8, 4, 4, images=2)
    terms = unsupervised_loss(output, split, MASKS, Semi(likelihood=0.3, unsupervised=2.0), torch.Generator().manual_seed(0))
    torch.testing.assert_close(terms["likelihood"], 0.6 * distribution_loss(output, split.labels))
    assert "likelihood" not in mean_terms(output, split, False)


def test_likelihood_of_the_impossible_and_of_nothing_is_finite():
    masks = torch.full((1, 1, 4, 4), 200.0, requires_grad=True)
    output = MaskLogits(torch.tensor([[[200.0, -200.0, -200.0]]]), masks, torch.zeros(1, 1, 4, 4))
    assert distribution_loss(output, torch.ones(1, 16, 16, dtype=torch.uint8)).item() == pytest.approx(-math.log(1e-8))
    loss = distribution_loss(output, torch.full((1, 16, 16), 255, dtype=torch.uint8))
    loss.backward()
    assert loss == 0
    assert masks.grad is not None
    assert masks.grad.abs().sum() == 0


def test_likelihood_of_pixel_logits_is_their_cross_entropy():
    output = PixelLogits(torch.randn(1, CLASSES, 4, 4), torch.zeros(1, 1, 4, 4))
    labels = split_of(8, 4, 4).labels
    expected = F.cross_entropy(resize_maps(output.logits, (16, 16)), labels.long(), ignore_index=255)
    torch.testing.assert_close(distribution_loss(output, labels), expected)


def test_half_precision_is_computed_in_float32():
    logits, split = torch.randn(1, CLASSES, 4, 4).bfloat16(), split_of(8, 8, 0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = pixel_unsupervised_loss(logits, split)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, pixel_unsupervised_loss(logits.float(), split))
