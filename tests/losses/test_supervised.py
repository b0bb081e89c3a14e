"""The two heads' losses under one name, and cross-entropy over valid pixels."""

import math

import pytest
import torch

from semivss.losses.supervised import pixel_loss, supervised_loss
from semivss.settings import Mask2FormerHead, Model
from semivss.tensors import MaskLogits, PixelLogits


def test_cross_entropy_of_equal_logits_is_log_of_the_classes():
    labels = torch.zeros(2, 8, 8, dtype=torch.uint8)
    labels[0, :5] = 255
    assert pixel_loss(torch.zeros(2, 7, 2, 2), labels).item() == pytest.approx(math.log(7))


def test_every_valid_pixel_weighs_the_same_in_all_images():
    logits = torch.zeros(2, 2, 2, 2)
    logits[1, 1] = 5.0
    labels = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    labels[0, 0, :3] = 0  # three pixels of cost log 2
    labels[1, 0, 0] = 0  # one of cost log(1 + e^5)
    expected = (3 * math.log(2) + math.log1p(math.exp(5))) / 4
    assert pixel_loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_logits_under_ignored_pixels_get_no_gradient_beyond_one_cell():
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    labels = torch.zeros(1, 32, 32, dtype=torch.uint8)
    labels[:, :, 16:] = 255
    pixel_loss(logits, labels).backward()
    assert logits.grad is not None
    assert logits.grad[..., 5:].abs().max() == 0
    assert logits.grad[..., :4].abs().min() > 0


def test_no_valid_pixel_is_zero_with_a_zero_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = pixel_loss(logits, torch.full((1, 16, 16), 255, dtype=torch.uint8))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_an_odd_size_reads_the_same_logits():
    logits = torch.randn(1, 3, 4, 4)
    labels = torch.randint(0, 3, (1, 16, 16), dtype=torch.uint8)
    cut = labels.clone()
    cut[:, 13:] = 255
    cut[:, :, 14:] = 255
    torch.testing.assert_close(pixel_loss(logits, labels[:, :13, :14].contiguous()), pixel_loss(logits, cut))


def test_terms_carry_their_weights_and_names():
    labels = torch.zeros(1, 16, 16, dtype=torch.uint8)
    masks = MaskLogits(torch.randn(1, 1, 4), torch.randn(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
    settings = Mask2FormerHead(points=64)
    double = settings.model_copy(update={"dice_weight": 10.0})
    terms, twice = (
        supervised_loss(masks, labels, Model(head="mask2former", mask2former=each), torch.Generator().manual_seed(0))
        for each in (settings, double)
    )
    assert list(terms) == ["class", "mask", "dice"]
    assert twice["mask"] == terms["mask"]
    torch.testing.assert_close(twice["dice"], 2 * terms["dice"])
    pixels = PixelLogits(torch.randn(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))
    assert list(supervised_loss(pixels, labels, Model())) == ["cross_entropy"]
