"""Sizes in, ONE-PEACE's vision branch (arXiv 2305.11172) with the adapter of ViT-Adapter out, at any image size.

Parameters have their published names (`image_adapter.`, `encoder.`) under `trunk.`, see adapter.py; index buffers do not exist here.
Letters: B images, D width, T tokens (the class token, then patches row by row).
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn

from semivss.models.adapter import Adapter
from semivss.models.bias_memory import BiasMemory
from semivss.models.positions import Grid, resize_positions
from semivss.models.sizes import TrunkSizes
from semivss.models.trunk import Trunk, attend, drop_rates, grid_of, initialise


def one_peace(sizes: TrunkSizes, *, drop_path: float = 0.0) -> Adapter:
    """The adapter round ONE-PEACE's vision branch."""
    return Adapter(OnePeaceTrunk(sizes, drop_path=drop_path), sizes, drop_path=drop_path)


class OnePeaceTrunk(Trunk):
    """A convolutional stem, absolute positions, and encoder layers with a relative-position table each; no norm at the end."""

    mean = tuple(value / 255 for value in (122.771, 116.746, 104.094))  # its own, not ImageNet's
    std = tuple(value / 255 for value in (68.5, 66.632, 70.323))

    def __init__(self, sizes: TrunkSizes, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.width, self.grid = sizes.width, sizes.grid
        self.image_adapter = ImageAdapter(sizes.width, sizes.grid)
        layers = nn.ModuleList(EncoderLayer(sizes, rate, self.biases) for rate in drop_rates(drop_path, sizes.depth))
        self.encoder = nn.ModuleDict({"layers": layers})
        initialise(self)

    def embed(self, frames: Float[Tensor, "B 3 H16 W16"]) -> Float[Tensor, "B T D"]:
        """See Trunk."""
        tokens: Tensor = self.image_adapter(frames)
        return tokens

    def layers(self) -> nn.ModuleList:
        """See Trunk."""
        layers = self.encoder["layers"]
        assert isinstance(layers, nn.ModuleList)
        return layers


class ImageAdapter(nn.Module):
    """Frames to tokens: three convolutions without overlap, a class token, and one learned position for each."""

    def __init__(self, width: int, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.cls_embedding = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(grid[0] * grid[1] + 1, width))
        quarter = width // 4
        self.embed_images = nn.Sequential(
            nn.Conv2d(3, quarter, 4, 4),
            ChannelNorm(quarter),
            nn.GELU(),
            nn.Conv2d(quarter, quarter, 2, 2),
            ChannelNorm(quarter),
            nn.GELU(),
            nn.Conv2d(quarter, width, 2, 2),
        )
        for learned in (self.cls_embedding, self.pos_embed):
            nn.init.normal_(learned, std=width**-0.5)

    def forward(self, frames: Float[Tensor, "B 3 H16 W16"]) -> Float[Tensor, "B T D"]:
        """Class token first."""
        patches = self.embed_images(frames).flatten(2).transpose(1, 2)
        lead = (self.cls_embedding + self.pos_embed[:1]).expand(len(patches), -1, -1).to(patches.dtype)
        return torch.cat([lead, patches + resize_positions(self.pos_embed[1:], self.grid, grid_of(frames))], 1)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        """Same shape."""
        normed: Tensor = self.layer_norm(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class EncoderLayer(nn.Module):
    """Attention and gated feed-forward part, each normed before, inside and scaled after."""

    def __init__(self, sizes: TrunkSizes, drop_path: float, biases: BiasMemory) -> None:
        super().__init__()
        width, (high, wide) = sizes.width, sizes.grid
        self.heads, self.grid, self.biases = sizes.heads, sizes.grid, biases
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn = SelfAttention(width, sizes.heads)
        self.rel_pos_table = nn.Embedding((2 * high - 1) * (2 * wide - 1) + 3, sizes.heads)
        inner = sizes.feedforward
        self.image_ffn = nn.Sequential(Gate(width, inner), nn.Dropout(0.0), nn.LayerNorm(inner), nn.Linear(inner, width))
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.full((width,), sizes.layer_scale)) for _ in range(2))
        self.drop_path = DropPath(drop_path)
        nn.init.zeros_(self.rel_pos_table.weight)

    def forward(self, tokens: Float[Tensor, "B T D"], grid: Grid) -> Float[Tensor, "B T D"]:
        """Same shape."""
        make_bias = partial(self.biases.bias, self.rel_pos_table.weight, self.grid, grid)
        attention = self.self_attn(self.self_attn_layer_norm(tokens), make_bias)
        tokens = tokens + self.drop_path(self.gamma_1 * attention)
        return tokens + self.drop_path(self.gamma_2 * self.image_ffn(self.final_layer_norm(tokens)))


class SelfAttention(nn.Module):
    """All tokens among each other, with a bias by relative position and a norm before the output. Keys have no bias of their own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=part != "k") for part in "qkv")
        self.ln = nn.LayerNorm(width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "B T D"], make_bias: Callable[[torch.dtype], Tensor]) -> Float[Tensor, "B T D"]:
        """Same shape; `make_bias` gives the grid's bias in the type of the logits."""
        query, key, value = (project(tokens) for project in (self.q_proj, self.k_proj, self.v_proj))
        mixed: Tensor = self.out_proj(self.ln(attend(query, key, value, self.heads, make_bias(query.dtype))))
        return mixed


class Gate(nn.Module):
    """One linear map, through a GELU, times another (arXiv 2002.05202); neither has a bias."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T F"]:
        """The inner values."""
        gated: Tensor = F.gelu(self.wi_0(tokens)) * self.wi_1(tokens)
        return gated
