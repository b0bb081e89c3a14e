"""A recipe's model section and the sizes of crops in, operations and bytes of one training step or of one prediction out.

The model is built on the meta device and really goes forward, through its loss, and backward there (`meter.py`), so recomputing, shared
storages and the order in which autograd frees are counted as they are. Two things stay outside: what kernels need within one call, and what
an allocator keeps in reserve.
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semivss.cost.autocast import MetaAutocast
from semivss.cost.meter import Meter
from semivss.data.labels import LabelSet
from semivss.losses.mask import layers_of, matched_terms, pair_costs
from semivss.losses.matcher import Matches
from semivss.losses.points import ValidPixels
from semivss.losses.supervised import pixel_loss
from semivss.models.deform_attn import DeformableAttention
from semivss.models.deform_sample import NARROW, sample_as_table, sample_by_map
from semivss.models.recompute import alter_recomputed
from semivss.models.segmenter import Segmenter, crop_maps
from semivss.models.zoo import build_segmenter
from semivss.posterior import STRIDE
from semivss.settings import Model
from semivss.tensors import MaskLogits, PixelLogits

TARGETS = 8  # classes that a crop shows; what the mask losses cost depends on it a little
DEVICES = ("gpu", "cpu")  # they differ in the form of deformable attention


@dataclass(frozen=True)
class StepCost:
    """Of one forward and backward pass over a batch, in one process."""

    parameters: Mapping[str, int]  # backbone, head: numbers
    flops: Mapping[str, int]  # backbone, head, loss, backward (what is recomputed included); a multiplication and an addition count 2
    weights: int  # bytes of parameters and buffers
    peak: int  # bytes: weights, gradients and activations together, at the worst moment
    activations: int  # bytes at their own worst moment: all but weights and finished gradients

    @property
    def total_flops(self) -> int:
        """Of the whole pass."""
        return sum(self.flops.values())


@dataclass(frozen=True)
class PredictionCost:
    """Of one forward pass over equal windows."""

    flops: int  # of one window
    peak: int  # bytes, weights included


def build_meta(model: Model, label_set: LabelSet, device: str = "gpu") -> Segmenter:
    """The model without values, and without its weight file. Raises as `build_segmenter`."""
    with torch.device("meta"):
        segmenter = build_segmenter(model.model_copy(update={"weights": None, "pretrained": False}), label_set)
    for module in segmenter.modules():
        if isinstance(module, DeformableAttention):
            width = module.value_proj.out_features // module.heads
            module.sample = sample_as_table if device == "cpu" and width >= NARROW else sample_by_map
    return segmenter.to("meta")  # what transformers makes with a constructor that knows no default device too


def count_parameters(segmenter: nn.Module) -> dict[str, int]:
    """Numbers of backbone and head."""
    return {name: sum(p.numel() for p in segmenter.get_submodule(name).parameters()) for name in ("backbone", "head")}


def step_cost(segmenter: Segmenter, crop: tuple[int, int], crops: int, *, bf16: bool = False) -> StepCost:
    """Forward, loss and backward over `crops` crops of `crop` (height, width) pixels, TARGETS classes each, every pixel labelled."""
    segmenter.train()
    meter = Meter()
    weights = [*segmenter.parameters(), *segmenter.buffers()]
    meter.hold(*weights)
    held = meter.live
    meter.restart()
    autocast = MetaAutocast() if bf16 else None
    if autocast is not None:
        for module in segmenter.modules():
            alter_recomputed(module, autocast.around)
    learned = [parameter for parameter in segmenter.parameters() if parameter.requires_grad]
    hooks = [parameter.register_post_accumulate_grad_hook(meter.take_gradient) for parameter in learned]  # type: ignore[no-untyped-call]
    with meter:
        frames = torch.empty(crops, 3, *crop, dtype=torch.uint8, device="meta")
        labels = torch.empty(crops, *crop, dtype=torch.uint8, device="meta")
        with autocast or nullcontext():
            output = count_forward(segmenter, frames, meter)
            with meter.part("loss"):
                loss = _loss(output, labels, segmenter.settings)
        del output
        if autocast is not None:
            autocast.end_forward()
        with meter.part("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
    for hook in hooks:
        hook.remove()
    return StepCost(count_parameters(segmenter), dict(meter.flops), held, meter.peak_with_gradients, meter.peak - held)


@torch.inference_mode()  # as predictions run: biases of relative positions are kept then, and count
def prediction_cost(
    segmenter: Segmenter, window: tuple[int, int], batch: int, frame: tuple[int, int], *, bf16: bool = False
) -> PredictionCost:
    """Windows of (height, width) pixels, `batch` at a time, whose votes are added to the sum of a `frame`; tiles are too small to count."""
    segmenter.eval()
    meter = Meter()
    meter.hold(*segmenter.parameters(), *segmenter.buffers())
    meter.restart()
    with meter:
        total = torch.empty(len(segmenter.label_set), *frame, device="meta")
        with MetaAutocast(inference=True) if bf16 else nullcontext():
            output = count_forward(segmenter, torch.empty(batch, 3, *window, dtype=torch.uint8, device="meta"), meter)
        maps = output.mask_logits if isinstance(output, MaskLogits) else output.logits
        table = maps[0].flatten(1).t().contiguous()  # as score maps are read from it
        del table, total
    mixed = min(math.prod(window), math.prod(frame)) if isinstance(output, MaskLogits) else 0  # pixels, of queries into classes
    votes = 2 * mixed * maps.shape[1] * len(segmenter.label_set)
    return PredictionCost(sum(meter.flops.values()) // batch + votes, meter.peak)


def count_forward(segmenter: Segmenter, frames: Tensor, meter: Meter) -> MaskLogits | PixelLogits:
    """The segmenter's own forward pass under a meter that is entered, in two parts: backbone and head."""
    with meter.part("backbone"):
        pyramid = segmenter.backbone(segmenter.normalise(frames))
    with meter.part("head"):
        output = segmenter.head(pyramid)
        return crop_maps(output, (math.ceil(frames.shape[-2] / STRIDE), math.ceil(frames.shape[-1] / STRIDE)))


def _loss(output: MaskLogits | PixelLogits, labels: Tensor, settings: Model) -> Tensor:
    """The supervised loss, with made-up matches in place of the assignment, which needs values."""
    if isinstance(output, PixelLogits):
        return pixel_loss(output.logits, labels, output.rows)
    head = settings.mask2former
    with torch._C.DisableTorchFunction():
        cells = (output.mask_logits.shape[-2], output.mask_logits.shape[-1])
        pixels = ValidPixels(labels, cells)
        classes, masks = layers_of(output)
        present = [list(range(min(TARGETS, classes.shape[-1] - 1)))] * len(labels)
        pair_costs(classes, masks, pixels, present, head)
        counts = tuple(len(masks) * min(len(ids), masks.shape[2]) for ids in present)
        some = torch.empty(sum(counts), dtype=torch.int64, device="meta")
        matches = Matches(some, some, some, some, counts)
        return torch.stack([*matched_terms(classes, masks, matches, masks.new_ones(()), pixels, head).values()]).sum()
