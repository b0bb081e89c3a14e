"""The records that travel: batches into a model, logits out of it. Letters: B images, T frames of a clip, C classes, Q queries,
D feature channels, H W full size, h w stride-4 size."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

IGNORE = 255  # label of a pixel that takes part in nothing


@dataclass(frozen=True)
class Batch:
    """Clips of one training step, oldest frame first. Padding is 0 in frames and 255 in labels."""

    frames: UInt8[Tensor, "B T 3 H W"]
    labels: UInt8[Tensor, "B T H W"]  # 0..C-1, 255 ignore; all 255 in an unlabelled stream
    ids: tuple[str, ...]  # one a clip, "<data set>/<video>/<stem>" of its last frame

    def flat(self) -> tuple[UInt8[Tensor, "N 3 H W"], UInt8[Tensor, "N H W"]]:
        """Frames and labels with the clips' frames as separate images, N = B * T."""
        return self.frames.flatten(0, 1), self.labels.flatten(0, 1)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(self.frames.to(device), self.labels.to(device), self.ids)


@dataclass(frozen=True)
class UnlabelledBatch:
    """Crops of unlabelled frames: one geometry each, as a teacher sees it (weak) and as the student does (V strong views)."""

    weak: UInt8[Tensor, "N 3 H W"]
    strong: UInt8[Tensor, "V N 3 H W"]
    inside: Bool[Tensor, "N H W"]  # false in the padding
    labels: UInt8[Tensor, "N H W"]  # stored pseudo labels, 255 where there is none
    doubt: Float[Tensor, "N H W"]  # stored entropy codes, 0..65535 (they grow with the entropy); 0 where there is none
    ids: tuple[str, ...]

    def to(self, device: torch.device) -> "UnlabelledBatch":
        """The same batch on `device`."""
        maps = self.inside.to(device), self.labels.to(device), self.doubt.to(device)
        return UnlabelledBatch(self.weak.to(device), self.strong.to(device), *maps, self.ids)


@dataclass(frozen=True)
class MaskLogits:
    """What a mask-classification head (Mask2Former) says."""

    class_logits: Float[Tensor, "B Q C1"]  # C + 1 columns, the last one is "no object"
    mask_logits: Float[Tensor, "B Q h w"]
    pixel_features: Float[Tensor, "B D h w"]  # the pixel decoder's mask features
    auxiliary: tuple[tuple[Tensor, Tensor], ...] = ()  # (class, mask) logits of the earlier decoder layers, for the loss


@dataclass(frozen=True)
class PixelLogits:
    """What a per-pixel head says."""

    logits: Float[Tensor, "B R h w"]  # R = C, unless `rows` tells otherwise
    pixel_features: Float[Tensor, "B D h w"]
    rows: tuple[int, ...] | None = None  # the class that each channel counts for (`class_rows.py`); none = its own


@dataclass(frozen=True)
class Distribution:
    """What a model says that gives probabilities instead of logits, as an exported one does."""

    p: Float[Tensor, "B C h w"]  # sums to 1 in each pixel


@dataclass(frozen=True)
class Split:
    """Pseudo labels cut by entropy (arXiv 2406.00587, equation 2)."""

    labels: UInt8[Tensor, "B H W"]  # pseudo label where reliable, 255 elsewhere
    unreliable: Bool[Tensor, "B H W"]  # has a pseudo label that is not to be trusted; false where it was 255 from the start
