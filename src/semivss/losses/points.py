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

    grid: Float[Tensor, "M K 2"]  # x, y as grid_sample wants them: -1..1 over what the logit maps cover
    labels: UInt8[Tensor, "M K"]  # of the pixel that holds the position

    def pick(self, row: Int64[Tensor, "N"], index: Int64[Tensor, "N K2"]) -> "Points":
        """Points number `index` of the rows `row`."""
        flat = (row[:, None] * self.labels.shape[1] + index).flatten()
        grid = self.grid.flatten(0, 1).index_select(0, flat)  # an index with two tensors is several times slower
        return Points(grid.view(*index.shape, 2), self.labels.flatten().index_select(0, flat).view(index.shape))


class ValidPixels:
    """The pixels of a batch that are not ignored; draws from them uniformly, and reads maps and masks at what was drawn."""

    padding = "border"  # of grid_sample: the edge goes on as in `resize_maps`; zeros would pull every mask to 0 along the frame

    def __init__(self, labels: UInt8[Tensor, "B H W"], cells: tuple[int, int], generator: torch.Generator | None = None) -> None:
        """
        Args:
            labels: 255 where ignored.
            cells: height and width of the logit maps that will be read.
            generator: draws the points; none = torch's global one.
        """
        self.labels = labels
        self._covered = covered_pixels(cells, (labels.shape[1], labels.shape[2]))
        self._generator = generator
        valid = labels.flatten(1) != IGNORE
        self._counts = valid.sum(1, keepdim=True)
        self._starts = self._counts.cumsum(0) - self._counts
        self._places = valid.flatten().nonzero()[:, 0]  # of the valid pixels among all, image after image

    def draw(self, points: int) -> Points:
        """`points` for each image (M = B): a valid pixel each, and a position anywhere in it. Meaningless for an image without any."""
        height, width = self.labels.shape[1:]
        high, wide = self._covered
        chance, dx, dy = self._random(3, len(self.labels), points)
        rank = torch.minimum((chance * self._counts).long(), (self._counts - 1).clamp_min(0))  # rounding may reach the count
        place = self._places[(rank + self._starts).clamp_max(len(self._places) - 1)]
        pixel = place % (height * width)
        grid = torch.stack([(pixel % width + dx) * (2 / wide) - 1, (pixel // width + dy) * (2 / high) - 1], -1)
        return Points(grid, self.labels.flatten()[place])

    def read(self, maps: Float[Tensor, "M N h w"], grid: Float[Tensor, "M K 2"]) -> Float[Tensor, "M N K"]:
        """Bilinear (align_corners=False) values of each row's N maps at its points."""
        return F.grid_sample(maps, grid[:, None].to(maps.dtype), mode="bilinear", padding_mode=self.padding, align_corners=False)[:, :, 0]

    @torch.no_grad()
    def read_all(self, maps: Float[Tensor, "N h w"], grid: Float[Tensor, "K 2"]) -> Float[Tensor, "K N"]:
        """`read` of many maps at the same points, without a gradient, a row a point: on a CPU a third of the time."""
        if maps.device.type != "cpu":
            return self.read(maps[None], grid[None])[0].T
        (height, width), (x, y) = maps.shape[1:], grid.to(maps.dtype).T
        columns, rows = (((x + 1) * width - 1) / 2).clamp(0, width - 1), (((y + 1) * height - 1) / 2).clamp(0, height - 1)
        left, top = columns.floor(), rows.floor()
        right, bottom = (left + 1).clamp_max(width - 1), (top + 1).clamp_max(height - 1)
        cells = torch.stack([line * width + column for line in (top, bottom) for column in (left, right)], 1).int()
        across, down = columns - left, rows - top
        shares = torch.stack([high * wide for high in (1 - down, down) for wide in (1 - across, across)], 1)
        return F.embedding_bag(cells, maps.flatten(1).T.contiguous(), mode="sum", per_sample_weights=shares)

    def targets(self, points: Points, image: Int64[Tensor, "M"], classes: Int64[Tensor, "M T"]) -> Float[Tensor, "M T K"]:
        """1 where row m's points (on image `image[m]`) show class `classes[m, t]`, else 0: the masks read at the nearest pixel."""
        return (points.labels[:, None] == classes[:, :, None]).float()

    def _random(self, *shape: int) -> Tensor:
        device = self._generator.device if self._generator is not None else self.labels.device
        return torch.rand(shape, generator=self._generator, device=device).to(self.labels.device)
