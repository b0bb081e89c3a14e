"""What every trunk is: normalised frames in, tokens of one grid of stride 16 out, block by block; and the parts that trunks share.

Letters: B images, D width, H W rows and columns of patches, N = H * W, T tokens (class tokens first, then the N patches row by row),
G heads, Q queries (tokens, or others that look at them).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from semivss.models.positions import Grid
from semivss.models.sizes import PATCH

EPS = 1e-6  # of the layer norms of BEiT, plain ViT and adapter


class Trunk(nn.Module):
    """Base of the transformers that keep one resolution."""

    width: int
    grid: Grid  # that its learned positions are made for
    mean: tuple[float, ...]  # of a colour channel in 0..1, RGB
    std: tuple[float, ...]

    def embed(self, frames: Float[Tensor, "B 3 H16 W16"]) -> Float[Tensor, "B T D"]:
        """Tokens with their absolute positions."""
        raise NotImplementedError

    def layers(self) -> nn.ModuleList:
        """The blocks; each takes tokens and grid and returns tokens."""
        raise NotImplementedError

    def run(self, tokens: Float[Tensor, "B T D"], grid: Grid, first: int, last: int) -> Float[Tensor, "B T D"]:
        """Blocks `first` to `last`, that one included."""
        for layer in list(self.layers())[first : last + 1]:
            tokens = layer(tokens, grid)
        return tokens


class PatchEmbedding(nn.Module):
    """Patches that do not overlap, each turned into a token by one linear map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, frames: Float[Tensor, "B 3 H16 W16"]) -> Float[Tensor, "B N D"]:
        """Tokens row by row."""
        tokens: Tensor = self.proj(frames)
        return tokens.flatten(2).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Token by token."""
        result: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return result


def attend(
    query: Float[Tensor, "B Q D"],
    key: Float[Tensor, "B T D"],
    value: Float[Tensor, "B T D"],
    heads: int,
    mask: Float[Tensor, "1 G Q T"] | Bool[Tensor, "B 1 Q T"] | None = None,
) -> Float[Tensor, "B Q D"]:
    """Softmax attention, G heads side by side in D. `mask` is a bias, added to the logits of every image, or says who may see whom."""
    query, key, value = (torch.unflatten(part, -1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def drop_rates(rate: float, depth: int) -> list[float]:
    """Stochastic depth of each block: from 0 in the first to `rate` in the last (arXiv 1603.09382)."""
    return [rate * number / max(depth - 1, 1) for number in range(depth)]


def initialise(module: nn.Module) -> None:
    """Start values of the published adapters, for `module` and all within: narrow normal, and variance-keeping for convolutions."""
    for part in module.modules():
        match part:
            case nn.Linear():
                nn.init.trunc_normal_(part.weight, std=0.02)
            case nn.Conv2d() | nn.ConvTranspose2d():
                fan_out = math.prod(part.kernel_size) * part.out_channels / part.groups
                nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))
            case _:
                continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)


def grid_of(frames: Float[Tensor, "B 3 H16 W16"]) -> Grid:
    """Rows and columns of patches."""
    return frames.shape[-2] // PATCH, frames.shape[-1] // PATCH


def patches_of(tokens: Float[Tensor, "B T D"], grid: Grid) -> Float[Tensor, "B N D"]:
    """Without the class tokens."""
    return tokens[:, tokens.shape[1] - grid[0] * grid[1] :]


def as_map(tokens: Float[Tensor, "B N D"], grid: Grid) -> Float[Tensor, "B D H W"]:
    """Patches, row by row, as a feature map."""
    return torch.unflatten(tokens.transpose(1, 2), 2, grid)
