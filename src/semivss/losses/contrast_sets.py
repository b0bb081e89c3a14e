"""Labels, entropies and a teacher's class distribution in, the positives, anchors and negatives of every class out (U2PL, section 3.3).

Sources: arXiv 2203.03884 and 2406.00587, equation 6. Everything is at the size of the representation.
Letters: B images, the labelled ones first, U unlabelled ones, C classes, H W full size, h w size of the representation, N entries.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor

from semivss.posterior import split_labels
from semivss.tensors import IGNORE

CONFUSABLE = 3  # first ranks of a pixel, which may well be its class
STRIDES = (1, 2, 4, 8)  # between a label map and the representation


@dataclass(frozen=True)
class RankWindow:
    """Ranks of a class (0 = most likely) that make a pixel its negative.

    Below `low` for a pixel that people labelled otherwise, from `low` to below `high` for an unsure one. Made directly the window has
    the numbers given; `scaled` fits them to the number of classes.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f"needs 0 < low < high, got {self.low} and {self.high}")

    @classmethod
    def scaled(cls, classes: int, low: int | None = None, high: int = 20) -> "RankWindow":
        """The published window (3 and 20, for 19 and 21 classes) for any number of classes.

        `high` is at most the number of classes. `low`, the ranks counted as confusable, is 3, and at most a quarter of the classes, rounded
        up: 1 of 2..4 classes, 2 of 5..8, 3 from 9 on. Otherwise few classes would leave an unsure pixel nothing that it surely is not.
        A `low` that is given stays as it is.

        Raises:
            ValueError: fewer than 2 classes, which leave nothing to contrast; a `low` that leaves an unsure pixel no class.
        """
        if classes < 2:
            raise ValueError(f"contrast needs at least 2 classes, got {classes}")
        return cls(min(CONFUSABLE, math.ceil(classes / 4)) if low is None else low, min(high, classes))


@dataclass(frozen=True)
class Regions:
    """What is known of each cell of the representation."""

    labels: UInt8[Tensor, "B h w"]  # 255 = none
    sure: Bool[Tensor, "B h w"]  # may be a positive or an anchor; all that is labelled by people
    unsure: Bool[Tensor, "B h w"]  # may be a negative; all that is labelled by people
    labelled: int  # number of images, the first ones, that people labelled


@dataclass(frozen=True)
class ByClass:
    """Pixels in one list, those of class 0 first; within a class by image, row and column. A pixel may stand in several classes."""

    pixels: Int64[Tensor, "N"]  # index into B * h * w
    counts: Int64[Tensor, "C"]

    @property
    def starts(self) -> Int64[Tensor, "C"]:
        """Where each class begins in `pixels`."""
        return self.counts.cumsum(0) - self.counts

    def mask(self, images: int, size: tuple[int, int]) -> Bool[Tensor, "B C h w"]:
        """True where a pixel stands in a class."""
        classes = torch.arange(len(self.counts), device=self.pixels.device).repeat_interleave(self.counts)
        flat = torch.zeros(images * size[0] * size[1], len(self.counts), dtype=torch.bool, device=self.pixels.device)
        flat[self.pixels, classes] = True
        return flat.view(images, *size, -1).permute(0, 3, 1, 2)

    def subset(self, most: int, generator: torch.Generator | None = None) -> "ByClass":
        """At most `most` pixels of each class, chosen at random, each with the same chance.

        The list of a larger class, turned to a random start, is cut into `most` stretches of which each gives one pixel: without
        the sort of all entries that a full permutation would take.
        """
        device = generator.device if generator is not None else self.counts.device
        chance = torch.rand(2, len(self.counts), most, generator=generator, device=device, dtype=torch.float64).to(self.counts.device)
        counts = self.counts[:, None]
        bounds = torch.arange(most + 1, device=counts.device) * counts.clamp_min(most) // most
        place = bounds[:, :-1] + (chance[0] * bounds.diff(dim=1)).long()
        turned = (place + (chance[1, :, :1] * counts).long()) % counts.clamp_min(1)
        chosen = torch.where(counts > most, turned.sort(1).values, place)
        kept = self.counts.clamp_max(most)
        return ByClass(self.pixels[(chosen + self.starts[:, None])[torch.arange(most, device=counts.device) < kept[:, None]]], kept)


@dataclass(frozen=True)
class ContrastSets:
    """The pixels that make positive keys, those that may be drawn as anchors (a part of the former), and the new negative keys."""

    positives: ByClass
    anchors: ByClass
    negatives: ByClass


def nearest(maps: Shaped[Tensor, "B H W"], size: tuple[int, int], whole: bool = False) -> Shaped[Tensor, "B h w"]:
    """Every cell's value at its first pixel.

    Maps of ceil(H/s) x ceil(W/s) cells, s = 1, 2, 4, 8, have cells of exactly s pixels, of which the last may hang over; this is what
    a Segmenter's features are. Other sizes, and all sizes with `whole` (the published code), span the image with equal cells.
    """
    for stride in STRIDES:
        if not whole and all(cells == math.ceil(length / stride) for cells, length in zip(size, maps.shape[1:], strict=True)):
            return maps[:, ::stride, ::stride]
    return F.interpolate(maps[:, None], size, mode="nearest")[:, 0]


def regions(
    labels: UInt8[Tensor, "B H W"],
    entropies: Float[Tensor, "U H2 W2"],
    size: tuple[int, int],
    gamma: float | Shaped[Tensor, "C"],
    low: float | None = None,
    whole: bool = False,
) -> Regions:
    """Which cells may be positives, anchors and negatives.

    Args:
        labels: of people for the first B - U images, pseudo labels before any threshold for the rest; 255 = none.
        entropies: of the teacher on the unlabelled images, at the labels' size or smaller.
        size: height and width of the representation.
        gamma: entropy from which on a pixel is unsure (the threshold of `posterior.split_labels`).
        low: the largest entropy of a sure pixel, the percentile alpha of the published code; none = all below gamma, as in the paper.
        whole: as in `nearest`.
    """
    small, doubt = nearest(labels, size, whole), nearest(entropies, size, whole)
    labelled = len(labels) - len(entropies)
    given = small[:labelled] != IGNORE
    split = split_labels(small[labelled:], doubt, gamma)
    sure = split.labels != IGNORE if low is None else (small[labelled:] != IGNORE) & (doubt <= low)
    return Regions(small, torch.cat([given, sure]), torch.cat([given, split.unreliable]), labelled)


@torch.no_grad()
def contrast_sets(p: Float[Tensor, "B C h w"], cells: Regions, window: RankWindow, confidence: float = 0.3) -> ContrastSets:
    """Positives, anchors and negatives of all classes.

    Args:
        p: the teacher's class distribution of the images that the student sees.
        cells: labels and reliability of the same images.
        window: cut off at C.
        confidence: delta_p, the probability of its own class that an anchor must exceed.

    Raises:
        ValueError: an id that is neither 255 nor below C.
    """
    classes = p.shape[1]
    ids = cells.labels.flatten().long()
    own = p.gather(1, cells.labels[:, None].long().clamp_max(classes - 1)).flatten()
    positive = cells.sure.flatten().nonzero()[:, 0]
    anchor = positive[own[positive] > confidence]
    return ContrastSets(
        _by_class(positive, ids[positive], classes), _by_class(anchor, ids[anchor], classes), _negatives(p, cells, ids, window)
    )


def _negatives(p: Tensor, cells: Regions, ids: Tensor, window: RankWindow) -> ByClass:
    """Labelled pixels as negatives of the likely classes that they are not, unsure ones of the unlikely classes."""
    wrong, confusable = _ranked(p[: cells.labelled], cells.unsure[: cells.labelled], 0, window.low)
    other = confusable != ids[wrong][:, None]
    unsure, unlikely = _ranked(p[cells.labelled :], cells.unsure[cells.labelled :], window.low, window.high)
    first = cells.labelled * ids.numel() // max(len(p), 1)
    pixels = torch.cat([wrong[:, None].expand_as(other)[other], (unsure + first)[:, None].expand_as(unlikely).flatten()])
    return _by_class(pixels, torch.cat([confusable[other], unlikely.flatten()]), p.shape[1])


def _ranked(p: Tensor, where: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Pixels of `where`, and their classes of the ranks `low` to below `high`: one partial sort, of these pixels alone."""
    pixels = where.flatten().nonzero()[:, 0]
    rows = p.permute(0, 2, 3, 1)[where]
    return pixels, rows.topk(min(high, rows.shape[1]), dim=1).indices[:, low:]


def _by_class(pixels: Tensor, ids: Tensor, classes: int) -> ByClass:
    """Group pixels given in row-major order."""
    counts = ids.bincount(minlength=classes)
    if len(counts) > classes:
        raise ValueError(f"label {len(counts) - 1} is not in 0..{classes - 1} or {IGNORE}")
    return ByClass(pixels[ids.sort(stable=True).indices], counts)
