"""Cells of some maps and a few places a query and head in, the weighted sum of bilinear samples at the places out; in two forms.

Letters: B images, S cells of all maps together, Q queries, G heads, L maps, P points a map, D channels of a head, N = B * Q * G sums,
R = B * S * G table rows, J = 4 * L * P rows a sum.
"""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
from scipy.sparse import csc_matrix
from torch import Tensor

Sizes = list[tuple[int, int]]  # height, width of each map
NARROW = 8  # channels of a head below which `sample_by_map` is the faster form on a CPU too (benchmarks/deform_attention.py)


def deformable_sample(
    value: Float[Tensor, "B S G D"],
    sizes: Sizes,
    places: Float[Tensor, "Q 2"],
    offsets: Float[Tensor, "B Q G L P 2"],
    weights: Float[Tensor, "B Q G L P"],
) -> Float[Tensor, "B Q E"]:
    """Weighted sum of bilinear samples (zero outside the map), heads side by side: E = G * D.

    Args:
        value: the maps' cells one after the other, each map row by row.
        sizes: of the maps.
        places: x, y of each query in 0..1 of the image, at least float32; its offsets start there on every map.
        offsets: x, y in cells of map l.
        weights: of the samples; they sum to 1 over L and P.
    """
    if value.device.type == "cpu" and value.shape[-1] >= NARROW and not torch.compiler.is_exporting():  # ONNX knows only `grid_sample`
        return sample_as_table(value, sizes, places, offsets, weights)
    return sample_by_map(value, sizes, places, offsets, weights)


def sample_by_map(
    value: Float[Tensor, "B S G D"],
    sizes: Sizes,
    places: Float[Tensor, "Q 2"],
    offsets: Float[Tensor, "B Q G L P 2"],
    weights: Float[Tensor, "B Q G L P"],
) -> Float[Tensor, "B Q E"]:
    """`grid_sample` map after map, each added to the sum at once: the better form on a GPU, and for very narrow heads."""
    batch, _, heads, width = value.shape
    extents = offsets.new_tensor([(wide, high) for high, wide in sizes])[:, None]  # L, 1, xy
    grids = (2 * (places[:, None, None, None] + offsets / extents) - 1).transpose(1, 2).flatten(0, 1)  # B * G, Q, L, P, xy
    shares = weights.transpose(1, 2).flatten(0, 1)[:, None]  # B * G, 1, Q, L, P
    total = value.new_zeros(batch * heads, width, len(places))
    for number, (cells, (high, wide)) in enumerate(zip(torch.split(value, [high * wide for high, wide in sizes], 1), sizes, strict=True)):
        feature_map = cells.permute(0, 2, 3, 1).reshape(batch * heads, width, high, wide)
        samples = F.grid_sample(feature_map, grids[:, :, number], mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (samples * shares[..., number, :]).sum(-1)
    return total.view(batch, heads * width, -1).transpose(1, 2)


def sample_as_table(
    value: Float[Tensor, "B S G D"],
    sizes: Sizes,
    places: Float[Tensor, "Q 2"],
    offsets: Float[Tensor, "B Q G L P 2"],
    weights: Float[Tensor, "B Q G L P"],
) -> Float[Tensor, "B Q E"]:
    """One sum of table rows, 4 corners x L x P a query and head: on a CPU several times as fast as `sample_by_map`, backward too."""
    batch, cells, heads, width = value.shape
    rows, shares = corners(sizes, places, offsets, weights)
    image = torch.arange(batch, dtype=torch.int32, device=value.device).view(-1, 1, 1, 1) * cells
    head = torch.arange(heads, dtype=torch.int32, device=value.device).view(-1, 1)
    rows = ((rows + image) * heads + head).view(batch * len(places) * heads, -1)
    return RowSum.apply(value.reshape(-1, width), rows, shares.view(rows.shape)).view(batch, len(places), heads * width)


def corners(
    sizes: Sizes, places: Float[Tensor, "Q 2"], offsets: Float[Tensor, "B Q G L P 2"], weights: Float[Tensor, "B Q G L P"]
) -> tuple[Int32[Tensor, "B Q G J"], Float[Tensor, "B Q G J"]]:
    """The four cells round each place, numbered through all maps, and bilinear share (0 outside) times weight.

    Works on rows of G * L * P numbers: broadcasting along the short last axes instead costs ten times as much.
    """
    batch, queries, heads, maps, points = weights.shape
    extents = offsets.new_tensor([(width, height) for height, width in sizes])
    starts = extents.prod(1).cumsum(0) - extents.prod(1)
    wide, high, start = (row.repeat_interleave(points).repeat(heads) for row in (*extents.T, starts))
    centre_x, centre_y = places.T[..., None]
    x, y = offsets.flatten(2, 4).unbind(-1)
    x_cells, x_shares = _neighbours(centre_x * wide + x, wide)
    y_cells, y_shares = _neighbours(centre_y * high + y, high)
    weight = weights.flatten(2)
    by_row = [share * weight for share in y_shares]
    lines = [start + cell * wide for cell in y_cells]
    rows = [(line + cell).int() for line in lines for cell in x_cells]
    shares = [share * weighted for weighted in by_row for share in x_shares]
    shape = (batch, queries, heads, maps * points)
    rows_last, shares_last = (torch.stack([part.view(shape) for part in parts], -2).flatten(3) for parts in (rows, shares))
    return rows_last, shares_last


def _neighbours(place: Tensor, extent: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Cells before and after a place on an axis of `extent` cells, kept inside, and their shares, 0 for a cell outside."""
    place = place - 0.5  # cell i has its centre at i + 0.5
    with torch.no_grad():
        before = place.floor()
        after = before + 1
        inside_before = ((before >= 0) & (before < extent)).to(place.dtype)
        inside_after = ((after >= 0) & (after < extent)).to(place.dtype)
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
        """Gradients of table and shares, those alone that are wanted: a frozen part's half of the work is left out."""
        table, rows, shares = ctx.saved_tensors
        of_table, _, of_shares = ctx.needs_input_grad
        if table.is_meta:  # only shapes are wanted
            return torch.empty_like(table) if of_table else None, None, torch.empty_like(shares) if of_shares else None
        gradient = gradients[0].contiguous()
        ends = torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=torch.int32)
        return (
            _table_gradient(gradient, rows, shares, ends, len(table)) if of_table else None,
            None,
            _share_gradient(gradient, rows, ends, table) if of_shares else None,
        )


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
        blank = torch.zeros(rows.numel(), dtype=table.dtype)
        places = torch.sparse_csr_tensor(ends, rows.flatten(), blank, (len(rows), len(table)), check_invariants=False)
    return torch.sparse.sampled_addmm(places, gradient, table.T, beta=0.0).values().view(rows.shape)


def cell_centres(sizes: Sizes, device: torch.device, dtype: torch.dtype = torch.float32) -> Float[Tensor, "S 2"]:
    """x, y in 0..1 of the centre of each cell, map after map."""
    centres = []
    for height, width in sizes:
        rows, columns = ((torch.arange(length, device=device, dtype=dtype) + 0.5) / length for length in (height, width))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()], -1))
    return torch.cat(centres)
