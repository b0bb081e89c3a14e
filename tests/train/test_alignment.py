"""Alignment of a step's labels: the running mean, and what it does to a distribution."""

import pytest
import torch

from semivss.train.alignment import MEMORY, RunningAlignment


def test_a_mean_prediction_that_stays_is_moved_to_the_wanted_shares():
    """Every pixel says 0.6 / 0.4 and the labelled frames show both alike: after a while both have one half."""
    alignment = RunningAlignment(torch.tensor([0.5, 0.5]), 1.0)
    p, inside = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1).repeat(2, 1, 3, 4), torch.ones(2, 3, 4, dtype=torch.bool)
    first = alignment(p, inside)
    assert alignment.mean.tolist() == pytest.approx([0.5 * MEMORY + 0.6 * (1 - MEMORY), 0.5 * MEMORY + 0.4 * (1 - MEMORY)])
    torch.testing.assert_close(first.sum(1), torch.ones(2, 3, 4))
    for _ in range(2000):
        last = alignment(p, inside)
    torch.testing.assert_close(last, torch.full_like(p, 0.5), atol=1e-4, rtol=0)


def test_padding_does_not_count():
    alignment = RunningAlignment(torch.tensor([0.5, 0.5]), 1.0)
    p, inside = torch.zeros(1, 2, 1, 4), torch.tensor([[[True, False, False, False]]])
    p[:, 0, :, 0], p[:, 1, :, 1:] = 1, 1
    alignment(p, inside)
    assert alignment.mean[0] > 0.5
    before = alignment.mean
    alignment(p, torch.zeros_like(inside))
    assert alignment.mean is before


def test_it_goes_on_where_it_stopped():
    one, other = (RunningAlignment(torch.tensor([0.5, 0.5]), 1.0) for _ in range(2))
    p, inside = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool)
    for _ in range(5):
        one(p, inside)
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(p, inside), other(p, inside), rtol=0, atol=0)
