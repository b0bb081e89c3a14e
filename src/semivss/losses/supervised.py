"""A Segmenter's output and labels in, named and weighted loss terms out; their sum is what is minimised."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from semivss.full_precision import at_least_float32, full_precision
from semivss.losses.whole_batch import part_of_mean
from semivss.posterior import class_distribution, pixel_logits
from semivss.settings import Model
from semivss.tensors import IGNORE, MaskLogits, PixelLogits

FLOOR = 1e-8  # least probability whose logarithm is taken


def supervised_loss(
    output: MaskLogits | PixelLogits,
    labels: UInt8[Tensor, "B H W"],
    settings: Model,
    generator: torch.Generator | None = None,
    likelihood: float = 0.0,
) -> dict[str, Tensor]:
    """Scalars by name, each already multiplied by its weight. Where several processes share a batch, their mean is the whole batch's loss.

    Args:
        output: logits of B images of H x W pixels.
        labels: 0..C-1, 255 = the pixel takes part in nothing.
        settings: the recipe's model section.
        generator: draws the points of the mask losses, on the CPU; none = torch's global one.
        likelihood: weight of `distribution_loss` beside the losses of masks: the term `likelihood`.

    Raises:
        NonFiniteCost: the logits are NaN or infinite, so that no matching exists. Skip the step and count it.
    """
    valid = (labels != IGNORE).sum()
    match output:
        case PixelLogits():
            return {"cross_entropy": part_of_mean(pixel_loss(output.logits, labels, output.rows), valid)}
        case MaskLogits():
            from semivss.losses.mask import mask_loss

            terms = mask_loss(output, labels, settings.mask2former, generator)
            if likelihood:
                terms["likelihood"] = likelihood * part_of_mean(distribution_loss(output, labels, settings.rule), valid)
            return terms


def pixel_loss(logits: Float[Tensor, "B R h w"], labels: UInt8[Tensor, "B H W"], rows: Sequence[int] | None = None) -> Float[Tensor, ""]:
    """Mean cross-entropy over the valid pixels of all images, after resizing the logits; 0 (with a gradient of 0) when there are none.

    `rows` as in PixelLogits.
    """
    size = (labels.shape[1], labels.shape[2])
    with full_precision(logits):
        total = F.cross_entropy(pixel_logits(at_least_float32(logits), rows, size), labels.long(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp_min(1)


def distribution_loss(output: MaskLogits | PixelLogits, labels: UInt8[Tensor, "B H W"], rule: str = "spread") -> Float[Tensor, ""]:
    """Mean of -log p(label) over the valid pixels: the per-pixel cross-entropy of equations 4 and 5, for mask classification too.

    Args:
        output: logits; p is `posterior.class_distribution` of them.
        labels: 255 = ignored.
        rule: an argument of `class_distribution`.
    """
    valid = labels != IGNORE
    p = class_distribution(output, (labels.shape[1], labels.shape[2]), rule)
    own = p.gather(1, labels.masked_fill(~valid, 0).long()[:, None])[:, 0]
    return -(own.clamp_min(FLOOR).log() * valid).sum() / valid.sum().clamp_min(1)
