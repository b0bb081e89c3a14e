"""Normalised frames in, tokens (BeitTrunk) or a pyramid (Beit) out: BEiT (arXiv 2106.08254) at any image size.

Parameters have their published names, those of `beit.*` in timm and of `backbone.` in segmentation checkpoints; the index buffers of
those do not exist here. timm's own blocks are not used: each keeps an index buffer of all pairs of tokens and serves one grid alone.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn

from semivss.models.bias_memory import BiasMemory
from semivss.models.positions import Grid
from semivss.models.pyramid import Pyramid
from semivss.models.sizes import TrunkSizes
from semivss.models.trunk import EPS, FeedForward, PatchEmbedding, Trunk, as_map, attend, drop_rates, grid_of, initialise, patches_of


class BeitTrunk(Trunk):
    """Patches and a class token; no absolute positions, a relative-position table in every block, no norm at the end."""

    mean = (0.485, 0.456, 0.406)  # ImageNet's, as the published segmentation models have it
    std = (0.229, 0.224, 0.225)

    def __init__(self, sizes: TrunkSizes, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.width, self.grid = sizes.width, sizes.grid
        self.cls_token = nn.Parameter(torch.empty(1, 1, sizes.width))
        self.patch_embed = PatchEmbedding(sizes.width)
        self.blocks = nn.ModuleList(BeitBlock(sizes, rate, self.biases) for rate in drop_rates(drop_path, sizes.depth))
        initialise(self)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def embed(self, frames: Float[Tensor, "B 3 H16 W16"]) -> Float[Tensor, "B T D"]:
        """See Trunk."""
        patches = self.patch_embed(frames)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1).to(patches.dtype), patches], 1)

    def layers(self) -> nn.ModuleList:
        """See Trunk."""
        return self.blocks


class BeitBlock(nn.Module):
    """Attention and feed-forward part, each normed before and scaled after."""

    def __init__(self, sizes: TrunkSizes, drop_path: float, biases: BiasMemory) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(sizes.width, EPS), nn.LayerNorm(sizes.width, EPS)
        self.attn = BeitAttention(sizes.width, sizes.heads, sizes.grid, biases)
        self.mlp = FeedForward(sizes.width, sizes.feedforward)
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.full((sizes.width,), sizes.layer_scale)) for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Float[Tensor, "B T D"], grid: Grid) -> Float[Tensor, "B T D"]:
        """Same shape."""
        tokens = tokens + self.drop_path(self.gamma_1 * self.attn(self.norm1(tokens), grid))
        return tokens + self.drop_path(self.gamma_2 * self.mlp(self.norm2(tokens)))


class BeitAttention(nn.Module):
    """All tokens among each other, with a bias by relative position. Keys have no bias of their own."""

    def __init__(self, width: int, heads: int, grid: Grid, biases: BiasMemory) -> None:
        super().__init__()
        self.heads, self.grid, self.biases = heads, grid, biases
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, heads))
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "B T D"], grid: Grid) -> Float[Tensor, "B T D"]:
        """Same shape."""
        qkv = F.linear(tokens, self.qkv.weight, torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]))
        query, key, value = qkv.chunk(3, -1)
        bias = self.biases.bias(self.relative_position_bias_table, self.grid, grid, qkv.dtype)
        mixed: Tensor = self.proj(attend(query, key, value, self.heads, bias))
        return mixed


class Beit(Pyramid):
    """BEiT without adapter: tokens after four blocks become the four strides by transposed convolutions and pooling."""

    def __init__(self, sizes: TrunkSizes, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.trunk = BeitTrunk(sizes, drop_path=drop_path)
        self.stages = sizes.stages
        self.channels = (sizes.width,) * 4
        self.mean, self.std = self.trunk.mean, self.trunk.std
        width = sizes.width
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, 2), nn.BatchNorm2d(width), nn.GELU(), nn.ConvTranspose2d(width, width, 2, 2)
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(width, width, 2, 2))
        self.fpn3 = nn.Identity()
        self.fpn4 = nn.MaxPool2d(2)
        initialise(self.fpn1)
        initialise(self.fpn2)

    def forward(self, frames: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """See Pyramid."""
        grid, tokens = grid_of(frames), self.trunk.embed(frames)
        maps = []
        for first, last in self.stages:
            tokens = self.trunk.run(tokens, grid, first, last)
            maps.append(as_map(patches_of(tokens, grid), grid))
        return tuple(scale(level) for scale, level in zip((self.fpn1, self.fpn2, self.fpn3, self.fpn4), maps, strict=True))

    def units(self) -> list[nn.Module]:
        """See Pyramid."""
        return list(self.trunk.layers())
