"""Tokens of three feature maps in, tokens that have looked at a few learned positions of each map out.

Letters: B images, S tokens of all maps together, G heads, L maps, P points a map, D channels of a head, N = B * S * G table rows and sums,
J = 4 * L * P rows a sum.
"""

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
from scipy.sparse import csc_matrix
from torch import Tensor, nn
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as TransformersAttention,
)
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

Sizes = list[tuple[int, int]]  # height, width of each map


class DeformableAttention(TransformersAttention):
    """transformers' module with the same parameters and results, but faster on a CPU and exact under autocast.

    Positions and weights are computed in float32: in bfloat16 a position on a map of 100 cells is off by half a cell.
    """

    def __init__(self, embed_dim: int, num_heads: int, n_levels: int = 3, n_points: int = 4) -> None:
        super().__init__(embed_dim, num_heads, n_levels, n_points)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Head k looks along direction k, point i is i + 1 cells away, all weights are equal (Deformable DETR, arXiv 2010.04159)."""
        angles = torch.arange(self.n_heads) * (2 * math.pi / self.n_heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.n_points + 1).view(1, 1, -1, 1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((directions.view(-1, 1, 1, 2) * steps).expand(-1, self.n_levels, -1, -1).flatten())
        for zero in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(zero)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        hidden_states: Float[Tensor, "B S E"],
        *,
        encoder_hidden_states: Float[Tensor, "B S E"],
        position_embeddings: Tensor,
        spatial_shapes_list: Sizes,
        **_unused: Any,  # masks and reference points of images padded unequally, which do not occur here
    ) -> tuple[Float[Tensor, "B S E"], None]:
        """The argument names are those with which transformers' encoder layer calls. The attention weights are not handed out."""
        batch, tokens, width = hidden_states.shape
        value = self.value_proj(encoder_hidden_states).view(batch, tokens, self.n_heads, width // self.n_heads)
        with torch.autocast(value.device.type, enabled=False):
            queries = (hidden_states + position_embeddings).float()
            shape = (batch, tokens, self.n_heads, self.n_levels, self.n_points)
            weights = self.attention_weights(queries).view(*shape[:3], -1).softmax(-1).view(shape)
            offsets = self.sampling_offsets(queries).view(*shape, 2)
            sample = sample_with_kernel if value.is_cuda else sample_as_table
            mixed = sample(value.float(), spatial_shapes_list, offsets, weights)
        return self.output_proj(mixed), None


def sample_with_kernel(
    value: Float[Tensor, "B S G D"], sizes: Sizes, offsets: Float[Tensor, "B S G L P 2"], weights: Float[Tensor, "B S G L P"]
) -> Float[Tensor, "B S E"]:
    """What `sample_as_table` returns, by transformers' function (grid_sample map after map), the better choice on a GPU."""
    extents = torch.tensor([[width, height] for height, width in sizes], device=value.device)[:, None]  # L, 1, xy
    return multi_scale_deformable_attention(
        value, sizes, token_centres(sizes, value.device)[:, None, None, None] + offsets / extents, weights
    )


def sample_as_table(
    value: Float[Tensor, "B S G D"], sizes: Sizes, offsets: Float[Tensor, "B S G L P 2"], weights: Float[Tensor, "B S G L P"]
) -> Float[Tensor, "B S E"]:
    """Weighted sum of bilinear samples (zero outside the map), as one sum of table rows: 4 corners x L x P rows a token and head.

    On a CPU several times as fast as `sample_with_kernel`, gradient included, and equal to it but for rounding.

    Args:
        value: the maps' cells one after the other, each map row by row.
        offsets: x, y in cells of map l, from the token's own place on it.
        weights: of the samples; they sum to 1 over L and P.
    """
    batch, tokens, heads, width = value.shape
    rows, shares = corners(sizes, offsets, weights)
    image = torch.arange(batch, dtype=torch.int32, device=value.device).view(-1, 1, 1, 1) * tokens
    head = torch.arange(heads, dtype=torch.int32, device=value.device).view(-1, 1)
    rows = ((rows + image) * heads + head).view(batch * tokens * heads, -1)
    return RowSum.apply(value.reshape(-1, width), rows, shares.view(rows.shape)).view(batch, tokens, heads * width)


def corners(
    sizes: Sizes, offsets: Float[Tensor, "B S G L P 2"], weights: Float[Tensor, "B S G L P"]
) -> tuple[Int32[Tensor, "B S G J"], Float[Tensor, "B S G J"]]:
    """The four cells round each place, numbered through all maps, and bilinear share (0 outside) times weight.

    Works on rows of G * L * P numbers: broadcasting along the short last axes instead costs ten times as much.
    """
    batch, tokens, heads, maps, points = weights.shape
    extents = torch.tensor([(width, height) for height, width in sizes], dtype=torch.float32, device=weights.device)
    starts = extents.prod(1).cumsum(0) - extents.prod(1)
    wide, high, start = (row.repeat_interleave(points).repeat(heads) for row in (*extents.T, starts))
    centre_x, centre_y = token_centres(sizes, weights.device).T[..., None]
    x, y = offsets.flatten(2, 4).unbind(-1)
    x_cells, x_shares = _neighbours(centre_x * wide + x, wide)
    y_cells, y_shares = _neighbours(centre_y * high + y, high)
    weight = weights.flatten(2)
    by_row = [share * weight for share in y_shares]
    lines = [start + cell * wide for cell in y_cells]
    rows = [(line + cell).int() for line in lines for cell in x_cells]
    shares = [share * weighted for weighted in by_row for share in x_shares]
    shape = (batch, tokens, heads, maps * points)
    rows_last, shares_last = (torch.stack([part.view(shape) for part in parts], -2).flatten(3) for parts in (rows, shares))
    return rows_last, shares_last


def _neighbours(place: Tensor, extent: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Cells before and after a place on an axis of `extent` cells, kept inside, and their shares, 0 for a cell outside."""
    place = place - 0.5  # cell i has its centre at i + 0.5
    with torch.no_grad():
        before = place.floor()
        after = before + 1
        inside_before = ((before >= 0) & (before < extent)).float()
        inside_after = ((after >= 0) & (after < extent)).float()
        cells = (torch.minimum(before.clamp_min(0), extent - 1), torch.minimum(after.clamp_min(0), extent - 1))
    share = place - before
    return cells, ((1 - share) * inside_before, share * inside_after)


class RowSum(torch.autograd.Function):
    """out[n] = sum over j of shares[n, j] * table[rows[n, j]]: `embedding_bag` with a gradient that is fast on a CPU.

    torch's own gradient sorts all rows and takes five times as long. Both halves of this one are sparse matrix products: the matrix has
    shares[n, j] at (n, rows[n, j]).
    """

    @staticmethod
    def forward(ctx: Any, table: Float[Tensor, "R D"], rows: Int32[Tensor, "N J"], shares: Float[Tensor, "N J"]) -> Float[Tensor, "N D"]:
        """The sums."""
        ctx.save_for_backward(table, rows, shares)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        """Gradients of table and shares."""
        table, rows, shares = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        ends = torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=torch.int32)
        return _table_gradient(gradient, rows, shares, ends, len(table)), None, _share_gradient(gradient, rows, ends, table)


def _table_gradient(gradient: Tensor, rows: Tensor, shares: Tensor, ends: Tensor, length: int) -> Tensor:
    """transposed matrix @ gradient; the compressed rows of a matrix are the compressed columns of its transpose."""
    transposed = csc_matrix((shares.numpy().ravel(), rows.numpy().ravel(), ends.numpy()), shape=(length, len(rows)))
    return torch.from_numpy(transposed @ gradient.numpy())


def _share_gradient(gradient: Tensor, rows: Tensor, ends: Tensor, table: Tensor) -> Tensor:
    """gradient @ transposed table, only where the matrix has entries."""
    if rows.shape[1] > len(table):  # torch refuses a sparse matrix with more entries than places, as the tiniest images make
        return torch.einsum("nd,njd->nj", gradient, table[rows.long()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "CSR support is in beta"
        places = torch.sparse_csr_tensor(ends, rows.flatten(), torch.zeros(rows.numel()), (len(rows), len(table)), check_invariants=False)
    return torch.sparse.sampled_addmm(places, gradient, table.T, beta=0.0).values().view(rows.shape)


def token_centres(sizes: Sizes, device: torch.device) -> Float[Tensor, "S 2"]:
    """x, y in 0..1 of the centre of each token, map after map."""
    centres = []
    for height, width in sizes:
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()], -1))
    return torch.cat(centres).to(device)
