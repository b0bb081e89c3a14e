"""Learned positions of a weight file in, those of a trunk that is made for another grid of patches out."""

import torch
from torch import Tensor

from semivss.models.positions import Grid, resize_positions, resize_table
from semivss.models.read_sizes import square_side, table_side

_TABLES = ("relative_position_bias_table", "rel_pos_table.weight")
_POSITIONS = ("pos_embed",)


def fit_grid(name: str, tensor: Tensor, wanted: Tensor, target: Grid, source: Grid | None = None) -> Tensor:
    """`tensor` in the shape of `wanted`, if it is a table or positions of another grid; itself otherwise.

    Args:
        name: of the parameter.
        tensor: of the file.
        wanted: the parameter.
        target: the grid that `wanted` is for.
        source: the grid that `tensor` is for; none = a square one.
    """
    if tensor.shape == wanted.shape or tensor.ndim != wanted.ndim or tensor.shape[-1] != wanted.shape[-1]:
        return tensor
    if name.endswith(_TABLES) and (grid := source or _square(table_side(len(tensor)))):
        return resize_table(tensor, grid, target)
    if name.endswith(_POSITIONS):
        flat = tensor.flatten(0, -2)
        if square_side(len(flat)):  # of a ViT without class token
            flat = torch.cat([torch.zeros_like(flat[:1]), flat])
        if grid := source or _square(square_side(len(flat) - 1)):
            return torch.cat([flat[:1], resize_positions(flat[1:], grid, target)]).view(wanted.shape)
    return tensor


def _square(side: int | None) -> Grid | None:
    return (side, side) if side else None
