"""Frames (uint8) in, mask or pixel logits out: normalisation, backbone and head as one module that can be saved as a folder."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, channels_last, nn, tensor

from semivss.data.labels import LabelSet
from semivss.models.linear_layers import fast_linear, train_faster
from semivss.models.pyramid import Pyramid
from semivss.posterior import STRIDE
from semivss.settings import Model
from semivss.tensors import MaskLogits, PixelLogits

MULTIPLE = 32  # stride of the coarsest map


class Segmenter(nn.Module):
    """A backbone with the pyramid strides 4, 8, 16, 32 and a head on it.

    Frames of any size are padded at the right and bottom to multiples of 32 with the mean colour (0 after normalisation). Maps that
    come out have stride 4 and ceil(H/4) x ceil(W/4) cells; a cell is 4 x 4 pixels, so the last one may hang over the image's edge.
    `posterior.resize_maps` and the losses know this.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Pyramid, head: nn.Module, label_set: LabelSet, settings: Model) -> None:
        """
        Args:
            backbone: returns the four maps.
            head: takes the four maps, returns MaskLogits or PixelLogits.
            label_set: the classes, in the order of the logits.
            settings: what backbone and head were built from; goes into config.json.
        """
        super().__init__()
        self.backbone, self.head, self.label_set, self.settings = backbone, head, label_set, settings
        self.register_buffer("mean", tensor(backbone.mean).view(3, 1, 1) * 255)
        self.register_buffer("std", tensor(backbone.std).view(3, 1, 1) * 255)
        self.to(memory_format=channels_last)  # a fifth off the training step of a small CNN on a CPU
        train_faster(self)

    @property
    def rule(self) -> str:
        """How this model's mask votes become a distribution; an argument of `posterior.class_distribution`."""
        return self.settings.rule

    def forward(
        self, frames: UInt8[Tensor, "B 3 H W"], alter: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None = None
    ) -> MaskLogits | PixelLogits:
        """Logits of RGB frames at stride 4. `alter` changes the pyramid before the head sees it, as dropout of features does."""
        size = frames.shape[-2:]
        with fast_linear(frames.device):
            pyramid = self.backbone(self.normalise(frames))
            output = self.head(pyramid if alter is None else alter(pyramid))
        return crop_maps(output, (math.ceil(size[0] / STRIDE), math.ceil(size[1] / STRIDE)))

    def normalise(self, frames: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H2 W2"]:
        """Zero mean and unit variance on the backbone's own terms, padded with 0 to multiples of 32."""
        height, width = frames.shape[-2:]
        frames = frames.contiguous(memory_format=channels_last)
        return F.pad((frames - self.mean) / self.std, (0, -width % MULTIPLE, 0, -height % MULTIPLE))

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json, model.safetensors and README.md. Raises SemivssError when the folder cannot be written."""
        from semivss.models.folder import save_segmenter

        save_segmenter(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "Segmenter":
        """The model saved in `folder`, in evaluation mode, on the CPU. Raises WeightsError for a missing or damaged file."""
        from semivss.models.folder import load_segmenter

        return load_segmenter(cls, Path(folder))


def fill_or_take(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy values into `module`; one that has none, on the meta device, takes the tensors themselves: nothing is in memory twice.

    Tensors of the module that `state` does not name stay as they are.
    """
    present = module.state_dict()
    if not any(present[name].is_meta for name in state):
        module.load_state_dict(state, strict=False)
        return
    module.load_state_dict({name: values.to(present[name].dtype) for name, values in state.items()}, strict=False, assign=True)
    module.to(memory_format=channels_last)  # as built; a tensor that is taken keeps the layout of its file


def take_images(output: MaskLogits | PixelLogits, images: slice | Int64[Tensor, "n"]) -> MaskLogits | PixelLogits:
    """The part of an output that belongs to some images of the batch."""
    features = output.pixel_features[images]
    match output:
        case PixelLogits():
            return PixelLogits(output.logits[images], features, output.rows)
        case MaskLogits():
            auxiliary = tuple((classes[images], masks[images]) for classes, masks in output.auxiliary)
            return MaskLogits(output.class_logits[images], output.mask_logits[images], features, auxiliary)


def crop_maps(output: MaskLogits | PixelLogits, size: tuple[int, int]) -> MaskLogits | PixelLogits:
    """The same output with only the first `size` = (h, w) cells of its maps."""
    high, wide = size
    features = output.pixel_features[..., :high, :wide]
    match output:
        case PixelLogits():
            return PixelLogits(output.logits[..., :high, :wide], features, output.rows)
        case MaskLogits():
            auxiliary = tuple((classes, masks[..., :high, :wide]) for classes, masks in output.auxiliary)
            return replace(output, mask_logits=output.mask_logits[..., :high, :wide], pixel_features=features, auxiliary=auxiliary)
