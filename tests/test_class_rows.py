"""Rows of a classifier in, classes out: probabilities of merged rows add up, in any shape and with the same gradient each time."""

import warnings

import pytest
import torch

from semivss.class_rows import merge_rows

ROWS = (2, 0, 1, 2, 3, 2, 1)


@pytest.mark.parametrize("dim", [-1, 1, 0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_probabilities_of_rows_add_up(dim, dtype):
    logits = (torch.randn(7, 7, 7, dtype=torch.float64) * 4).to(dtype)
    merged = merge_rows(logits, ROWS, 4, dim)
    assert merged.dtype == torch.promote_types(dtype, torch.float32)
    chances, wanted = merged.softmax(dim).movedim(dim, 0), logits.to(merged.dtype).softmax(dim).movedim(dim, 0)
    for goal in range(4):
        rows = [row for row, its in enumerate(ROWS) if its == goal]
        assert torch.allclose(chances[goal], wanted[rows].sum(0), atol=1e-6)


def test_gradients_are_those_of_the_sum():
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: merge_rows(x, ROWS, 4), logits)
    hidden = torch.tensor([[0.0, 1.0, 1.0, -torch.inf, 0.0, 2.0, 0.0]], requires_grad=True)  # one of three rows of a class
    merge_rows(hidden, ROWS, 4).sum().backward()
    assert hidden.grad.isfinite().all()


def test_nothing_is_in_beta():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge_rows(torch.randn(2, 7), ROWS, 4)
