"""A backbone in; an error out unless its maps have the strides 4, 8, 16, 32 at any image size."""

import torch

from semivss.errors import WeightsError
from semivss.models.pyramid import Pyramid

STRIDES = (4, 8, 16, 32)
_PROBE = (64, 96)  # an image of no square shape, such as no model is made for


def demand_strides(backbone: Pyramid, name: str) -> None:
    """Run one small image. Raises WeightsError for a model of one image size or of other strides, better now than at the first batch."""
    if next(backbone.parameters()).is_meta:
        return
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            shapes = [tuple(level.shape[1:]) for level in backbone(torch.zeros(1, 3, *_PROBE))]
    except (AssertionError, RuntimeError, ValueError) as error:
        raise WeightsError(f"backbone {name}: works at one image size only ({error}); take another model such as timm/resnet18") from error
    finally:
        backbone.train(training)
    expected = [(width, _PROBE[0] // stride, _PROBE[1] // stride) for width, stride in zip(backbone.channels, STRIDES, strict=True)]
    if shapes != expected:
        raise WeightsError(f"backbone {name}: feature maps {shapes} do not have the strides {STRIDES}; take another model")
