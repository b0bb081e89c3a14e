"""What models said of a frame's windows in; class distributions of the frame's pixels out, a few rows at a time.

A window's maps are enlarged to its pixels, put through sigmoid (masks) or softmax (a per-pixel head), brought back to the frame, weighted
and added up; masks are mixed into classes last, for all after the sigmoid is linear. Nothing of the size of a window is ever made: a tile
of output rows needs the window positions that its taps touch, and no others. Two ways to read a tile:

exact   the logits are interpolated at those positions, and the taps applied behind the sigmoid: what enlarging, mixing and resizing whole
        maps gives, up to rounding
direct  the logits are interpolated at the centre of each output pixel: one bilinear step instead of two. Queries that are sure of no
        class take no part.

Every interpolation is one gather of weighted rows of a table whose columns are queries or classes (`_blend`).
Letters: C classes, K columns of a table, H W size of the frame, h w cells of a map, r n rows and columns of a tile.
"""

import functools
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
from torch import Tensor

from semivss.class_rows import merge_rows
from semivss.full_precision import full_precision
from semivss.infer.views import Size, Taps, View, Window
from semivss.posterior import class_softmax, covered_pixels, normalise_, query_classes
from semivss.tensors import Distribution, MaskLogits, PixelLogits

LEAST = 0.01  # direct: queries whose best class has less probability are left out
BAND = 8  # rows that come out together are a multiple of it, so that cells of so many rows are never cut
_TILE = 1 << 20  # bytes of a tile's first values: within a core's cache
_BAND = 1 << 22  # bytes of the rows that come out together
_GPU = 64  # times as much on a GPU, which wants to be filled


@runtime_checkable
class Scores(Protocol):
    """The class distribution of one frame."""

    @property
    def size(self) -> Size: ...

    def bands(self) -> Iterator[tuple[slice, Float[Tensor, "r W C"]]]:
        """Rows of the frame, in order, with their distributions, float32, which sum to 1 and may be written over."""
        ...

    def whole(self) -> Float[Tensor, "C H W"]:
        """All of it at once: 0.2 GB for 124 classes at 480 x 853."""
        ...


@dataclass(frozen=True)
class WholeScores:
    """Scores that are there already."""

    p: Float[Tensor, "C H W"]

    @property
    def size(self) -> Size:
        return self.p.shape[1], self.p.shape[2]

    def bands(self) -> Iterator[tuple[slice, Float[Tensor, "r W C"]]]:
        for rows in _bands(self.size, len(self.p), self.p.device):
            yield rows, self.p[:, rows].permute(1, 2, 0).contiguous()

    def whole(self) -> Float[Tensor, "C H W"]:
        return self.p


@dataclass(frozen=True)
class FusedScores:
    """The weighted mean of the models' distributions."""

    members: Sequence["tuple[float, str, ScoreMap]"]  # share (they sum to 1), rule and votes of each model

    @property
    def size(self) -> Size:
        return self.members[0][2].size

    def bands(self) -> Iterator[tuple[slice, Float[Tensor, "r W C"]]]:
        maps = self.members[0][2]
        for rows in _bands(self.size, maps.classes, maps.device):
            yield rows, self._read(rows)

    @torch.inference_mode()
    def whole(self) -> Float[Tensor, "C H W"]:
        maps = self.members[0][2]
        p = torch.empty(maps.classes, *self.size, device=maps.device)
        for rows, band in self.bands():
            p[:, rows] = band.permute(2, 0, 1)
        return p

    @torch.inference_mode()
    def _read(self, rows: slice) -> Float[Tensor, "r W C"]:
        mean: Tensor | None = None
        for share, rule, votes in self.members:
            band = votes.read(rows)
            p = normalise_(band, rule, dim=-1) if votes.unnormalised else band
            if mean is None:
                mean = p if share == 1 else p.mul_(share)
            else:
                mean.add_(p.to(mean.device), alpha=share)
        assert mean is not None
        return mean


def _bands(size: Size, classes: int, device: torch.device) -> Iterator[slice]:
    height = _band_height(size[1], classes, device)
    return (slice(top, min(top + height, size[0])) for top in range(0, size[0], height))


def _band_height(width: int, classes: int, device: torch.device) -> int:
    return max(BAND, _power_of_two(_limit(_BAND, device) // (4 * classes * width)))


def _limit(on_cpu: int, device: torch.device) -> int:
    return on_cpu * (1 if device.type == "cpu" else _GPU)


def _power_of_two(limit: int) -> int:
    """The largest one up to `limit`, at least 1."""
    return 1 << max(limit.bit_length() - 1, 0)


@dataclass
class ScoreMap:
    """The sum of one model's votes over the windows and views of a frame.

    Windows' own maps are kept as long as they take less than a quarter of the memory of the sum of the votes, which then is made a band
    at a time when it is read: a frame seen in one view never has a map of all pixels and classes.
    """

    size: Size
    classes: int
    device: torch.device
    dtype: torch.dtype = torch.float32  # of the sum; float16 halves it
    unnormalised: bool = False  # votes of masks, which are no distribution
    _kept: "list[_Layer]" = field(default_factory=list)
    _total: Tensor | None = None  # H, W, C

    @torch.inference_mode()
    def add(self, output: MaskLogits | PixelLogits | Distribution, view: View, window: Window, share: float) -> None:
        """Add the output of one window (batch of 1) times `share`. Shares of a frame's views sum to 1; overlaps are weighed here."""
        sheet = _sheet(output, (window.height, window.width), LEAST if view.sampling == "direct" else 0.0)
        self.unnormalised = sheet.mix is not None
        layer = _Layer(sheet, *view.taps(window, self.size), view.sampling, share)
        if self._total is not None:
            layer.add_to(self._total, slice(0, self.size[0]))
            return
        self._kept.append(layer)
        if 4 * sum(layer.sheet.table.nbytes for layer in self._kept) > math.prod(self.size) * self.classes * self.dtype.itemsize:
            self._total = self._sum_up()

    def _sum_up(self) -> Float[Tensor, "H W C"]:
        total = torch.zeros(*self.size, self.classes, device=self.device, dtype=self.dtype)
        while self._kept:
            self._kept.pop(0).add_to(total, slice(0, self.size[0]))
        return total

    @torch.inference_mode()
    def spill(self, folder: Path | None) -> None:
        """Move the sum to a file in `folder` (none = the system's for such files), in half precision; nothing can be added any more.

        The file has no name from then on: its room on disk is free again when the map is gone, however the process ends.
        """
        total = self._sum_up() if self._total is None else self._total
        with tempfile.TemporaryFile(dir=folder) as file:
            total.cpu().half().numpy().tofile(file)
            file.flush()
            kept = np.memmap(file, np.float16, mode="r+", shape=tuple(total.shape))
        self._total, self.device = torch.from_numpy(kept), torch.device("cpu")

    @torch.inference_mode()
    def read(self, rows: slice) -> Float[Tensor, "r W C"]:
        """The votes of some rows, float32, which may be written over; each row may be read once."""
        if self._total is not None:
            return self._total[rows].float()
        band = torch.zeros(rows.stop - rows.start, self.size[1], self.classes, device=self.device)
        for layer in self._kept:
            layer.add_to(band, rows)
        return band


@dataclass(frozen=True)
class _Sheet:
    """One window's maps, a row of the table a cell."""

    table: Float[Tensor, "hw K"]
    cells: Size
    covered: tuple[int, int]  # window pixels that the cells span
    activate: Callable[[Tensor], Tensor]
    mix: Float[Tensor, "K C"] | None  # of the queries' masks into classes


def _sheet(output: MaskLogits | PixelLogits | Distribution, window: Size, least: float) -> _Sheet:
    match output:
        case PixelLogits():
            activate = functools.partial(class_softmax, dim=-1) if output.rows is None else functools.partial(_merged, output.rows)
            return _laid_out(output.logits[0].float(), window, activate, None)
        case Distribution():
            return replace(_laid_out(output.p[0], window, _unchanged, None), covered=window)
        case MaskLogits():
            maps, mix = output.mask_logits[0].float(), query_classes(output.class_logits)[0]
            best = mix.amax(1)
            sure = best >= min(least, float(best.max()))  # the surest one stays: windows without any object exist
            if not bool(sure.all()):
                maps, mix = maps[sure], mix[sure]
            return _laid_out(maps, window, torch.sigmoid_, mix)


def _laid_out(maps: Float[Tensor, "K h w"], window: Size, activate: Callable[[Tensor], Tensor], mix: Tensor | None) -> _Sheet:
    cells = (maps.shape[1], maps.shape[2])
    return _Sheet(maps.flatten(1).t().contiguous(), cells, covered_pixels(cells, window), activate, mix)


def _merged(rows: tuple[int, ...], logits: Tensor) -> Tensor:
    return class_softmax(merge_rows(logits, rows, max(rows) + 1), -1)


def _unchanged(p: Tensor) -> Tensor:
    return p


@dataclass(frozen=True)
class _Layer:
    """A window's maps and their place in the frame."""

    sheet: _Sheet
    rows: Taps
    columns: Taps
    sampling: str
    share: float

    def add_to(self, total: Tensor, rows: slice) -> None:
        """Add to `total`, which holds these rows of the frame."""
        table = self.sheet.table
        most = _band_height(total.shape[1], total.shape[2], total.device)
        plan = _plan(self.rows, self.columns, self.sampling, self.sheet.cells, self.sheet.covered, table.shape[1], most, table.device)
        for tile in plan.tiles:
            first, last = max(tile.where.start, rows.start), min(tile.where.stop, rows.stop)
            if first < last:
                values = self._values(tile.part(first, last), plan.columns)
                self._mix(values, total[first - rows.start : last - rows.start, plan.columns.where])

    def _values(self, rows: "_Axis", columns: "_Axis") -> Float[Tensor, "r n K"]:
        sheet = self.sheet
        seen = sheet.activate(_blend(sheet.table, sheet.cells[1], rows.cell, rows.cell_weight, columns.cell, columns.cell_weight))
        if rows.tap is None or columns.tap is None:
            values = seen.view(len(rows.cell), len(columns.cell), -1)
            return values if rows.plain and columns.plain else values.mul_((rows.weight[:, :1] * columns.weight[:, 0])[..., None])
        values = _blend(seen, len(columns.cell), rows.tap, rows.weight, columns.tap, columns.weight)
        return values.view(len(rows.tap), len(columns.tap), -1)

    def _mix(self, values: Float[Tensor, "r n K"], into: Float[Tensor, "r n C"]) -> None:
        mix = self.sheet.mix
        if mix is None:
            into.add_(values, alpha=self.share)
        elif into.dtype == values.dtype:
            with full_precision(values):
                into.baddbmm_(values, mix.expand(len(values), -1, -1), alpha=self.share)
        else:
            with full_precision(values):
                into.add_(values @ mix, alpha=self.share)


@dataclass(frozen=True)
class _Axis:
    """Positions of the frame along one axis, read from a window's cells in one step or in two."""

    where: slice  # of the frame
    cell: Int32[Tensor, "m 2"]  # window positions in the map's cells
    cell_weight: Float[Tensor, "m 2"]
    tap: Int32[Tensor, "n 2"] | None  # positions of the frame in the m window positions; none = one each, in order
    weight: Float[Tensor, "n k"]
    plain: bool = False  # all weights are 1

    def part(self, first: int, last: int) -> "_Axis":
        """The positions `first` .. `last` of the frame."""
        if (first, last) == (self.where.start, self.where.stop):
            return self
        own = slice(first - self.where.start, last - self.where.start)
        if self.tap is None:
            return _Axis(slice(first, last), self.cell[own], self.cell_weight[own], None, self.weight[own], self.plain)
        return _Axis(slice(first, last), self.cell, self.cell_weight, self.tap[own], self.weight[own])


@dataclass(frozen=True)
class _Plan:
    tiles: Sequence[_Axis]  # of the rows
    columns: _Axis


@functools.lru_cache(maxsize=4096)  # the same for every frame of a size
def _plan(rows: Taps, columns: Taps, sampling: str, cells: Size, covered: Size, channels: int, most: int, device: torch.device) -> _Plan:
    """Tiles of at most `most` rows, which begin and end where bands do."""
    with torch.inference_mode(False):
        whole = not any(taps.weight[:, 1].any() for taps in (rows, columns))  # no position is a mixture: one step is exact
        read = _direct if sampling == "direct" or whole else _exact
        across = read(columns, cells[1], covered[1], device)
        limit = _limit(_TILE, device) // (4 * channels * max(len(across.cell), 1))
        height = min(most, _power_of_two(limit // (1 if across.tap is None else 2)))
        start, stop = (rows.where.start, rows.where.stop) if len(across.cell) else (0, 0)
        edges = [start, *range(start // height * height + height, stop, height), stop]
        parts = [_some(rows, first, last) for first, last in itertools.pairwise(edges) if first < last]
        return _Plan([read(part, cells[0], covered[0], device) for part in parts], across)


def _some(taps: Taps, first: int, last: int) -> Taps:
    own = slice(first - taps.where.start, last - taps.where.start)
    return Taps(slice(first, last), taps.index[own], taps.weight[own])


def _exact(taps: Taps, cells: int, covered: int, device: torch.device) -> _Axis:
    """The window positions that taps touch, and the taps among them."""
    positions, index = torch.unique(taps.index, return_inverse=True)
    cell, cell_weight = _in_cells(positions.double(), cells, covered, device)
    return _Axis(taps.where, cell, cell_weight, index.int().to(device), taps.weight.to(device))


def _direct(taps: Taps, cells: int, covered: int, device: torch.device) -> _Axis:
    """One position each, between the two of its taps."""
    weight = taps.weight.sum(1)
    positions = (taps.index.double() * taps.weight).sum(1) / weight.double()
    cell, cell_weight = _in_cells(positions, cells, covered, device)
    return _Axis(taps.where, cell, cell_weight, None, weight[:, None].to(device), bool((weight == 1).all()))


def _in_cells(positions: Tensor, cells: int, covered: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two cells nearest to positions (float64) and their weights: bilinear, align_corners=False."""
    place = ((positions + 0.5) * cells / covered - 0.5).clamp(0, cells - 1)
    first = place.floor()
    share = (place - first).float()
    index = torch.stack([first, (first + 1).clamp_max(cells - 1)], 1).int()
    return index.to(device), torch.stack([1 - share, share], 1).to(device)


def _blend(table: Tensor, width: int, rows: Tensor, row_weight: Tensor, columns: Tensor, column_weight: Tensor) -> Float[Tensor, "rn K"]:
    """Entries of a table of lines of `width` entries, for each pair of a row and a column: lines mixed by rows, then entries by columns."""
    channels = table.shape[1]
    lines = F.embedding_bag(rows, table.view(-1, width * channels), mode="sum", per_sample_weights=row_weight)
    starts = torch.arange(0, len(rows) * width, width, dtype=torch.int32, device=table.device)
    index = starts[:, None] + columns.reshape(1, -1)
    weight = column_weight.reshape(1, -1).expand(len(rows), -1).contiguous()
    return F.embedding_bag(index.view(-1, 2), lines.view(-1, channels), mode="sum", per_sample_weights=weight.view(-1, 2))
