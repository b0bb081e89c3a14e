"""A Segmenter's output and split pseudo labels in, named and weighted loss terms out: L_u of arXiv 2406.00587 (equations 4, 5) and U2PL.

Letters: B images, C classes, H W image size, h w size of the logit maps.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from semivss.full_precision import at_least_float32, full_precision
from semivss.losses.supervised import distribution_loss
from semivss.losses.whole_batch import part_of_mean, summed
from semivss.posterior import pixel_logits
from semivss.settings import Model, Semi
from semivss.tensors import IGNORE, MaskLogits, PixelLogits, Split


def unsupervised_loss(
    output: MaskLogits | PixelLogits,
    split: Split,
    settings: Model,
    semi: Semi,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Scalars by name, each already multiplied by its weight, `semi.unsupervised` included; over several processes as `supervised_loss`.

    Args:
        output: the student's logits of B unlabelled images of H x W pixels.
        split: their pseudo labels.
        settings: the recipe's model section.
        semi: the recipe's section of retraining: weights, largest factor, least area of a class.
        generator: draws the points of the mask losses, on the CPU; none = torch's global one.

    Returns:
        `cross_entropy` of per-pixel logits; the terms of `mask_loss` of masks, and `likelihood` when `semi.likelihood` is above 0.

    Raises:
        NonFiniteCost: the logits are NaN or infinite. Skip the step and count it.
    """
    reliable = (split.labels != IGNORE).sum()
    match output:
        case PixelLogits():
            counts = summed(torch.stack([reliable, reliable + split.unreliable.sum()]))
            factor = area_factor(counts[0], counts[1], semi.max_area_factor)
            terms = {"cross_entropy": part_of_mean(pixel_unsupervised_loss(output.logits, split, output.rows, factor=factor), reliable)}
        case MaskLogits():
            from semivss.losses.mask import mask_loss

            head = settings.mask2former.model_copy(update={"min_area": semi.min_area})
            factors = reliable_factor(split, limit=semi.max_area_factor, images=True) if semi.weigh_masks else None
            terms = mask_loss(output, split.labels, head, generator, factors)
            if semi.likelihood:
                terms["likelihood"] = semi.likelihood * part_of_mean(distribution_loss(output, split.labels, settings.rule), reliable)
    return {name: semi.unsupervised * term for name, term in terms.items()}


def pixel_unsupervised_loss(
    logits: Float[Tensor, "B R h w"],
    split: Split,
    rows: Sequence[int] | None = None,
    *,
    limit: float | None = 5.0,
    count_ignored: bool = False,
    align_corners: bool = False,
    factor: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the reliable pixels times N_all / N_reliable; 0, with a gradient of 0, when none is reliable.

    Args:
        logits: the student's; resized to the labels.
        split: pseudo labels.
        rows: as in PixelLogits.
        limit: largest factor; none = no limit, as published.
        count_ignored: N_all counts every pixel, as published, instead of those with a pseudo label.
        align_corners: how logits are resized, see `posterior.resize_maps`; true as published.
        factor: in place of N_all / N_reliable of this split, where the batch is larger.
    """
    labels, reliable = split.labels, (split.labels != IGNORE).sum()
    size = (labels.shape[1], labels.shape[2])
    with full_precision(logits):
        large = pixel_logits(at_least_float32(logits), rows, size, align_corners)
        total = F.cross_entropy(large, labels.long(), ignore_index=IGNORE, reduction="sum")
    factor = reliable_factor(split, limit=limit, count_ignored=count_ignored) if factor is None else factor
    return factor * total / reliable.clamp_min(1)


def reliable_factor(split: Split, *, limit: float | None = 5.0, count_ignored: bool = False, images: bool = False) -> Float[Tensor, "*B"]:
    """N_all / N_reliable of the batch (U2PL, arXiv 2203.03884, equation 4), or of each of its `images`; arguments as above."""
    kept = split.labels != IGNORE
    everything = torch.ones_like(kept) if count_ignored else kept | split.unreliable
    reliable, total = (_count(pixels, images) for pixels in (kept, everything))
    return area_factor(reliable, total, limit)


def area_factor(reliable: Int64[Tensor, "*B"], total: Int64[Tensor, "*B"], limit: float | None) -> Float[Tensor, "*B"]:
    """total / reliable, at most `limit`; 1 without any reliable pixel, where there is nothing to multiply."""
    factor = torch.where(reliable > 0, total / reliable.clamp_min(1), 1.0)
    return factor if limit is None else factor.clamp_max(limit)


def _count(pixels: Tensor, images: bool) -> Int64[Tensor, "*B"]:
    return pixels.flatten(1).sum(1) if images else pixels.sum()
