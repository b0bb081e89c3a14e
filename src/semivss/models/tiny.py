"""Normalised frames in, feature maps of stride 4, 8, 16, 32 out: a small convolutional network that learns from nothing on a CPU."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semivss.models.pyramid import Pyramid

WIDTHS = (32, 64, 96, 128)
DEPTHS = (1, 2, 2, 1)


class TinyBackbone(Pyramid):
    """Residual 3x3 convolutions, 1 M parameters. For toy worlds and tests, not for photographs."""

    channels = WIDTHS
    mean = (0.485, 0.456, 0.406)  # ImageNet's
    std = (0.229, 0.224, 0.225)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(3, 16, stride=2), nn.ReLU(), _convolution(16, WIDTHS[0], stride=2), nn.ReLU())
        inputs = (WIDTHS[0], *WIDTHS[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Identity() if index == 0 else nn.Sequential(_convolution(before, width, stride=2), nn.ReLU()),
                *(Residual(width) for _ in range(depth)),
            )
            for index, (before, width, depth) in enumerate(zip(inputs, WIDTHS, DEPTHS, strict=True))
        )

    def forward(self, frames: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """See Pyramid."""
        maps, x = [], self.stem(frames)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut; starts as the identity, which lets the first steps be large."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(width, width), _convolution(width, width)
        nn.init.zeros_(self.second.get_parameter("1.weight"))

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        """Same shape."""
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs))
