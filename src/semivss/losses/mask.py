"""Mask logits of all decoder layers and labels with ignored pixels in, weighted loss terms out: Mask2Former's loss on valid pixels only.

The usual handling makes 255 the background of every mask. Here every point of matcher and losses lies on a valid pixel, and a query is not
pushed to "no object" for what it claims of the ignored area. With nothing ignored it is Mask2Former's loss (arXiv 2112.01527).
Letters: B images, L decoder layers (the last one first), Q queries, C classes, M matched pairs, K points, h w stride-4 size.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from semivss.full_precision import at_least_float32, full_precision
from semivss.losses.matcher import Matches, match, matching_costs
from semivss.losses.points import Points, ValidPixels
from semivss.losses.whole_batch import processes, summed
from semivss.posterior import covered_pixels
from semivss.settings import Mask2FormerHead
from semivss.tensors import IGNORE, MaskLogits


def mask_loss(
    output: MaskLogits,
    labels: UInt8[Tensor, "B H W"],
    settings: Mask2FormerHead,
    generator: torch.Generator | None = None,
    factors: Float[Tensor, "B"] | None = None,
) -> dict[str, Tensor]:
    """Terms `class`, `mask`, `dice` of the last layer, and the sums over the earlier ones as `class_aux`, `mask_aux`, `dice_aux`.

    Args:
        output: logits of B images of H x W pixels.
        labels: 0..C-1, 255 = ignored.
        settings: weights and numbers of points.
        generator: draws the points; none = torch's global one.
        factors: weights of the images in `mask` and `dice`; none = 1 each.

    Raises:
        NonFiniteCost: NaN or infinite logits.
    """
    with full_precision(labels):
        cells = (output.mask_logits.shape[-2], output.mask_logits.shape[-1])
        return mask_terms(output, ValidPixels(labels, cells, generator), settings, factors)


def mask_terms(
    output: MaskLogits, pixels: ValidPixels, settings: Mask2FormerHead, factors: Float[Tensor, "B"] | None = None
) -> dict[str, Tensor]:
    """As `mask_loss`; the points come from `pixels`."""
    classes, masks = layers_of(output)
    targets = target_classes(pixels.labels, classes.shape[-1] - 1, settings.min_area)
    matches, count = match(pair_costs(classes, masks, pixels, targets, settings), targets)
    return matched_terms(classes, masks, matches, count, pixels, settings, factors)


def layers_of(output: MaskLogits) -> tuple[Float[Tensor, "L B Q C1"], Float[Tensor, "L B Q h w"]]:
    """Class and mask logits of all layers, at least float32."""
    classes = torch.stack([output.class_logits, *(layer[0] for layer in output.auxiliary)])
    masks = torch.stack([output.mask_logits, *(layer[1] for layer in output.auxiliary)])
    return at_least_float32(classes), at_least_float32(masks)


def matched_terms(
    classes: Float[Tensor, "L B Q C1"],
    masks: Float[Tensor, "L B Q h w"],
    matches: Matches,
    count: Float[Tensor, ""],
    pixels: ValidPixels,
    settings: Mask2FormerHead,
    factors: Float[Tensor, "B"] | None = None,
) -> dict[str, Tensor]:
    """As `mask_loss`, of queries that are matched already; `count` is from `match`."""
    bce, dice = point_losses(masks, matches, pixels, settings, factors)
    terms = {
        "class": settings.class_weight * class_loss(classes, matches, settings.no_object_weight * valid_mass(masks, pixels.labels)),
        "mask": settings.mask_weight * bce / count,
        "dice": settings.dice_weight * dice / count,
    }
    last = {name: term[0].clone() for name, term in terms.items()}  # no views: fully_shard hangs its hooks on what comes out
    return last | {f"{name}_aux": term[1:].sum() for name, term in terms.items()} if len(masks) > 1 else last


def target_classes(labels: UInt8[Tensor, "B H W"], classes: int, min_area: int = 1) -> list[list[int]]:
    """Ids of the classes with at least `min_area` pixels, for each image.

    Raises:
        ValueError: an id that is neither 255 nor below `classes`.
    """
    bins = torch.arange(len(labels), device=labels.device).view(-1, 1, 1) * 256 + labels
    areas = torch.bincount(bins.flatten(), minlength=256 * len(labels)).view(-1, 256).cpu()
    if areas[:, classes:IGNORE].any():
        wrong = int(areas[:, classes:IGNORE].sum(0).nonzero()[0]) + classes
        raise ValueError(f"label {wrong} is not in 0..{classes - 1} or {IGNORE}")
    return [(row[:classes] >= min_area).nonzero()[:, 0].tolist() for row in areas]


@torch.no_grad()
def pair_costs(
    classes: Float[Tensor, "L B Q C1"],
    masks: Float[Tensor, "L B Q h w"],
    pixels: ValidPixels,
    targets: list[list[int]],
    settings: Mask2FormerHead,
) -> Float[Tensor, "B L Q T"]:
    """Matching costs of each layer afresh; the K points of an image serve all its layers and queries."""
    layers, batch, queries = masks.shape[:3]
    longest = max(map(len, targets))
    if longest == 0:
        return masks.new_zeros(batch, layers, queries, 0)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in targets], device=masks.device)
    points = pixels.draw(settings.points)
    logits = torch.stack([pixels.read_all(masks[:, image].flatten(0, 1), points.grid[image]) for image in range(batch)])
    wanted = pixels.targets(points, torch.arange(batch, device=masks.device), ids).to(masks.dtype)
    probabilities = classes.softmax(-1).transpose(0, 1).gather(-1, ids[:, None, None].expand(-1, layers, queries, -1))
    return matching_costs(
        logits.view(batch, -1, layers, queries), wanted, probabilities, (settings.class_weight, settings.mask_weight, settings.dice_weight)
    )


def point_losses(
    masks: Float[Tensor, "L B Q h w"],
    matches: Matches,
    pixels: ValidPixels,
    settings: Mask2FormerHead,
    factors: Float[Tensor, "B"] | None = None,
) -> tuple[Float[Tensor, "L"], Float[Tensor, "L"]]:
    """Binary cross-entropy (mean over points) and dice loss, each summed over the matched pairs of a layer, times their image's factor."""
    matched = masks[matches.layer, matches.image, matches.query]
    if len(matched) == 0:
        nothing = matched.sum().expand(len(masks))
        return nothing, nothing
    points = uncertain_points(matched.detach(), matches, pixels, settings)
    logits = pixels.read(matched[:, None], points.grid)[:, 0]
    wanted = pixels.targets(points, matches.image, matches.target[:, None])[:, 0].to(masks.dtype)
    bce = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
    share = logits.sigmoid()
    dice = 1 - (2 * (share * wanted).sum(1) + 1) / (share.sum(1) + wanted.sum(1) + 1)
    if factors is not None:
        bce, dice = bce * factors[matches.image], dice * factors[matches.image]
    empty = masks.new_zeros(len(masks))
    return empty.index_add(0, matches.layer, bce), empty.index_add(0, matches.layer, dice)


@torch.no_grad()
def uncertain_points(matched: Float[Tensor, "M h w"], matches: Matches, pixels: ValidPixels, settings: Mask2FormerHead) -> Points:
    """K points a pair: of `oversample` * K candidates those nearest to logit 0, and a share of plain random ones (PointRend).

    An image's pairs choose from the same candidates, each by its own logits.
    """
    certain = int(settings.importance * settings.points)
    candidates = int(settings.oversample * settings.points)
    drawn = pixels.draw(candidates + settings.points - certain)
    parts = zip(torch.split(matched, list(matches.counts)), drawn.grid[:, :candidates], strict=True)  # pairs are sorted by image
    logits = torch.cat([pixels.read(part[None], grid[None])[0] for part, grid in parts if len(part)])  # one reading for all of an image's
    chosen = logits.abs().topk(certain, dim=1, largest=False, sorted=False).indices
    random = torch.arange(candidates, candidates + settings.points - certain, device=matched.device)
    return drawn.pick(matches.image, torch.cat([chosen, random.expand(len(matched), -1)], 1))


def class_loss(classes: Float[Tensor, "L B Q C1"], matches: Matches, no_object: Float[Tensor, "L B Q"]) -> Float[Tensor, "L"]:
    """Weighted mean cross-entropy of each layer: weight 1 for matched queries, `no_object` for the rest, whose class is the last column.

    The mean over processes is the mean over the whole batch.
    """
    pairs = (matches.layer, matches.image, matches.query)
    wanted = torch.full(no_object.shape, classes.shape[-1] - 1, device=classes.device)
    wanted[pairs] = matches.target
    weights = no_object.index_put(pairs, no_object.new_ones(()))
    losses = F.cross_entropy(classes.flatten(0, 2), wanted.flatten(), reduction="none").view_as(weights)
    total = summed(weights.sum((1, 2))) / processes()
    return (weights * losses).sum((1, 2)) / total.clamp_min(torch.finfo(weights.dtype).tiny)


@torch.no_grad()
def valid_mass(masks: Float[Tensor, "L B Q h w"], labels: UInt8[Tensor, "B H W"]) -> Float[Tensor, "L B Q"]:
    """Share of each query's mask probability that lies on valid pixels: 1 with nothing ignored, 0 for a query of ignored pixels only."""
    cells = (masks.shape[-2], masks.shape[-1])
    high, wide = covered_pixels(cells, (labels.shape[1], labels.shape[2]))
    inside = torch.stack([labels != IGNORE, torch.ones_like(labels, dtype=torch.bool)]).float()  # valid, and in the image at all
    overhang = (0, wide - labels.shape[2], 0, high - labels.shape[1])
    areas = F.adaptive_avg_pool2d(F.pad(inside, overhang), cells).flatten(2).to(masks.dtype)  # 2, B, h * w
    mass = masks.sigmoid().flatten(3) @ areas.permute(1, 2, 0)  # L, B, Q, 2
    return mass[..., 0] / mass[..., 1].clamp_min(torch.finfo(mass.dtype).tiny)
