"""Feature pyramid in, class logits per pixel at stride 4 out: a top-down pyramid with a linear classifier."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from semivss.tensors import PixelLogits


class PixelHead(nn.Module):
    """Lateral 1x1 and top-down sum (FPN, arXiv 1612.03144); all levels are added up at stride 4 (panoptic FPN, arXiv 1901.02446)."""

    def __init__(
        self, inputs: Sequence[int], classes: int, *, channels: int = 128, dropout: float = 0.1, rows: tuple[int, ...] | None = None
    ) -> None:
        """
        Args:
            inputs: channels of the pyramid's maps, finest first.
            classes: number of classes C.
            channels: width D of the pyramid inside and of the pixel features.
            dropout: share of whole channels dropped before the classifier.
            rows: the class that each row of the classifier counts for, of all classes (`class_rows.py`); none = one row a class.
        """
        super().__init__()
        self.lateral = nn.ModuleList(nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), _norm(channels)) for width in inputs)
        self.smooth = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), _norm(channels), nn.ReLU())
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, classes if rows is None else len(rows), 1)
        self._rows = rows
        nn.init.normal_(self.classify.weight, std=0.01)

    def forward(self, pyramid: Sequence[Tensor]) -> PixelLogits:
        """Logits (B, R, h, w) and features (B, D, h, w) of the finest map's size."""
        maps = [lateral(level) for lateral, level in zip(self.lateral, pyramid, strict=True)]
        top = maps[-1]
        for finer in reversed(maps[:-1]):
            top = finer + F.interpolate(F.relu(top), finer.shape[-2:], mode="bilinear", align_corners=False)
        features = self.smooth(F.relu(top))
        return PixelLogits(self.classify(self.dropout(features)), features, self._rows)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 8), channels)
