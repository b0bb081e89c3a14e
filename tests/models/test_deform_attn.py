"""Our deformable attention and transformers' are one function, gradients included, in float32 and under autocast."""

import pytest
import torch
from torch import nn

from semivss.models.deform_attn import (
    DeformableAttention,
    RowSum,
    TransformersAttention,
    sample_as_table,
    sample_with_kernel,
    token_centres,
)

SIZES = [(2, 3), (4, 6), (8, 12)]
TOKENS = sum(height * width for height, width in SIZES)


def inputs(heads: int = 4, width: int = 8) -> list[torch.Tensor]:
    torch.manual_seed(0)
    offsets = torch.randn(2, TOKENS, heads, 3, 4, 2) * 4  # many of them outside the map
    weights = torch.rand(2, TOKENS, heads, 3, 4)
    return [tensor.requires_grad_() for tensor in (torch.randn(2, TOKENS, heads, width), offsets, weights)]


def test_table_and_kernel_give_the_same_samples_and_gradients():
    direction = torch.randn(2, TOKENS, 32)
    results = []
    for sample in (sample_with_kernel, sample_as_table):
        value, offsets, weights = inputs()
        mixed = sample(value, SIZES, offsets, weights)
        results.append([mixed, *torch.autograd.grad((mixed * direction).sum(), (value, offsets, weights))])
    for kernel, table in zip(*results, strict=True):
        torch.testing.assert_close(table, kernel, rtol=1e-5, atol=1e-5 * kernel.abs().max().item())


def layers() -> tuple[nn.Module, DeformableAttention, dict[str, object]]:
    torch.manual_seed(0)
    ours, theirs = DeformableAttention(32, 4), TransformersAttention(32, 4, 3, 4)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    hidden, places = torch.randn(2, TOKENS, 32), torch.randn(2, TOKENS, 32)
    reference = token_centres(SIZES, hidden.device)[None, :, None].expand(2, -1, 3, -1)
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
    module = DeformableAttention(32, 4)
    hidden = torch.randn(1, tokens, 32)
    out = module(hidden, encoder_hidden_states=hidden, position_embeddings=torch.zeros_like(hidden), spatial_shapes_list=sizes)[0]
    assert out.shape == hidden.shape
    assert out.isfinite().all()
