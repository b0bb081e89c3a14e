"""The decoder of evaluation mode against transformers' own module, which training runs: the same weights, the same answers."""

import copy

import pytest
import torch
from torch import Tensor

from semivss.models.mask2former import Mask2Former
from semivss.settings import Mask2FormerHead
from semivss.tensors import MaskLogits

INPUTS = (16, 24, 32, 48)
SIZES = {
    "small": Mask2FormerHead(channels=32, queries=7, encoder_layers=1, decoder_layers=4, heads=4, encoder_feedforward=32, feedforward=48),
    "one layer": Mask2FormerHead(channels=64, queries=3, encoder_layers=1, decoder_layers=1, heads=2, feedforward=32),
    "other mask channels": Mask2FormerHead(channels=32, mask_channels=20, queries=9, encoder_layers=2, decoder_layers=9, heads=8),
    "preset": Mask2FormerHead(queries=100, encoder_layers=1),
}


def head(settings: Mask2FormerHead, rows: tuple[int, ...] | None = None) -> Mask2Former:
    """Random weights with which queries differ and look at different places, as those of a trained head do."""
    torch.manual_seed(0)
    made = Mask2Former(INPUTS, 5, settings, rows)
    torch.nn.init.normal_(made.classify.weight)
    with torch.no_grad():
        made.pixel_decoder.mask_projection.weight.mul_(8)
        for layer in made.transformer.decoder.layers:  # else many layers make all queries alike
            for branch in (layer.cross_attn.out_proj, layer.self_attn.out_proj, layer.fc2):
                branch.weight.mul_(0.1)
            layer.cross_attn.in_proj_bias.normal_()
    return made.eval()


def pyramid(*size: int, batch: int = 2) -> list[Tensor]:
    """Smooth maps, of strides 4 to 32."""
    generator = torch.Generator().manual_seed(1)
    coarse = (torch.randn(batch, width, 4, 5, generator=generator) for width in INPUTS)
    sides = [(size[0] // stride, size[1] // stride) for stride in (4, 8, 16, 32)]
    return [torch.nn.functional.interpolate(level, side, mode="bicubic") for level, side in zip(coarse, sides, strict=True)]


@torch.no_grad()
def both(made: Mask2Former, maps: list[Tensor]) -> tuple[MaskLogits, MaskLogits]:
    """Of evaluation mode and of training mode; the head has no dropout."""
    lean = made.eval()(maps)
    full = made.train()(maps)
    made.eval()
    return lean, full


def labels(output: MaskLogits) -> Tensor:
    return torch.einsum("bqc,bqhw->bchw", output.class_logits.softmax(-1)[..., :-1], output.mask_logits.sigmoid()).argmax(1)


@pytest.mark.parametrize("settings", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("size", [(64, 96), (160, 224)], ids=str)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-3), (torch.float64, 1e-9)], ids=["float32", "float64"])
def test_the_lean_decoder_answers_as_the_training_path_does(settings, size, dtype, limit):
    lean, full = both(head(settings).to(dtype), [level.to(dtype) for level in pyramid(*size)])
    assert lean.auxiliary == ()
    assert full.mask_logits.std() > 1
    assert (full.mask_logits > 0).float().mean(dim=(-2, -1)).std() > 0.01  # the masks differ
    for own, theirs in ((lean.class_logits, full.class_logits), (lean.mask_logits, full.mask_logits)):
        assert own.dtype == theirs.dtype
        assert (own - theirs).abs().max() < limit
    assert torch.equal(labels(lean), labels(full))


def test_a_query_whose_mask_is_empty_looks_everywhere():
    made = head(SIZES["small"])
    with torch.no_grad():
        made.transformer.decoder.mask_predictor.mask_embedder.layers[-1].layers[0].weight.zero_()
        made.transformer.decoder.mask_predictor.mask_embedder.layers[-1].layers[0].bias.zero_()[0] = 1
        made.pixel_decoder.mask_projection.weight.zero_()
        made.pixel_decoder.mask_projection.bias.fill_(-1)  # every mask logit is -1
    lean, full = both(made, pyramid(64, 96))
    assert (full.mask_logits == -1).all()
    assert full.class_logits.std(1).mean() > 0.1
    torch.testing.assert_close(lean.class_logits, full.class_logits, atol=1e-4, rtol=0)


def test_rows_of_other_classes_are_merged_alike():
    lean, full = both(head(SIZES["small"], rows=(0, 1, 1, 2, 3, 4, 4)), pyramid(64, 96))
    assert lean.class_logits.shape == (2, 7, 6)
    torch.testing.assert_close(lean.class_logits, full.class_logits, atol=1e-4, rtol=0)


def test_the_lean_decoder_under_autocast_is_as_near_to_the_exact_answer_as_the_training_path_is():
    made, maps = head(SIZES["small"]), pyramid(64, 96)
    exact = made(maps)
    with torch.autocast("cpu", torch.bfloat16):
        lean, full = both(made, maps)
    errors = [(output.mask_logits.float() - exact.mask_logits).abs().mean().item() for output in (lean, full)]
    assert errors[0] < 1.5 * errors[1]
    assert errors[1] < 0.05 * exact.mask_logits.std()


def test_evaluation_keeps_no_second_copy_of_the_weights():
    made = head(SIZES["small"])
    before = copy.deepcopy(made.state_dict())
    made(pyramid(64, 96))
    assert list(made.state_dict()) == list(before)
    with torch.no_grad():
        first = made(pyramid(64, 96)).class_logits
        made.transformer.decoder.layers[0].fc1.weight.mul_(-1)
        assert not torch.allclose(made(pyramid(64, 96)).class_logits, first)
