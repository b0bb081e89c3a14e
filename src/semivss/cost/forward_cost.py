"""A loaded model and the size of its windows in, operations and bytes of one forward pass out: counted from shapes, in about a second.

What fusing the answers needs beside it (a sum of C x H x W numbers, 4 bytes each, per frame in work) is not part of it.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch

from semivss.cost.autocast import MetaAutocast
from semivss.cost.meter import Meter
from semivss.cost.model_cost import build_meta, count_forward
from semivss.models.segmenter import Segmenter

MIB = 2**20


@dataclass(frozen=True)
class ForwardCost:
    """Of one batch of equal windows."""

    flops: int  # a multiplication and an addition count 2
    weights: int  # bytes of parameters and buffers
    activations: int  # bytes beside them at the worst moment: live tensors alone


def without_values(model: Segmenter) -> Segmenter:
    """The same architecture on the meta device, with the form of deformable attention that the model's own device has."""
    device = next(model.parameters()).device.type
    return model if device == "meta" else build_meta(model.settings, model.label_set, "cpu" if device == "cpu" else "gpu").eval()


def forward_cost(model: Segmenter, window: tuple[int, int], batch: int, precision: str = "32") -> ForwardCost:
    """What `batch` windows of (height, width) pixels cost in inference, `precision` 32 or bf16.

    The model itself is not run. For several sizes of windows give `without_values(model)`, which takes time to build.
    """
    twin = without_values(model)
    meter = Meter()
    meter.hold(*twin.parameters(), *twin.buffers())
    weights = meter.live
    meter.restart()
    with torch.no_grad(), meter, MetaAutocast(inference=True) if precision == "bf16" else nullcontext():
        count_forward(twin, torch.empty(batch, 3, *window, dtype=torch.uint8, device="meta"), meter)
    return ForwardCost(sum(meter.flops.values()), weights, meter.peak - weights)


def predicted_peak(model: Segmenter, window: tuple[int, int], batch: int, precision: str = "32") -> int:
    """Bytes that weights and a forward pass make a process on a CPU grow by, what its allocator keeps included."""
    cost = forward_cost(model, window, batch, precision)
    return cost.weights + cost.activations + allocator_reserve(cost.activations)


def allocator_reserve(activations: int) -> int:
    """Bytes that glibc's malloc, as it is set by default, keeps of freed blocks while tensors of `activations` bytes come and go.

    It holds back up to 64 MiB at the end of its heap (twice its largest threshold for blocks of their own), and holes between
    blocks of different sizes. How large these are differs between models and from run to run: half of the live tensors, or four fifths
    of few, is about what was measured (`benchmarks/forward_memory.py`).
    """
    return min(64 * MIB + activations // 2, activations * 4 // 5)
