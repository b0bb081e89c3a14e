"""Tokens of three feature maps in, tokens that have looked at a few learned positions of each map out.

Letters: B images, S tokens of all maps together (finest last), G heads, L maps, P points a map, D channels of a head.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
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
            locations = token_centres(spatial_shapes_list, queries.device)[:, None, None, None] + self.sampling_offsets(queries).view(
                *shape, 2
            ) / _extents(spatial_shapes_list, queries.device)
            sample = multi_scale_deformable_attention if value.is_cuda or torch.is_grad_enabled() else gather_points
            mixed = sample(value.float(), spatial_shapes_list, locations, weights)
        return self.output_proj(mixed), None


def token_centres(sizes: Sizes, device: torch.device) -> Float[Tensor, "S 2"]:
    """x, y in 0..1 of the centre of each token, map after map."""
    centres = []
    for height, width in sizes:
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()], -1))
    return torch.cat(centres).to(device)


def gather_points(
    value: Float[Tensor, "B S G D"],
    sizes: Sizes,
    locations: Float[Tensor, "B N G L P 2"],
    weights: Float[Tensor, "B N G L P"],
) -> Float[Tensor, "B N E"]:
    """Weighted sum of bilinear samples (zero outside), as ONE sum of table rows: 4 corners x L x P rows a query and head.

    Equal to `multi_scale_deformable_attention` of transformers to rounding; on a CPU about twice as fast with its gradient.

    Args:
        value: the maps' cells one after the other, each map row by row.
        locations: x, y in 0..1 of map l.
        weights: of the samples.
    """
    batch, tokens, heads, width = value.shape
    rows, shares = corners(sizes, locations)
    offset = torch.arange(batch, dtype=torch.int32, device=value.device).view(-1, 1, 1, 1, 1, 1) * tokens
    head = torch.arange(heads, dtype=torch.int32, device=value.device).view(1, 1, -1, 1, 1, 1)
    rows = (rows + offset) * heads + head
    bag = rows[0, 0, 0].numel()
    mixed = F.embedding_bag(
        rows.reshape(-1, bag), value.reshape(-1, width), mode="sum", per_sample_weights=(shares * weights[..., None]).reshape(-1, bag)
    )
    return mixed.view(batch, -1, heads * width)


def corners(sizes: Sizes, locations: Float[Tensor, "B N G L P 2"]) -> tuple[Int32[Tensor, "B N G L P 4"], Float[Tensor, "B N G L P 4"]]:
    """The four cells round each location, numbered through all maps, and their bilinear shares (0 for a cell outside)."""
    extents = _extents(sizes, locations.device)
    cell = locations * extents - 0.5
    low = cell.detach().floor()
    high_share = cell - low
    both = torch.stack([low, low + 1], -1)  # ..., xy, low or high
    inside = (both >= 0) & (both < extents[..., None])
    share = torch.stack([1 - high_share, high_share], -1) * inside
    index = torch.minimum(both.clamp_min(0), extents[..., None] - 1).int()
    widths = extents[..., :1, None].int()  # L, 1, 1, 1
    starts = _starts(sizes, locations.device)
    rows = (starts + index[..., 1, :] * widths[..., 0])[..., :, None] + index[..., 0, None, :]  # y low/high, x low/high
    return rows.flatten(-2), (share[..., 1, :, None] * share[..., 0, None, :]).flatten(-2)


def _extents(sizes: Sizes, device: torch.device) -> Float[Tensor, "L 1 2"]:
    return torch.tensor([[[width, height]] for height, width in sizes], dtype=torch.float32, device=device)


def _starts(sizes: Sizes, device: torch.device) -> Int32[Tensor, "L 1 1"]:
    ends = torch.tensor([height * width for height, width in sizes]).cumsum(0)
    return (ends - ends[0] if len(sizes) == 1 else torch.cat([ends.new_zeros(1), ends[:-1]])).int().view(-1, 1, 1).to(device)
