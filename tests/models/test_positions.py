"""Tables and positions for other grids: by hand, against scipy's surface splines, and that nothing learned is remembered."""

import numpy as np
import pytest
import torch
from scipy.interpolate import RectBivariateSpline
from scipy.optimize import brentq

from semivss.models import positions
from semivss.models.positions import relative_bias, resize_positions, resize_table


def table(grid: tuple[int, int], heads: int = 2, **kind) -> torch.Tensor:
    rows = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3
    return torch.randn(rows, heads, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(**kind)


def test_the_bias_of_two_patches_is_the_entry_of_their_step():
    entries, (high, wide) = table((2, 3)), (2, 3)
    bias = relative_bias(entries, (high, wide))
    assert bias.shape == (1, 2, 7, 7)
    for to in range(6):
        for origin in range(6):
            down, right = to // wide - origin // wide, to % wide - origin % wide
            assert torch.equal(bias[0, :, 1 + to, 1 + origin], entries[(down + high - 1) * (2 * wide - 1) + right + wide - 1])
    assert torch.equal(bias[0, :, 0, 1:], entries[-3][:, None].expand(-1, 6))  # from the class token
    assert torch.equal(bias[0, :, 1:, 0], entries[-2][:, None].expand(-1, 6))
    assert torch.equal(bias[0, :, 0, 0], entries[-1])


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (4, 2)])
def test_the_gradient_of_the_bias_is_exact(grid):
    assert torch.autograd.gradcheck(lambda entries: relative_bias(entries, grid), table(grid).requires_grad_())


def geometric(source: int, target: int) -> np.ndarray:
    """0 and +-(1, 1 + q, ...), the outermost at target - 1."""
    q = brentq(lambda q: sum(q**power for power in range(source - 1)) - (target - 1), 1.0, 1.6)
    outwards = np.cumsum(q ** np.arange(source - 1))
    return np.concatenate([-outwards[::-1], [0], outwards])


@pytest.mark.parametrize(("source", "target"), [((5, 5), (7, 7)), ((6, 5), (9, 8)), ((7, 5), (7, 6))])
def test_resized_tables_are_splines_on_geometric_steps(source, target):
    entries = table(source)
    resized = resize_table(entries, source, target)
    (x, y), (to_x, to_y) = (
        [geometric(old, new) if old != new else np.arange(1 - old, old) for old, new in zip(source, target, strict=True)],
        [np.arange(1 - new, new) for new in target],
    )
    for head in range(2):
        surface = RectBivariateSpline(x, y, entries[:-3, head].view(len(x), len(y)).numpy())(to_x, to_y)
        np.testing.assert_allclose(resized[:-3, head].view(len(to_x), len(to_y)).numpy(), surface, atol=1e-4)
    assert torch.equal(resized[-3:], entries[-3:])


@pytest.mark.parametrize(("source", "target"), [((4, 4), (30, 54)), ((6, 6), (2, 4)), ((2, 2), (3, 5)), ((1, 1), (2, 2))])
def test_a_constant_table_stays_constant_at_any_size(source, target):
    ones = torch.ones_like(table(source))
    resized = resize_table(ones, source, target)
    torch.testing.assert_close(resized, torch.ones_like(table(target)))


def test_the_same_grid_gives_the_very_table():
    entries = table((3, 4))
    assert resize_table(entries, (3, 4), (3, 4)) is entries
    assert resize_positions(entries, (3, 4), (3, 4)) is entries


def test_a_table_learns_at_another_size():
    entries = table((4, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda entries: resize_table(entries, (4, 4), (5, 3)), entries)


def test_what_prediction_makes_first_serves_training():
    positions._spline_weights.cache_clear()
    positions._column_steps.cache_clear()
    with torch.inference_mode():
        relative_bias(resize_table(table((4, 4)), (4, 4), (6, 5)), (6, 5))
    entries = table((4, 4)).requires_grad_()
    relative_bias(resize_table(entries, (4, 4), (6, 5)), (6, 5)).square().sum().backward()
    assert entries.grad.abs().min() > 0


def test_tables_are_resized_exactly_under_autocast():
    entries = table((4, 4), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        under = resize_table(entries, (4, 4), (6, 6))
    torch.testing.assert_close(under, resize_table(entries, (4, 4), (6, 6)), rtol=0, atol=0)


def test_a_gradient_of_bfloat16_is_summed_in_float32():
    grid = (24, 24)
    entries = torch.zeros((2 * 24 - 1) ** 2 + 3, 1, dtype=torch.bfloat16, requires_grad=True)
    relative_bias(entries, grid).sum().backward()
    itself = (len(entries) - 3) // 2
    assert entries.grad[itself].item() == 576  # patches; a sum of ones in bfloat16 stops at 256
