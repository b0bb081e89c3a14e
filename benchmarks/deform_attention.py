"""How fast is deformable attention on this machine? Both forms against the one that all published code has, rounds in turn.

    python benchmarks/deform_attention.py            crops of 256, 512 and 896 pixels
    python benchmarks/deform_attention.py --quick    crops of 256 pixels, few rounds

Shapes are those of ViT-Adapter-L (16 heads of 32 channels in the adapter, 32 of 32 in the pixel decoder), of the pixel decoder of small
models (8 heads of 32, 4 of 16), of narrow adapters (6 heads of 8), and of the tiny presets (6 heads of 4). The published form samples every
map with `grid_sample`, stacks, multiplies and sums; here it is transformers' function.

One JSON row a shape, form and direction: CPU seconds and, as `ratio`, the median over rounds of the published form's time over its own.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from semivss.models.deform_sample import NARROW, Sizes, cell_centres, sample_as_table, sample_by_map

POINTS = 4
LEAST = 0.1  # CPU seconds
Sample = Callable[[Tensor, Sizes, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """Queries on some grids that look at some maps."""

    name: str
    queries: Sizes
    maps: Sizes
    heads: int
    width: int


def main() -> None:
    """Measure every shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    for crop, rounds in ((256, 4),) if options.quick else ((256, 9), (512, 5), (896, 3)):
        for shape in shapes(crop):
            for backward in (False, True):
                measure(shape, crop, backward, rounds)


def shapes(crop: int) -> list[Shape]:
    """Pixel decoder, extractor and injector at one crop."""
    side = crop // 16
    one, three = [(side, side)], [(2 * side, 2 * side), (side, side), (side // 2, side // 2)]
    return [
        Shape("pixel decoder, 32 heads of 32", three[::-1], three[::-1], 32, 32),
        Shape("pixel decoder, 8 heads of 32", three[::-1], three[::-1], 8, 32),
        Shape("extractor, 16 heads of 32", three, one, 16, 32),
        Shape("injector, 16 heads of 32", one, three, 16, 32),
        Shape("pixel decoder, 4 heads of 16", three[::-1], three[::-1], 4, 16),
        Shape("extractor, 6 heads of 8", three, one, 6, 8),
        Shape("injector, 6 heads of 8", one, three, 6, 8),
        Shape("extractor, 6 heads of 4", three, one, 6, 4),
        Shape("injector, 6 heads of 4", one, three, 6, 4),
    ]


def published(value: Tensor, sizes: Sizes, places: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """grid_sample of every map, then stack, multiply, sum."""
    extents = offsets.new_tensor([(wide, high) for high, wide in sizes])[:, None]
    return multi_scale_deformable_attention(value, sizes, places[:, None, None, None] + offsets / extents, weights)


def measure(shape: Shape, crop: int, backward: bool, rounds: int) -> None:
    """One row a form."""
    forms: dict[str, Sample] = {"published": published, "by map": sample_by_map, "as table": sample_as_table}
    given = inputs(shape)
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds + 1):
        for name, form in forms.items():
            times[name].append(seconds(form, given, backward))
    chosen = "as table" if shape.width >= NARROW else "by map"
    for name in ("by map", "as table"):
        ratios = sorted(
            theirs / ours for theirs, ours in list(zip(times["published"], times[name], strict=True))[1:]
        )  # the first fills caches
        row = {
            "what": f"deformable attention {name}, {shape.name}, crop {crop}, {'forward + backward' if backward else 'forward'}",
            "value": round(statistics.median(times[name][1:]), 5),
            "unit": "CPU s",
            "ratio": round(statistics.median(ratios), 2),
            "against": "grid_sample, stack, multiply, sum",
            "spread": [round(ratios[0], 2), round(ratios[-1], 2)],
            "chosen": name == chosen,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        }
        print(json.dumps(row), flush=True)


def inputs(shape: Shape) -> tuple[Tensor, Sizes, Tensor, Tensor, Tensor]:
    """Random values; offsets of two cells, as trained models have them."""
    torch.manual_seed(0)
    places = cell_centres(shape.queries, torch.device("cpu"))
    cells, maps = sum(high * wide for high, wide in shape.maps), len(shape.maps)
    value = torch.randn(1, cells, shape.heads, shape.width)
    offsets = torch.randn(1, len(places), shape.heads, maps, POINTS, 2) * 2
    weights = torch.rand(1, len(places), shape.heads, maps * POINTS).softmax(-1).unflatten(-1, (maps, POINTS))
    return value, shape.maps, places, offsets, weights


def seconds(form: Sample, given: tuple[Tensor, Sizes, Tensor, Tensor, Tensor], backward: bool) -> float:
    """CPU time of one call: the mean over as many as take a while, for the clock is coarse."""
    value, sizes, places, offsets, weights = given
    calls, before = 0, time.process_time()
    while (spent := time.process_time() - before) < LEAST:
        value, offsets, weights = (tensor.detach().requires_grad_(backward) for tensor in (value, offsets, weights))
        mixed = form(value, sizes, places, offsets, weights)
        if backward:
            mixed.sum().backward()
        calls += 1
    return spent / calls


if __name__ == "__main__":
    main()
