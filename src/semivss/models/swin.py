"""Normalised frames in, feature maps of stride 4, 8, 16, 32 out: transformers' Swin (arXiv 2103.14030) at any image size.

`body` is transformers' `SwinBackbone`, the same module as in its Mask2Former models, so its parameters have the names they have there.
"""

from jaxtyping import Float
from torch import Tensor, nn
from transformers import SwinBackbone, SwinConfig

from semivss.models.pyramid import Pyramid
from semivss.models.sizes import SwinSizes


class Swin(Pyramid):
    """Windows are padded to full ones by transformers."""

    mean = (0.485, 0.456, 0.406)  # ImageNet's
    std = (0.229, 0.224, 0.225)

    def __init__(self, sizes: SwinSizes, *, drop_path: float = 0.0) -> None:
        super().__init__()
        config = SwinConfig(
            embed_dim=sizes.width,
            depths=list(sizes.depths),
            num_heads=list(sizes.heads),
            window_size=sizes.window,
            drop_path_rate=drop_path,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
        self.body = SwinBackbone(config)
        self.body.swin.layernorm = nn.Identity()  # its result reaches no map, and DDP wants a gradient for every parameter
        self.channels = tuple(sizes.width << stage for stage in range(4))

    def forward(self, frames: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """See Pyramid."""
        maps: tuple[Tensor, ...] = self.body(frames).feature_maps
        return maps

    def units(self) -> list[nn.Module]:
        """See Pyramid."""
        return [block for stage in self.body.swin.encoder.layers for block in stage.blocks]
