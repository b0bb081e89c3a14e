"""A frame in, the pictures a model looks at out (scaled, mirrored, cut into windows), and their distributions back on the frame's pixels.

Scaling, mirroring and cutting act on rows and columns separately, and so does the way back: each output row is a weighted sum of at most
two rows of a window, each column likewise (`Taps`), which `score_map.py` applies.
Letters: H W size of the frame, h w size of a view, n positions of the frame along one axis.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32, UInt8
from torch import Tensor

from semivss.errors import RecipeError, SemivssError
from semivss.posterior import STRIDE
from semivss.settings import Views

Size = tuple[int, int]  # height, width
SMALLEST = 32  # pixels a side of a scaled view: one cell of the coarsest feature map


@dataclass(frozen=True)
class Window:
    """A rectangle of a scaled view, in its pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class Taps:
    """How one axis of the frame is read from one window: position `where.start + k` of the frame is the sum of two window positions."""

    where: slice  # positions of the frame that this window reaches
    index: Int32[Tensor, "n 2"]  # window positions
    weight: Float[Tensor, "n 2"]  # over all windows the weights of a position of the frame sum to 1


@dataclass(frozen=True)
class View:
    """One way to look at a frame: resized by `scale`, perhaps mirrored, whole or in overlapping windows."""

    scale: float = 1.0
    flip: bool = False
    crop: Size | None = None  # none = the whole view is one window
    stride: Size | None = None  # none = two thirds of the crop
    base: Size | None = None  # size at scale 1; none = the frame's own
    short_side: int | None = None  # instead of base: length of the shorter side at scale 1
    sampling: Literal["exact", "direct"] = "exact"  # of a window's maps at the frame's pixels, see `score_map.py`

    def size(self, frame: Size) -> Size:
        """Size of the scaled view of a frame of size `frame`.

        A view that is resized anyway gets sides that are multiples of 4, so that a model's stride-4 maps cover it exactly.
        """
        start = self.base or frame
        if self.short_side is not None:
            grown = self.scale * self.short_side / min(frame)
            return _scaled(frame[0], grown), _scaled(frame[1], grown)
        if self.scale == 1:
            return start
        return _scaled(start[0], self.scale), _scaled(start[1], self.scale)

    def windows(self, frame: Size) -> list[Window]:
        """Windows that cover the scaled view, row by row; the last one of a row or column is shifted inside."""
        height, width = self.size(frame)
        crop = self.crop or (height, width)
        tops, lefts = self._starts((height, width))
        return [Window(top, left, min(crop[0], height), min(crop[1], width)) for top in tops for left in lefts]

    def apply(self, frame: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 h w"]:
        """The scaled (bilinear, align_corners=False, rounded) and mirrored frame, from which windows are cut."""
        size = self.size((frame.shape[1], frame.shape[2]))
        if size != tuple(frame.shape[1:]):
            resized = F.interpolate(frame[None].float(), size, mode="bilinear", align_corners=False)[0]
            frame = resized.round_().clamp_(0, 255).to(torch.uint8)
        return frame.flip(-1) if self.flip else frame

    def taps(self, window: Window, frame: Size) -> tuple[Taps, Taps]:
        """How rows and columns of a frame of size `frame` are read from a window: undoes windows, mirror and scale.

        Exact, for all three act on rows and columns separately. Where windows overlap each counts equally.
        """
        size = self.size(frame)
        tops, lefts = self._starts(size)
        rows = axis_taps(frame[0], size[0], tops, window.height, window.top, flip=False)
        return rows, axis_taps(frame[1], size[1], lefts, window.width, window.left, flip=self.flip)

    def _starts(self, size: Size) -> tuple[tuple[int, ...], tuple[int, ...]]:
        crop = self.crop or size
        stride = self.stride or default_stride(crop)
        return starts(size[0], crop[0], stride[0]), starts(size[1], crop[1], stride[1])


def views_from(settings: Views) -> tuple[View, ...]:
    """Every scale, with and without its mirror image if asked for.

    Raises:
        RecipeError: a stride larger than its crop, which would leave pixels unseen.
    """
    crop, stride = settings.crop, settings.stride
    if crop and stride and (stride[0] > crop[0] or stride[1] > crop[1]):
        raise RecipeError(
            f"views.stride {stride[0]}x{stride[1]} is larger than views.crop {crop[0]}x{crop[1]} and would leave gaps; make it smaller"
        )
    if stride and not crop:
        raise RecipeError(f"views.stride {stride[0]}x{stride[1]} has no views.crop to step; set the crop too")
    flips = (False, True) if settings.flip else (False,)
    rest = (settings.base, settings.short_side, settings.sampling)
    return tuple(View(scale, flip, crop, stride, *rest) for scale in settings.scales for flip in flips)


def demand_size(views: Sequence[View], frame: Size) -> None:
    """Raise SemivssError for a view that scaling makes smaller than a cell of the coarsest features, on a side where the frame is not."""
    for view in views:
        start = view.base or frame
        scale = view.scale if view.short_side is None else view.scale * view.short_side / min(frame)
        if round(min(start) * scale) < SMALLEST <= min(frame):
            raise SemivssError(
                f"scale {view.scale:g} makes a view of {start[0] * scale:.0f}x{start[1] * scale:.0f} pixels, and models need "
                f"{SMALLEST} a side, the stride of their coarsest features; take larger scales, or a larger base or short side"
            )


def default_stride(crop: Size) -> Size:
    """Two thirds of the window, rounded."""
    return max(1, round(crop[0] * 2 / 3)), max(1, round(crop[1] * 2 / 3))


@functools.lru_cache(maxsize=4096)  # the same for every frame of a size
def axis_taps(out: int, length: int, begins: tuple[int, ...], window: int, start: int, *, flip: bool) -> Taps:
    """Taps of one axis: `out` positions of the frame read from a view of `length` positions that windows at `begins` cover.

    Bilinear with align_corners=False: position x lies at (x + 0.5) * length / out - 0.5 of the view, cut to its range. What falls
    into the window `start` .. `start + window` counts, divided by how many windows hold it.
    """
    count = torch.zeros(length)
    for begin in begins:
        count[begin : begin + window] += 1
    source = ((torch.arange(out, dtype=torch.float64) + 0.5) * length / out - 0.5).clamp(0, length - 1)
    first = source.floor().long()
    second = (first + 1).clamp_max(length - 1)
    share = source - first
    weights = []
    for index, part in ((first, 1 - share), (second, share)):
        inside = (index >= start) & (index < start + window)
        weights.append((part.float() / count[index]) * inside)
    index, weight = torch.stack([first, second], 1), torch.stack(weights, 1)
    if flip:
        index, weight = index.flip(0), weight.flip(0)
    touched = (weight > 0).any(1).nonzero().flatten()
    where = slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)  # a tiny window of a large view may fall between
    return Taps(where, (index - start).clamp(0, window - 1)[where].int(), weight[where].contiguous())


def starts(length: int, crop: int, stride: int) -> tuple[int, ...]:
    """First positions of windows along one axis; the last window ends with the axis."""
    if crop >= length:
        return (0,)
    steps = math.ceil((length - crop) / stride)
    return tuple(min(step * stride, length - crop) for step in range(steps + 1))


def _scaled(side: int, scale: float) -> int:
    return max(SMALLEST, round(side * scale / STRIDE) * STRIDE)
