"""Logits in, class distribution per pixel out; its entropy, its percentiles, and the split into reliable and unreliable pixels.

Letters: B images, C classes, Q queries, h w size of the logit maps, H W size asked for.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from semivss.class_rows import merge_rows
from semivss.full_precision import at_least_float32, full_precision
from semivss.tensors import IGNORE, Distribution, MaskLogits, PixelLogits, Split

STRIDE = 4  # image pixels a cell of a Segmenter's maps stands for, in each direction
MOST_FACTOR = 10.0  # of a class in distribution alignment
_VECTOR = 16  # numbers that a processor works on at once
_RANGE = 60  # logits that lie no farther apart have powers that are normal numbers of float32
_CLASSES_AT_ONCE = 16  # the entropy's temporary values: a slice of the classes at a time


def class_distribution(
    output: MaskLogits | PixelLogits | Distribution,
    size: tuple[int, int] | None = None,
    rule: str = "spread",
    align_corners: bool = False,
) -> Float[Tensor, "B C H W"]:
    """Probabilities of the classes, at least float32, which sum to 1 in each pixel.

    Mask votes are summed up at the maps' own size, resized, and turned into a distribution afterwards, which training can afford at
    every step (`pixel_distribution` resizes the masks first, and takes sixteen times the work); per-pixel logits are resized before their
    softmax. What is a distribution already is resized as the image that it covers, whatever its size.

    Args:
        output: what a Segmenter or another model returned.
        size: height and width of the result; none = that of the logit maps.
        rule: how mask votes become a distribution: spread | l1 | softmax, see the functions of these names. Others need none.
        align_corners: as in `resize_maps`.
    """
    match output:
        case PixelLogits():
            return class_softmax(pixel_logits(at_least_float32(output.logits), output.rows, size, align_corners))
        case Distribution():
            return output.p.clone() if size is None else F.interpolate(output.p, size, mode="bilinear", align_corners=align_corners)
        case MaskLogits():
            return normalise_(resize_maps(mask_votes(output), size, align_corners), rule)


def pixel_distribution(
    output: MaskLogits | PixelLogits | Distribution, size: tuple[int, int], rule: str = "spread"
) -> Float[Tensor, "B C H W"]:
    """As `class_distribution`, but the logits of the masks are resized before their sigmoid and the sum over queries.

    So Mask2Former's published code predicts, and so `infer/score_map.py` does without a full-size map of every query.
    """
    if not isinstance(output, MaskLogits):
        return class_distribution(output, size, rule)
    votes = mask_votes(output, size)
    if torch.compiler.is_exporting():  # a graph would keep what was cut off, and scatter what is written in place into that
        votes = votes.clone()
    return normalise_(votes, rule)


def normalise_(votes: Float[Tensor, "..."], rule: str, dim: int = 1) -> Float[Tensor, "..."]:
    """Votes as a distribution along `dim`: they are written over, or not (softmax). Raises ValueError for an unknown rule."""
    match rule:
        case "spread":
            return spread_(votes, dim)
        case "l1":
            return l1_(votes, dim)
        case "softmax":
            return softmax(votes, dim)
        case _:
            raise ValueError(f"unknown rule {rule!r}; known rules: spread, l1, softmax")


def pixel_logits(
    logits: Float[Tensor, "B R h w"], rows: Sequence[int] | None, size: tuple[int, int] | None, align_corners: bool = False
) -> Float[Tensor, "B C H W"]:
    """A per-pixel head's logits of the classes: resized as `resize_maps` does, then merged where `rows` (of PixelLogits) tells."""
    large = resize_maps(logits, size, align_corners)
    return large if rows is None else merge_rows(large, rows, max(rows) + 1, dim=1)


def mask_votes(output: MaskLogits, size: tuple[int, int] | None = None) -> Float[Tensor, "B C h w"]:
    """Sum over queries of class times mask probability, at least float32. No distribution: a pixel's sum lies anywhere in 0..Q.

    `size` = (height, width) to which the masks' logits are resized first; none = they stay as they are.
    """
    with full_precision(output.mask_logits):
        masks = at_least_float32(output.mask_logits)
        masks = masks if size is None else resize_maps(masks, size)
        return torch.einsum("bqc,bqhw->bchw", query_classes(output.class_logits), masks.sigmoid())


def query_classes(class_logits: Float[Tensor, "B Q C1"]) -> Float[Tensor, "B Q C"]:
    """The classes' share of each query's probability, at least float32; "no object" has the rest."""
    return at_least_float32(class_logits).softmax(-1)[..., :-1]


def spread_(votes: Float[Tensor, "..."], dim: int = 1) -> Float[Tensor, "..."]:
    """Divide by the sum; where it is below 1 the missing mass goes to all classes alike, so that an unclaimed pixel is unsure.

    p(c) = (s(c) + m/C) / (S + m) with S = sum of s and m = max(0, 1 - S). Writes over `votes`: 124 classes at full size are 0.2 GB.
    """
    total = votes.sum(dim, keepdim=True)
    missing = (1 - total).clamp_min(0)
    return votes.add_(missing / votes.shape[dim]).div_(total + missing)


def l1_(votes: Float[Tensor, "..."], dim: int = 1) -> Float[Tensor, "..."]:
    """Divide by the sum. A pixel with one faint vote looks certain; without any vote it is uniform. Writes over `votes`."""
    votes = votes.add_(torch.finfo(votes.dtype).tiny)
    return votes.div_(votes.sum(dim, keepdim=True))


def softmax(votes: Float[Tensor, "..."], dim: int = 1) -> Float[Tensor, "..."]:
    """Softmax over votes that are probabilities already, as the published ViT-Adapter test code does (`encoder_decoder_mask2former`).

    Only to reproduce it: with 124 classes every entropy lies in the topmost percent of its range.
    """
    return class_softmax(votes, dim)


def class_softmax(logits: Float[Tensor, "..."], dim: int = 1) -> Float[Tensor, "..."]:
    """Softmax along `dim`, in a form that is fast there."""
    few = dim % logits.ndim == logits.ndim - 1 and logits.shape[dim] < _VECTOR
    if not torch.compiler.is_exporting() and not few:
        return logits.softmax(dim)
    # torch's own takes 5 times as long for rows shorter than a vector, onnxruntime's 6 to 8 times over an axis in the middle
    powers = (logits - _largest(logits, dim)).exp()
    return powers / powers.sum(dim, keepdim=True)


def _largest(logits: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """To be taken from logits before they become powers: the largest of all, which is faster, or of each row where they lie far apart."""
    exact = logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.float64)
    if exact and logits.numel() and not torch.compiler.is_exporting():
        low, high = logits.detach().aminmax()
        if high - low < _RANGE:
            return high
    return logits.amax(dim, keepdim=True)


def resize_maps(maps: Float[Tensor, "B C h w"], size: tuple[int, int] | None, align_corners: bool = False) -> Float[Tensor, "B C H W"]:
    """Bilinear to `size` = (H, W), always a new tensor.

    Maps of ceil(H/4) x ceil(W/4) cells are a Segmenter's own: a cell is exactly 4 pixels and what hangs over is cut off, so an
    odd size moves nothing. Any other map is taken to span the whole image, and with `align_corners` (the published U2PL code)
    every map: the centres of its corner cells lie on the image's corner pixels.
    """
    if size is None:
        return maps.clone()
    if align_corners:
        return F.interpolate(maps, size, mode="bilinear", align_corners=True)
    high, wide = (round(length) for length in covered_pixels(maps.shape[-2:], size))
    return F.interpolate(maps, (high, wide), mode="bilinear", align_corners=False)[..., : size[0], : size[1]]


def covered_pixels(cells: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width in image pixels that a map of h, w `cells` covers, at least `size`; the rule of `resize_maps`."""
    if all(cell == math.ceil(length / STRIDE) for cell, length in zip(cells, size, strict=True)):
        return cells[0] * STRIDE, cells[1] * STRIDE
    return size


def align(p: Float[Tensor, "..."], factors: Float[Tensor, "C"], dim: int = 1) -> Float[Tensor, "..."]:
    """p_c f_c over their sum, classes along `dim`: distribution alignment (arXiv 1911.09785, section 3.1). All factors above 0."""
    product = p * factors.view(-1, *(1,) * (p.ndim - 1 - dim % p.ndim))
    return product / product.sum(dim, keepdim=True)


def class_factors(mean: Float[Tensor, "C"], wanted: Float[Tensor, "C"], strength: float) -> Float[Tensor, "C"]:
    """Factors for `align` that move a mean prediction to the wanted shares: (wanted / mean) ^ strength.

    The ratio is kept within 1 / `MOST_FACTOR` .. `MOST_FACTOR`; it is 1 for a class whose wanted share is 0, of which nothing is known.
    """
    ratio = torch.where(wanted > 0, wanted / mean.clamp_min(1e-9), 1.0)
    return ratio.clamp(1 / MOST_FACTOR, MOST_FACTOR) ** strength


def entropy(p: Float[Tensor, "B C H W"]) -> Float[Tensor, "B H W"]:
    """In nats: 0 for a one-hot pixel, log C for a uniform one (arXiv 2406.00587, equation 1). Has no gradient."""
    parts = [pixel_entropy(part, 1) for part in torch.split(p, _CLASSES_AT_ONCE, dim=1)]
    return torch.stack(parts).sum(0)


@torch.no_grad()
def pixel_entropy(p: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """`entropy` along any dimension, with temporary values of the size of `p`."""
    smallest = torch.finfo(p.dtype).tiny  # 0 log 0 = 0; less than half of the time of torch.special.entr
    return p.clamp_min(smallest).log_().mul_(p).sum(dim).neg_()


@torch.no_grad()
def entropy_percentile(entropies: Float[Tensor, "B H W"], labels: UInt8[Tensor, "B H W"], percent: float) -> float:
    """The entropy that `percent` of the labelled pixels (not 255) stay below, linear between order statistics (arXiv 2203.03884).

    Infinite when no pixel is labelled: nothing is unreliable then.
    """
    values = entropies[labels != IGNORE]
    if len(values) == 0:
        return math.inf
    place = percent / 100 * (len(values) - 1)
    low = values.kthvalue(math.floor(place) + 1).values.item()  # torch.quantile refuses more than 16 million values
    high = values.kthvalue(math.ceil(place) + 1).values.item()
    return low + (high - low) * (place - math.floor(place))


def unreliability_threshold(entropies: Float[Tensor, "B H W"], labels: UInt8[Tensor, "B H W"], alpha: float) -> float:
    """gamma in nats, such that `alpha` percent of the labelled pixels are unreliable; infinite for alpha 0: all are reliable."""
    return entropy_percentile(entropies, labels, 100 - alpha) if alpha > 0 else math.inf


@torch.no_grad()
def unreliability_thresholds(
    entropies: Float[Tensor, "B H W"], labels: UInt8[Tensor, "B H W"], alpha: float, num_classes: int
) -> Float[Tensor, "C"]:
    """`unreliability_threshold` within each pseudo class, by one sort; infinite for a class without pixels."""
    known = labels != IGNORE
    values, order = entropies[known].sort()
    classes, order = labels[known][order].sort(stable=True)
    values = torch.cat([values[order], values.new_full((1,), math.inf)])  # what an empty class points at
    counts = torch.bincount(classes, minlength=num_classes)
    if alpha <= 0:
        return values.new_full((num_classes,), math.inf)
    place = (100 - alpha) / 100 * (counts - 1).double()
    first = torch.where(counts > 0, counts.cumsum(0) - counts, len(values) - 1)
    low, high = (values[first + edge.clamp_min(0).long()] for edge in (place.floor(), place.ceil()))
    return torch.where(counts > 0, low + (high - low) * place.frac().to(values.dtype), math.inf)


def split_labels(labels: UInt8[Tensor, "B H W"], entropies: Float[Tensor, "B H W"], gamma: float | Shaped[Tensor, "C"]) -> Split:
    """Keep the pseudo labels where the entropy is below `gamma`, 255 elsewhere (arXiv 2406.00587, equation 2).

    Args:
        labels: pseudo labels, 255 = none (erased, padded).
        entropies: in nats, or a code that grows with them.
        gamma: in the same unit; one number, or one for each class of pseudo label.
    """
    cut = F.pad(gamma, (0, IGNORE + 1 - len(gamma)))[labels.long()] if isinstance(gamma, Tensor) else gamma
    unreliable = (labels != IGNORE) & (entropies >= cut)
    return Split(labels.masked_fill(unreliable, IGNORE), unreliable)
