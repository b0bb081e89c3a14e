"""Queries with their places and the tokens of some maps in, queries that have looked at a few learned positions of each map out.

Letters: B images, Q queries, S tokens of all maps together, E width of a query,
G heads, D channels of a head.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semivss.full_precision import full_precision
from semivss.models.deform_sample import Sizes, cell_centres, deformable_sample
from semivss.models.linear_layers import Linear, linear


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (arXiv 2010.04159), with the parameter names that all published code uses.

    Positions and weights are computed in float32 at least: in bfloat16 a position on a map of 100 cells is off by half a cell.
    """

    sample = staticmethod(deformable_sample)  # an instance may have another form of the same sum

    def __init__(self, width: int, heads: int, *, maps: int = 3, points: int = 4, value_width: int | None = None) -> None:
        """
        Args:
            width: E, of queries and results.
            heads: of which each looks at places of its own.
            maps: that are looked at.
            points: places a map and head.
            value_width: of the values inside, a multiple of `heads`; none = as the queries.
        """
        super().__init__()
        inner = width if value_width is None else value_width
        if inner % heads:
            raise ValueError(f"value width {inner} must be a multiple of heads {heads}")
        self.heads, self.maps, self.points = heads, maps, points
        self.sampling_offsets = nn.Linear(width, heads * maps * points * 2)
        self.attention_weights = nn.Linear(width, heads * maps * points)
        self.value_proj = nn.Linear(width, inner)
        self.output_proj = nn.Linear(inner, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Head k looks along direction k, point i is i + 1 cells away, all weights are equal (Deformable DETR, arXiv 2010.04159)."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((directions.view(-1, 1, 1, 2) * steps).expand(-1, self.maps, -1, -1).flatten())
        for zero in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(zero)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, queries: Float[Tensor, "B Q E"], places: Float[Tensor, "Q 2"], tokens: Float[Tensor, "B S E"], sizes: Sizes
    ) -> Float[Tensor, "B Q E"]:
        """What the queries at `places` (x, y in 0..1, float32) see on maps of these sizes, whose cells are `tokens`."""
        return self._look(self._value(tokens), queries, places, sizes)

    def _value(self, tokens: Float[Tensor, "B S E"]) -> Float[Tensor, "B S G D"]:
        value: Tensor = self.value_proj(tokens)
        return torch.unflatten(value, -1, (self.heads, -1))

    def _look(
        self, value: Float[Tensor, "B S G D"], queries: Float[Tensor, "B Q E"], places: Float[Tensor, "Q 2"], sizes: Sizes
    ) -> Float[Tensor, "B Q E"]:
        batch, count, _ = queries.shape
        with full_precision(value):
            shape = (batch, count, self.heads, self.maps, self.points)
            weights = _softmax_of_few(_exactly(self.attention_weights, queries).view(*shape[:3], -1)).view(shape)
            offsets = _exactly(self.sampling_offsets, queries).view(*shape, 2)
            mixed = self.sample(value.to(offsets.dtype), sizes, places, offsets, weights)
        result: Tensor = self.output_proj(mixed.to(value.dtype))
        return result


def _exactly(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer's result in float32 at least, whatever the type of its weights."""
    dtype = torch.promote_types(layer.weight.dtype, torch.float32)
    product = linear if isinstance(layer, Linear) else F.linear
    return product(x.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype))


def _softmax_of_few(x: Float[Tensor, "*N few"]) -> Float[Tensor, "*N few"]:
    """Over the last axis. On a CPU torch takes nine times as long over a dozen neighbouring numbers as over a dozen long rows."""
    return torch.movedim(torch.movedim(x, -1, 0).contiguous().softmax(0), 0, -1)


class PixelDecoderAttention(DeformableAttention):
    """Tokens that look at their own maps, called as transformers' encoder layer calls; its parameters and results, but faster on a CPU."""

    def forward(  # type: ignore[override]  # the layer that calls it is transformers'
        self,
        hidden_states: Float[Tensor, "B S E"],
        *,
        encoder_hidden_states: Float[Tensor, "B S E"],
        position_embeddings: Tensor,
        spatial_shapes_list: Sizes,
        **_unused: Any,  # masks and reference points of images padded unequally, which do not occur here
    ) -> tuple[Float[Tensor, "B S E"], None]:
        """The attention weights are not handed out."""
        value = self._value(encoder_hidden_states)
        exact = torch.promote_types(hidden_states.dtype, torch.float32)  # the adapters' places are float32 in any model
        places = cell_centres(spatial_shapes_list, hidden_states.device, exact)
        return self._look(value, hidden_states + position_embeddings, places, spatial_shapes_list), None
