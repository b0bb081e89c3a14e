"""A Segmenter's output and labels in, named and weighted loss terms out; their sum is what is minimised."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from semivss.posterior import resize_maps
from semivss.settings import Model
from semivss.tensors import IGNORE, MaskLogits, PixelLogits


def supervised_loss(
    output: MaskLogits | PixelLogits, labels: UInt8[Tensor, "B H W"], settings: Model, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Scalars by name, each already multiplied by its weight.

    Args:
        output: logits of B images of H x W pixels.
        labels: 0..C-1, 255 = the pixel takes part in nothing.
        settings: the recipe's model section.
        generator: draws the points of the mask losses, on the CPU; none = torch's global one.

    Raises:
        NonFiniteCost: the logits are NaN or infinite, so that no matching exists. Skip the step and count it.
    """
    match output:
        case PixelLogits():
            return {"cross_entropy": pixel_loss(output.logits, labels)}
        case MaskLogits():
            from semivss.losses.mask import mask_loss

            return mask_loss(output, labels, settings.mask2former, generator)


def pixel_loss(logits: Float[Tensor, "B C h w"], labels: UInt8[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Mean cross-entropy over the valid pixels of all images, after resizing the logits; 0 (with a gradient of 0) when there are none."""
    size = (labels.shape[1], labels.shape[2])
    with torch.autocast(logits.device.type, enabled=False):
        total = F.cross_entropy(resize_maps(logits.float(), size), labels.long(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp_min(1)
