"""Pixel features of a Segmenter in, representation vectors of the contrastive loss out. For training alone: no model folder holds it."""

import math

from jaxtyping import Float
from torch import Tensor, channels_last, nn

GROUPS = 32


class RepresentationHead(nn.Module):
    """Three convolutions beside the classifier (U2PL, arXiv 2203.03884), with group instead of batch normalisation.

    Group normalisation makes a student's and an averaged teacher's vectors comparable without running statistics. The vectors are not
    normalised: the loss compares directions.
    """

    def __init__(self, inputs: int, channels: int = 256, *, stride: int = 4, dropout: float = 0.1) -> None:
        """
        Args:
            inputs: channels of the pixel features, at stride 4.
            channels: D, inside and of the result.
            stride: image pixels a cell of the result stands for in each direction, 4 or 8.
            dropout: share of whole channels dropped after each of the first two convolutions.

        Raises:
            ValueError: another stride.
        """
        super().__init__()
        if stride not in (4, 8):
            raise ValueError(f"stride must be 4 or 8, got {stride}")
        self.layers = nn.Sequential(
            *_layer(inputs, channels, stride // 4, dropout), *_layer(channels, channels, 1, dropout), nn.Conv2d(channels, channels, 1)
        )
        self.to(memory_format=channels_last)  # as the features are; the loss reads whole vectors

    def forward(self, features: Float[Tensor, "B F h w"]) -> Float[Tensor, "B D h2 w2"]:
        """Vectors of the cells, h and w halved and rounded up at stride 8. A cell begins where its first feature cell begins."""
        return self.layers(features.contiguous(memory_format=channels_last))


def _layer(inputs: int, outputs: int, stride: int, dropout: float) -> tuple[nn.Module, ...]:
    norm = nn.GroupNorm(math.gcd(outputs, GROUPS), outputs)
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), norm, nn.ReLU(), nn.Dropout2d(dropout)
