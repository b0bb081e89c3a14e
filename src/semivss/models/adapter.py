"""Normalised frames in, four feature maps out: the adapter of ViT-Adapter (arXiv 2205.08534) beside any trunk of one resolution.

A small convolutional net (the prior) keeps fine detail; in four stages its tokens and those of the trunk look at each other by deformable
attention. The trunk itself stays as it was pre-trained.

Parameters have their published names; those of the trunk, which the published code mixes with these, lie under `trunk.` here.
Letters: B images, D width, H W rows and columns of patches (stride 16), N = H * W,
T = N and a class token if any, S = 21 N / 4 detail tokens (strides 8, 16, 32 in turn).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn

from semivss.models.deform_attn import DeformableAttention
from semivss.models.deform_sample import Sizes, cell_centres
from semivss.models.positions import Grid
from semivss.models.pyramid import Pyramid
from semivss.models.sizes import TrunkSizes
from semivss.models.trunk import EPS, Trunk, as_map, grid_of, initialise, patches_of


class Adapter(Pyramid):
    """A trunk and the parts that make a pyramid of it."""

    def __init__(self, trunk: Trunk, sizes: TrunkSizes, *, drop_path: float = 0.0) -> None:
        """
        Args:
            trunk: of which `sizes.stages` tells where its stages end.
            sizes: of trunk and adapter.
            drop_path: chance that an extractor's feed-forward part is left out in training, the same in all of them.
        """
        super().__init__()
        width = sizes.width
        self.trunk, self.stages = trunk, sizes.stages
        self.channels = (width,) * 4
        self.mean, self.std = trunk.mean, trunk.std
        self.level_embed = nn.Parameter(torch.empty(3, width))
        self.spm = SpatialPrior(width, sizes.prior)
        further = (0,) * (len(sizes.stages) - 1) + (2,)  # the last stage has two more extractors
        self.interactions = nn.ModuleList(Interaction(sizes, drop_path, count) for count in further)
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.BatchNorm2d(width) for _ in range(4))
        nn.init.normal_(self.level_embed)
        for part in (self.spm, self.interactions, self.up):
            initialise(part)
        for module in self.interactions.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()

    def forward(self, frames: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """See Pyramid."""
        grid = grid_of(frames)
        tokens, (fine, *coarse) = self.trunk.embed(frames), self.spm(frames)
        details = torch.cat([level.flatten(2).transpose(1, 2) + mark for level, mark in zip(coarse, self.level_embed, strict=True)], 1)
        views = []
        for (first, last), interaction in zip(self.stages, self.interactions, strict=True):
            blocks = partial(self.trunk.run, grid=grid, first=first, last=last)
            tokens, details = interaction(tokens, details, grid, blocks)
            views.append(as_map(patches_of(tokens, grid), grid))
        return self._pyramid(fine, details, views, grid)

    def units(self) -> list[nn.Module]:
        """See Pyramid."""
        return [*self.trunk.layers(), *(part for part in self.interactions.modules() if isinstance(part, Injector | Extractor))]

    def _pyramid(self, fine: Tensor, details: Tensor, views: Sequence[Tensor], grid: Grid) -> tuple[Tensor, ...]:
        """Detail maps of stride 4 to 32, each with what the trunk saw after one stage."""
        parts = torch.split(details, [high * wide for high, wide in detail_grids(grid)], 1)
        eighth, sixteenth, last = (as_map(part, size) for part, size in zip(parts, detail_grids(grid), strict=True))
        maps = (self.up(eighth) + fine, eighth, sixteenth, last)
        scaled = (
            view if scale == 1 else F.interpolate(view, scale_factor=scale, mode="bilinear", align_corners=False)
            for view, scale in zip(views, (4, 2, 1, 0.5), strict=True)
        )
        norms = (self.norm1, self.norm2, self.norm3, self.norm4)
        return tuple(norm(level + view) for norm, level, view in zip(norms, maps, scaled, strict=True))


class SpatialPrior(nn.Module):
    """Frames to maps of stride 4, 8, 16, 32 with D channels each, by few 3x3 convolutions."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_convolution(3, inner, 2), *_convolution(inner, inner), *_convolution(inner, inner), nn.MaxPool2d(3, 2, 1)
        )
        self.conv2 = nn.Sequential(*_convolution(inner, 2 * inner, 2))
        self.conv3 = nn.Sequential(*_convolution(2 * inner, 4 * inner, 2))
        self.conv4 = nn.Sequential(*_convolution(4 * inner, 4 * inner, 2))
        self.fc1, self.fc2, self.fc3, self.fc4 = (nn.Conv2d(times * inner, width, 1) for times in (1, 2, 4, 4))

    def forward(self, frames: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """Four maps, finest first."""
        quarter = self.stem(frames)
        eighth = self.conv2(quarter)
        sixteenth = self.conv3(eighth)
        last = self.conv4(sixteenth)
        return self.fc1(quarter), self.fc2(eighth), self.fc3(sixteenth), self.fc4(last)


class Interaction(nn.Module):
    """One stage: the trunk's blocks, what comes before them and what comes after them."""

    def __init__(self, sizes: TrunkSizes, drop_path: float, further: int) -> None:
        super().__init__()
        self.injector = Injector(sizes)
        self.extractor = Extractor(sizes, drop_path)
        self.extra_extractors = nn.ModuleList(Extractor(sizes, drop_path) for _ in range(further))

    def forward(
        self, tokens: Float[Tensor, "B T D"], details: Float[Tensor, "B S D"], grid: Grid, blocks: Callable[[Tensor], Tensor]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B S D"]]:
        """Tokens of the trunk (class tokens pass the injector by) and details, after this stage."""
        patches = patches_of(tokens, grid)
        lead = tokens[:, : tokens.shape[1] - patches.shape[1]]
        tokens = blocks(torch.cat([lead, self.injector(patches, details, grid)], 1))
        for extractor in (self.extractor, *self.extra_extractors):
            details = extractor(details, patches_of(tokens, grid), grid)
        return tokens, details


class Injector(nn.Module):
    """Detail into the trunk's patches, at first hardly any."""

    def __init__(self, sizes: TrunkSizes) -> None:
        super().__init__()
        self.query_norm, self.feat_norm = nn.LayerNorm(sizes.width, EPS), nn.LayerNorm(sizes.width, EPS)
        self.attn = _attention(sizes, maps=3)
        self.gamma = nn.Parameter(torch.full((sizes.width,), sizes.injector_scale))

    def forward(self, patches: Float[Tensor, "B N D"], details: Float[Tensor, "B S D"], grid: Grid) -> Float[Tensor, "B N D"]:
        """Patches that have looked at the detail maps."""
        places = cell_centres([grid], patches.device)  # float32 in a float64 model too, as published
        return patches + self.gamma * self.attn(self.query_norm(patches), places, self.feat_norm(details), detail_grids(grid))


class Extractor(nn.Module):
    """The trunk's patches into detail."""

    def __init__(self, sizes: TrunkSizes, drop_path: float) -> None:
        super().__init__()
        self.query_norm, self.feat_norm, self.ffn_norm = (nn.LayerNorm(sizes.width, EPS) for _ in range(3))
        self.attn = _attention(sizes, maps=1)
        self.ffn = ConvFeedForward(sizes.width, int(sizes.width * sizes.conv_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, details: Float[Tensor, "B S D"], patches: Float[Tensor, "B N D"], grid: Grid) -> Float[Tensor, "B S D"]:
        """Detail tokens that have looked at the patches and at their neighbours."""
        places = cell_centres(detail_grids(grid), details.device)
        details = details + self.attn(self.query_norm(details), places, self.feat_norm(patches), [grid])
        return details + self.drop_path(self.ffn(self.ffn_norm(details), detail_grids(grid)))


class ConvFeedForward(nn.Module):
    """Two linear layers with one depthwise 3x3 convolution between them, shared by all maps."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(inner, inner, 3, padding=1, groups=inner)})
        self.fc2 = nn.Linear(inner, width)

    def forward(self, tokens: Float[Tensor, "B S D"], sizes: Sizes) -> Float[Tensor, "B S D"]:
        """Same shape; `sizes` are those of the maps whose cells the tokens are."""
        parts = torch.split(self.fc1(tokens), [high * wide for high, wide in sizes], 1)
        mixed = [self.dwconv["dwconv"](as_map(part, size)).flatten(2).transpose(1, 2) for part, size in zip(parts, sizes, strict=True)]
        result: Tensor = self.fc2(F.gelu(torch.cat(mixed, 1)))
        return result


def detail_grids(grid: Grid) -> Sizes:
    """Rows and columns of the detail maps of stride 8, 16, 32."""
    high, wide = grid
    return [(2 * high, 2 * wide), grid, (high // 2, wide // 2)]


def _attention(sizes: TrunkSizes, maps: int) -> DeformableAttention:
    inner = int(sizes.width * sizes.deform_ratio)
    return DeformableAttention(sizes.width, sizes.deform_heads, maps=maps, points=sizes.points, value_width=inner)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
