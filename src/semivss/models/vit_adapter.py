"""Sizes in, a ViT-Adapter out (arXiv 2205.08534), in its two flavours: round BEiT, and round a plain ViT whose blocks may be windowed.

"ViT-Adapter-L + Mask2Former" in papers is the flavour round BEiT. Parameters have their published names, see adapter.py.
Letters: B images, D width, H W rows and columns of patches, N = H * W, k patches a side of a window.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn

from semivss.models.adapter import Adapter
from semivss.models.beit import BeitTrunk
from semivss.models.positions import Grid, resize_positions
from semivss.models.sizes import TrunkSizes
from semivss.models.trunk import EPS, FeedForward, PatchEmbedding, Trunk, attend, drop_rates, grid_of, initialise


def beit_adapter(sizes: TrunkSizes, *, drop_path: float = 0.0) -> Adapter:
    """The adapter round BEiT."""
    return Adapter(BeitTrunk(sizes, drop_path=drop_path), sizes, drop_path=drop_path)


def plain_adapter(sizes: TrunkSizes, *, drop_path: float = 0.0) -> Adapter:
    """The adapter round a plain ViT."""
    return Adapter(PlainTrunk(sizes, drop_path=drop_path), sizes, drop_path=drop_path)


class PlainTrunk(Trunk):
    """Patches with absolute positions and no class token; its row of the positions is kept, for checkpoints have it, and unused."""

    mean = (0.5, 0.5, 0.5)  # of the published models (AugReg weights)
    std = (0.5, 0.5, 0.5)

    def __init__(self, sizes: TrunkSizes, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.width, self.grid = sizes.width, sizes.grid
        self.pos_embed = nn.Parameter(torch.empty(1, sizes.grid[0] * sizes.grid[1] + 1, sizes.width))
        self.patch_embed = PatchEmbedding(sizes.width)
        windows = sizes.windows or (0,) * sizes.depth
        rates = drop_rates(drop_path, sizes.depth)
        self.blocks = nn.ModuleList(PlainBlock(sizes, window, rate) for window, rate in zip(windows, rates, strict=True))
        initialise(self)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def embed(self, frames: Float[Tensor, "B 3 H16 W16"]) -> Float[Tensor, "B T D"]:
        """See Trunk."""
        patches: Tensor = self.patch_embed(frames)
        return patches + resize_positions(self.pos_embed[0, 1:], self.grid, grid_of(frames))

    def layers(self) -> nn.ModuleList:
        """See Trunk."""
        return self.blocks


class PlainBlock(nn.Module):
    """Attention and feed-forward part, each normed before and scaled after."""

    def __init__(self, sizes: TrunkSizes, window: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(sizes.width, EPS), nn.LayerNorm(sizes.width, EPS)
        self.attn = WindowAttention(sizes.width, sizes.heads, window) if window else WholeAttention(sizes.width, sizes.heads)
        self.mlp = FeedForward(sizes.width, sizes.feedforward)
        self.gamma1, self.gamma2 = (nn.Parameter(torch.full((sizes.width,), sizes.layer_scale)) for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Float[Tensor, "B N D"], grid: Grid) -> Float[Tensor, "B N D"]:
        """Same shape."""
        tokens = tokens + self.drop_path(self.gamma1 * self.attn(self.norm1(tokens), grid))
        return tokens + self.drop_path(self.gamma2 * self.mlp(self.norm2(tokens)))


class WholeAttention(nn.Module):
    """All patches among each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "B N D"], grid: Grid) -> Float[Tensor, "B N D"]:
        """Same shape."""
        query, key, value = self.qkv(tokens).chunk(3, -1)
        mixed: Tensor = self.proj(attend(query, key, value, self.heads))
        return mixed


class WindowAttention(nn.Module):
    """The patches of each window among each other.

    What a window lacks at the right and bottom are queries, keys and values of 0, not 0 before the linear layer, and they are not masked:
    each takes its share of the softmax. So were the published weights trained.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "B N D"], grid: Grid) -> Float[Tensor, "B N D"]:
        """Same shape."""
        high, wide = grid
        side = self.window
        qkv = torch.unflatten(self.qkv(tokens), 1, grid)
        qkv = F.pad(qkv, (0, 0, 0, -wide % side, 0, -high % side))
        rows, columns = qkv.shape[1] // side, qkv.shape[2] // side
        windows = qkv.view(-1, rows, side, columns, side, qkv.shape[-1]).transpose(2, 3)  # B, rows, columns, k, k, 3 D
        query, key, value = windows.flatten(3, 4).flatten(0, 2).chunk(3, -1)
        mixed = attend(query, key, value, self.heads)
        whole = mixed.view(-1, rows, columns, side, side, mixed.shape[-1]).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        result: Tensor = self.proj(whole[:, :high, :wide].flatten(1, 2))
        return result
