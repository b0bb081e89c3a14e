"""A recipe's model section in, a Segmenter out: the literal tables of backbones and heads."""

from torch import nn

from semivss.data.labels import LabelSet
from semivss.errors import WeightsError
from semivss.models.pyramid import Pyramid
from semivss.models.segmenter import Segmenter
from semivss.settings import Model


def build_segmenter(model: Model, label_set: LabelSet) -> Segmenter:
    """A fresh model. Its random weights come from torch's global generator, so seed that first.

    Raises:
        WeightsError: an unknown backbone name, one without the strides 4, 8, 16, 32, or `model.weights` that do not fit.
    """
    backbone = build_backbone(model)
    head = build_head(model, backbone.channels, len(label_set))
    return Segmenter(backbone, head, label_set, model)


def build_backbone(model: Model) -> Pyramid:
    """The pyramid `model.backbone` names, with `model.weights` loaded when they are given. Raises as `build_segmenter`."""
    backbone = _new_backbone(model)
    if model.weights is not None:
        from semivss.models.weights import load_backbone_weights

        load_backbone_weights(backbone, model.weights)
    return backbone


def _new_backbone(model: Model) -> Pyramid:
    match model.backbone.split("/", 1):
        case ["tiny"]:
            from semivss.models.tiny import TinyBackbone

            return TinyBackbone()
        case ["timm", name]:
            from semivss.models.timm_backbone import TimmBackbone

            return TimmBackbone(name, pretrained=model.pretrained, drop_path=model.drop_path)
        case _:
            raise WeightsError(
                f"backbone {model.backbone!r} is unknown; use tiny, or timm/<name> with a model name of timm such as timm/resnet18"
            )


def build_head(model: Model, inputs: tuple[int, ...], classes: int) -> nn.Module:
    """The head `model.head` names, for a pyramid with these channels."""
    match model.head:
        case "pixel":
            from semivss.models.pixel_head import PixelHead

            return PixelHead(inputs, classes, **model.pixel.model_dump())
        case "mask2former":
            from semivss.models.mask2former import Mask2Former

            return Mask2Former(inputs, classes, model.mask2former)
