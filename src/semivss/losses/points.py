"""Labels in, random points on valid pixels out, each with its label; and logits read at such points.

Letters: B images, H W their size, M rows of K points each, T classes a row.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from semivss.posterior import covered_pixels
from semivss.tensors import IGNORE


@dataclass(frozen=True)
class Points:
    """Positions on images and what the labels say there."""

    xy: Float[Tensor, "M K 2"]  # in pixels, 0..W and 0..H; the centre of the first pixel is (0.5, 0.5)
    labels: UInt8[Tensor, "M K"]  # of the pixel that holds the position

    def pick(self, row: Int64[Tensor, "N"], index: Int64[Tensor, "N K2"]) -> "Points":
        """Points number `index` of the rows `row`."""
        row = row[:, None]
        return Points(self.xy[row, index], self.labels[row, index])


class ValidPixels:
    """The pixels of a batch that are not ignored; draws from them uniformly."""

    def __init__(self, labels: UInt8[Tensor, "B H W"], generator: torch.Generator | None = None) -> None:
        self.labels = labels
        self.size = (labels.shape[1], labels.shape[2])
        self._generator = generator
        self._flat = labels.flatten()
        valid = labels != IGNORE
        self.counts = valid.flatten(1).sum(1)
        self._places = valid.flatten().nonzero()[:, 0]  # of the valid pixels among all, image after image
        self._starts = self.counts.cumsum(0) - self.counts

    def draw(self, points: int) -> Points:
        """`points` for each image (M = B): a valid pixel each, and a position anywhere in it. Meaningless for an image without any."""
        height, width = self.size
        chance, dx, dy = self._random(3, len(self.labels), points)
        rank = torch.minimum(
            (chance * self.counts[:, None]).long(), (self.counts[:, None] - 1).clamp_min(0)
        )  # rounding may reach the count
        place = self._places[(rank + self._starts[:, None]).clamp_max(len(self._places) - 1)]
        pixel = place % (height * width)
        return Points(torch.stack([pixel % width + dx, pixel // width + dy], -1), self._flat[place])

    def targets(self, points: Points, image: Int64[Tensor, "M"], classes: Int64[Tensor, "M T"]) -> Float[Tensor, "M T K"]:
        """1 where row m's points (on image `image[m]`) show class `classes[m, t]`, else 0: the masks read at the nearest pixel."""
        return (points.labels[:, None] == classes[:, :, None]).float()

    def _random(self, *shape: int) -> Tensor:
        device = self._generator.device if self._generator is not None else self.labels.device
        return torch.rand(shape, generator=self._generator, device=device).to(self.labels.device)


def read_logits(maps: Float[Tensor, "M N h w"], xy: Float[Tensor, "M K 2"], size: tuple[int, int]) -> Float[Tensor, "M N K"]:
    """Bilinear (align_corners=False) values of N maps an image at its points; `size` = (H, W) of the image."""
    high, wide = covered_pixels(maps.shape[-2:], size)
    grid = xy * (2 / torch.tensor([wide, high], dtype=xy.dtype, device=xy.device)) - 1
    return F.grid_sample(maps, grid[:, None], mode="bilinear", align_corners=False)[:, :, 0]
