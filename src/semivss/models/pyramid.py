"""What every backbone is: normalised frames in, four feature maps out."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class Pyramid(nn.Module):
    """Base of the backbones: widths of the maps and the normalisation the weights were made for."""

    channels: tuple[int, ...]  # of the maps of stride 4, 8, 16, 32
    mean: tuple[float, ...]  # of a colour channel in 0..1, RGB
    std: tuple[float, ...]

    def forward(self, frames: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """Four maps (B, channels[i], H/s, W/s), s = 4, 8, 16, 32; H and W are multiples of 32."""
        raise NotImplementedError

    def units(self) -> Sequence[nn.Module]:
        """The parts that `recompute` wraps one by one, in order: blocks and the like, without running statistics. None by default."""
        return ()
