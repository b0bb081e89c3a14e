"""Our deformable attention and transformers' are one function, gradients included, in float32 and under autocast."""

import pytest
import torch
from torch import nn
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as TransformersAttention,
)
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from semivss.models.deform_attn import DeformableAttention, PixelDecoderAttention
from semivss.models.deform_sample import RowSum, cell_centres, deformable_sample, sample_as_table, sample_by_map

SIZES = [(2, 3), (4, 6), (8, 12)]
TOKENS = sum(height * width for height, width in SIZES)
QUERIES = [(3, 5)]  # a grid of its own
CPU = torch.device("cpu")


def inputs(heads: int = 4, width: int = 8, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Value, offsets, weights; many places lie outside the map."""
    torch.manual_seed(0)
    offsets = torch.randn(2, 15, heads, 3, 4, 2, dtype=dtype) * 4
    weights = torch.rand(2, 15, heads, 3, 4, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (torch.randn(2, TOKENS, heads, width, dtype=dtype), offsets, weights)]


def published(value, sizes, places, offsets, weights):
    """The form that all published code shares: grid_sample of every map, then stack, multiply, sum."""
    extents = torch.tensor([[width, height] for height, width in sizes])[:, None]
    return multi_scale_deformable_attention(value, sizes, places[:, None, None, None] + offsets / extents, weights)


def result_and_gradients(sample, dtype: torch.dtype) -> list[torch.Tensor]:
    value, offsets, weights = inputs(dtype=dtype)
    direction = torch.randn(2, 15, 32, generator=torch.Generator().manual_seed(1), dtype=dtype)
    mixed = sample(value, SIZES, cell_centres(QUERIES, CPU), offsets, weights)
    return [mixed, *torch.autograd.grad((mixed * direction).sum(), (value, offsets, weights))]


@pytest.mark.parametrize("form", [sample_by_map, sample_as_table])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_both_forms_give_the_published_samples_and_gradients(form, dtype, limit):
    for ours, theirs in zip(result_and_gradients(form, dtype), result_and_gradients(published, dtype), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=limit, atol=limit * theirs.abs().max().item())


@pytest.mark.parametrize(("width", "form"), [(4, "sample_by_map"), (8, "sample_as_table")])
def test_narrow_heads_are_sampled_by_map(width, form, monkeypatch):
    called = []
    for each in (sample_by_map, sample_as_table):
        monkeypatch.setattr(
            f"semivss.models.deform_sample.{each.__name__}", lambda *given, each=each: called.append(each.__name__) or each(*given)
        )
    value, offsets, weights = inputs(width=width)
    deformable_sample(value, SIZES, cell_centres(QUERIES, CPU), offsets, weights)
    assert called == [form]


def layers() -> tuple[nn.Module, PixelDecoderAttention, dict[str, object]]:
    torch.manual_seed(0)
    ours, theirs = PixelDecoderAttention(32, 4), TransformersAttention(32, 4, 3, 4)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    hidden, places = torch.randn(2, TOKENS, 32), torch.randn(2, TOKENS, 32)
    reference = cell_centres(SIZES, hidden.device)[None, :, None].expand(2, -1, 3, -1)
    call = {"hidden_states": hidden, "encoder_hidden_states": hidden, "position_embeddings": places, "spatial_shapes_list": SIZES}
    return theirs, ours, call | {"reference_points": reference, "attention_mask": torch.zeros(2, TOKENS, dtype=torch.bool)}


def test_the_module_equals_that_of_transformers():
    theirs, ours, call = layers()
    expected, got = theirs(**call)[0], ours(**call)[0]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for output in (expected, got):
        output.square().sum().backward()
    for name, parameter in theirs.named_parameters():
        gradient = ours.get_parameter(name).grad
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5 * parameter.grad.abs().max().item())


def test_positions_stay_exact_under_autocast():
    theirs, ours, call = layers()
    for module in (theirs, ours):  # values pass unchanged, so that what is left of the error is that of the positions
        module.value_proj, module.output_proj = nn.Identity(), nn.Identity()
    exact = ours(**call)[0]
    with torch.autocast("cpu", torch.bfloat16):
        error, usual = ((module(**call)[0].float() - exact).abs().max() for module in (ours, theirs))
    assert error < 1e-5
    assert usual > 1e-2


def test_a_model_of_bfloat16_computes_its_places_in_float32():
    _, ours, call = layers()
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeformableAttention, "sample", staticmethod(lambda *given: seen.extend(given) or given[0].flatten(2)))
        halves = {
            key: value.bfloat16() if isinstance(value, torch.Tensor) and value.is_floating_point() else value for key, value in call.items()
        }
        out = ours.bfloat16()(**halves)[0]
    assert out.dtype == torch.bfloat16
    assert [tensor.dtype for tensor in seen if isinstance(tensor, torch.Tensor)] == [torch.float32] * 4


def test_queries_values_and_result_may_have_widths_and_places_of_their_own():
    module = DeformableAttention(24, 4, maps=1, points=2, value_width=8)
    out = module(torch.randn(2, 15, 24), cell_centres(QUERIES, CPU), torch.randn(2, 6, 24), [(2, 3)])
    assert out.shape == (2, 15, 24)
    assert module.value_proj.weight.shape == (8, 24)
    assert module.sampling_offsets.weight.shape == (4 * 1 * 2 * 2, 24)
    with pytest.raises(ValueError, match="multiple of heads"):
        DeformableAttention(24, 5)


def test_first_steps_look_along_each_heads_direction():
    bias = DeformableAttention(32, 4).sampling_offsets.bias.view(4, 3, 4, 2)
    torch.testing.assert_close(bias[0, 0], torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0]]))
    torch.testing.assert_close(bias[1, 2], torch.tensor([[0, 1.0], [0, 2], [0, 3], [0, 4]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("length", [5, 40])
def test_row_sum_with_rows_used_twice(length):
    table = torch.randn(length, 3, requires_grad=True)
    shares = torch.randn(4, 6, requires_grad=True)
    rows = torch.randint(0, 5, (4, 6), dtype=torch.int32)
    expected = (table[rows.long()] * shares[..., None]).sum(1)
    got = RowSum.apply(table, rows, shares)
    torch.testing.assert_close(got, expected)
    for ours, theirs in zip(*(torch.autograd.grad(each.square().sum(), (table, shares)) for each in (got, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("sizes", [[(1, 1), (2, 2), (4, 4)], [(3, 1), (6, 2), (12, 4)]])
def test_the_smallest_maps_work(sizes):
    tokens = sum(height * width for height, width in sizes)
    module = PixelDecoderAttention(32, 4)
    hidden = torch.randn(1, tokens, 32)
    out = module(hidden, encoder_hidden_states=hidden, position_embeddings=torch.zeros_like(hidden), spatial_shapes_list=sizes)[0]
    assert out.shape == hidden.shape
    assert out.isfinite().all()


@pytest.mark.parametrize("frozen", [0, 2])
def test_the_gradient_of_a_frozen_part_is_not_computed(frozen, monkeypatch):
    half = {0: "_table_gradient", 2: "_share_gradient"}[frozen]
    inputs = [torch.randn(6, 8), torch.randint(0, 6, (4, 3), dtype=torch.int32), torch.rand(4, 3)]
    wanted = 2 - frozen
    inputs[wanted].requires_grad_()
    RowSum.apply(*inputs).sum().backward()
    before, inputs[wanted].grad = inputs[wanted].grad, None
    monkeypatch.setattr(f"semivss.models.deform_sample.{half}", None)
    RowSum.apply(*inputs).sum().backward()
    assert torch.equal(inputs[wanted].grad, before)
