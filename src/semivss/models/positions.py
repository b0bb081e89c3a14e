"""Learned positions made for one grid of patches in, those of another grid out: relative-position tables, their bias, absolute positions.

A table of a grid (H, W) has (2H - 1)(2W - 1) rows, one a step between two patches (row step first), and then three for the class token:
from it to a patch, from a patch to it, to itself. Letters: R rows of a table, G heads, D channels, N = H * W patches, T = N + 1 tokens.

Nothing that is learned is kept for another size: what is remembered are weights that depend on sizes alone. So training at any size has
gradients, and an image of another size changes nothing for later ones.
"""

import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from torch import Tensor

from semivss.full_precision import full_precision

Grid = tuple[int, int]  # rows, columns of patches
SPECIAL = 3  # rows of a table for the class token


def resize_table(table: Float[Tensor, "R G"], source: Grid, target: Grid) -> Float[Tensor, "R2 G"]:
    """A table of grid `source` for grid `target`: a bicubic spline between steps whose distance grows outwards (BEiT).

    Rows and columns have grids of their own, so both may differ from each other; the published code knows squares alone. Linear in
    the table, computed in float32 at least. Done anew in every pass: 56 x 56 to 30 x 54 patches with 16 heads takes 1 ms of one CPU
    thread, a hundredth of spreading the table and less than a thousandth of a large block.
    """
    if source == target:
        return table
    dtype = torch.promote_types(table.dtype, torch.float32)
    high, wide = (_spline_weights(old, new, table.device, dtype) for old, new in zip(source, target, strict=True))
    with full_precision(table):
        steps = table[:-SPECIAL].to(dtype).view(high.shape[1], wide.shape[1], -1)
        resized = torch.einsum("ij,jkg,lk->ilg", high, steps, wide).flatten(0, 1)
    return torch.cat([resized.to(table.dtype), table[-SPECIAL:]])


def relative_bias(table: Float[Tensor, "R G"], grid: Grid) -> Float[Tensor, "1 G T T"]:
    """What attention adds to its logits: row i, column j hold the table's entry for the step from token j to token i.

    To be broadcast over the batch. As large as one image's logits, so training makes it anew in every pass; prediction keeps
    some (bias_memory.py).
    """
    bias: Tensor = _looked_up(table, grid) if torch.compiler.is_exporting() else _Spread.apply(table, grid)
    return bias[None]


def resize_positions(positions: Float[Tensor, "N D"], source: Grid, target: Grid) -> Float[Tensor, "N2 D"]:
    """Absolute positions of the patches (no class token) of another grid: bicubic, align_corners false, no antialias."""
    if source == target:
        return positions
    as_map = positions.view(1, *source, -1).permute(0, 3, 1, 2)
    dtype = torch.promote_types(positions.dtype, torch.float32)
    resized = F.interpolate(as_map.to(dtype), target, mode="bicubic", align_corners=False)
    return resized[0].flatten(1).T.to(positions.dtype)


class _Spread(torch.autograd.Function):
    """A table spread over all pairs of tokens.

    Two patches' step is a row step and a column step, so a row of patches sees one slice of the columns' pairs. Copying those slices
    is three to eight times as fast as looking every pair up, needs no index of N x N numbers, and its gradient is a sum in fixed order.
    """

    @staticmethod
    def forward(ctx: Any, table: Float[Tensor, "R G"], grid: Grid) -> Float[Tensor, "G T T"]:
        """The bias without its batch axis."""
        high, wide = grid
        ctx.grid = grid
        steps = table[:-SPECIAL].T.reshape(-1, 2 * high - 1, 2 * wide - 1).flip(1)
        slices = steps.index_select(2, _column_steps(wide, table.device)).view(-1, 2 * high - 1, wide, wide)  # G, row step, W to, W from
        bias = table.new_empty(table.shape[1], 1 + high * wide, 1 + high * wide)
        patches = torch.unflatten(torch.unflatten(bias[:, 1:, 1:], 2, grid), 1, grid)  # G, H to, W to, H from, W from
        for row in range(high):
            patches[:, row] = slices[:, high - 1 - row : 2 * high - 1 - row].transpose(1, 2)
        to_patch, from_patch, itself = table[-SPECIAL:].unbind()
        bias[:, 0], bias[:, :, 0], bias[:, 0, 0] = to_patch[:, None], from_patch[:, None], itself
        return bias

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Each pair's gradient goes back to its step."""
        high, wide = ctx.grid
        gradient = gradients[0]
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        patches = torch.unflatten(torch.unflatten(gradient[:, 1:, 1:], 2, ctx.grid), 1, ctx.grid)
        slices = gradient.new_zeros(len(gradient), 2 * high - 1, wide, wide, dtype=dtype)
        for row in range(high):
            slices[:, high - 1 - row : 2 * high - 1 - row] += patches[:, row].transpose(1, 2)
        steps = slices.new_zeros(len(gradient), 2 * high - 1, 2 * wide - 1)
        steps.index_add_(2, _column_steps(wide, gradient.device), slices.flatten(2))
        special = torch.stack([gradient[:, 0, 1:].sum(1), gradient[:, 1:, 0].sum(1), gradient[:, 0, 0]])
        return torch.cat([steps.flip(1).flatten(1).T.to(gradient.dtype), special]), None


def _looked_up(table: Float[Tensor, "R G"], grid: Grid) -> Float[Tensor, "G T T"]:
    """The same as `_Spread` in few operations that write into nothing: what an exported graph is made of."""
    high, wide = grid
    steps = table[:-SPECIAL].T.reshape(-1, 2 * high - 1, 2 * wide - 1)
    # not the remembered indices: what is made while a graph is recorded has no values
    rows, columns = (_step_index(count, table.device) for count in grid)
    pairs = steps.index_select(1, rows).index_select(2, columns)
    patches = pairs.view(-1, high, high, wide, wide).transpose(2, 3).reshape(-1, high * wide, high * wide)
    to_patch, from_patch, itself = (row[:, None, None] for row in table[-SPECIAL:].unbind())
    lead = torch.cat([itself, to_patch.expand(-1, 1, high * wide)], 2)
    return torch.cat([lead, torch.cat([from_patch.expand(-1, high * wide, 1), patches], 2)], 1)


@functools.lru_cache(maxsize=32)
def _column_steps(wide: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what prediction made first must serve training too
        return _step_index(wide, device)


def _step_index(count: int, device: torch.device) -> Tensor:
    """Index of the step for each pair (to, from) of rows, or of columns, int32."""
    places = torch.arange(count, dtype=torch.int32, device=device)
    return (places[:, None] - places + count - 1).flatten()


@functools.lru_cache(maxsize=128)
def _spline_weights(source: int, target: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The linear map (2 target - 1, 2 source - 1) of a cubic spline through the source's steps, clamped outside them."""
    if source == target:
        weights: NDArray[np.float64] = np.eye(2 * source - 1)
    elif source == 1:
        weights = np.ones((2 * target - 1, 1))
    else:
        places = _geometric_steps(source, target)
        wanted = np.arange(-(target - 1), target, dtype=np.float64).clip(places[0], places[-1])
        order = min(3, len(places) - 1)
        weights = make_interp_spline(places, np.eye(len(places)), k=order)(wanted)
    with torch.inference_mode(False):
        return torch.from_numpy(np.ascontiguousarray(weights)).to(device, dtype)


def _geometric_steps(source: int, target: int) -> NDArray[np.float64]:
    """Where the source's steps lie among the target's: 0 and +-(1, 1 + q, 1 + q + q^2, ...), q such that the outermost fits."""
    count, reach = source - 1, target - 1
    left, right = 1.01, 1.5
    ratio = right
    while right - left > 1e-6:
        ratio = (left + right) / 2
        if (1 - ratio**count) / (1 - ratio) > reach:
            right = ratio
        else:
            left = ratio
    outwards = np.cumsum(ratio ** np.arange(count))
    return np.concatenate([-outwards[::-1], [0.0], outwards])
