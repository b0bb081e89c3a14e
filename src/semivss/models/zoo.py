"""A recipe's model section in, a Segmenter out: the literal tables of backbones and heads."""

import contextlib
import dataclasses
import difflib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semivss.data.labels import LabelSet
from semivss.errors import RecipeError, WeightsError
from semivss.models.pyramid import Pyramid
from semivss.models.recompute import recompute_all
from semivss.models.segmenter import Segmenter
from semivss.models.sizes import SwinSizes, TrunkSizes
from semivss.models.weights.lite0 import LITE0
from semivss.settings import Model

_QUARTERS = ((0, 2), (3, 5), (6, 8), (9, 11))
_TINY = TrunkSizes(
    width=48, depth=4, heads=4, feedforward=192, grid=(4, 4), stages=((0, 0), (1, 1), (2, 2), (3, 3)), prior=8, deform_heads=6
)
_BASE = TrunkSizes(width=768, depth=12, heads=12, feedforward=3072, grid=(32, 32), stages=_QUARTERS, layer_scale=0.1, deform_heads=12)
_LARGE = TrunkSizes(width=1024, depth=24, heads=16, feedforward=4096, grid=(56, 56), stages=((0, 5), (6, 11), (12, 17), (18, 23)))

# Large, and the base sizes of BEiT and of the plain flavour, are published models; tiny is for tests and toy worlds. Published drop_path:
# vit_adapter_l 0.3, vit_adapter_plain_b 0.3, vit_adapter_plain_l 0.4, one_peace_l 0.5, swin_l 0.3.
TRUNKS: dict[str, TrunkSizes] = {
    "beit_tiny": _TINY,
    "beit_b": dataclasses.replace(_BASE, grid=(40, 40), stages=((0, 3), (4, 5), (6, 7), (8, 11))),
    "beit_l": dataclasses.replace(_LARGE, grid=(40, 40), stages=((0, 7), (8, 11), (12, 15), (16, 23))),
    "vit_adapter_tiny": _TINY,
    "vit_adapter_b": _BASE,
    "vit_adapter_l": _LARGE,
    "vit_adapter_plain_tiny": dataclasses.replace(_TINY, layer_scale=1.0, injector_scale=0.0),
    "vit_adapter_plain_b": dataclasses.replace(_BASE, grid=(24, 24), layer_scale=1.0, injector_scale=0.0),
    "vit_adapter_plain_l": dataclasses.replace(_LARGE, grid=(24, 24), layer_scale=1.0, injector_scale=0.0),
    "one_peace_tiny": dataclasses.replace(_TINY, feedforward=96, layer_scale=1e-2),
    "one_peace_b": dataclasses.replace(_BASE, layer_scale=1e-2),
    "one_peace_l": TrunkSizes(
        width=1536,
        depth=40,
        heads=24,
        feedforward=6144,
        grid=(56, 56),
        stages=((0, 9), (10, 19), (20, 29), (30, 39)),
        layer_scale=1e-2,
        deform_heads=24,
    ),
}
SWINS: dict[str, SwinSizes] = {
    "swin_tiny": SwinSizes(width=24, depths=(2, 2, 2, 2), heads=(2, 2, 4, 4), window=4),  # for tests and toy worlds
    "swin_t": SwinSizes(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7),
    "swin_b": SwinSizes(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12),
    "swin_l": SwinSizes(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12),
}


def build_segmenter(model: Model, label_set: LabelSet) -> Segmenter:
    """A fresh model. Its random weights come from torch's global generator, so seed that first.

    `model.weights` may hold a backbone, or a whole model, whose classifier is adapted to the classes.

    Raises:
        WeightsError: an unknown backbone name, one without the strides 4, 8, 16, 32, or `model.weights` that do not fit.
        RecipeError: sizes that do not fit together.
    """
    if model.weights is None or model.weights == LITE0:
        return _assemble(model, build_backbone(model), label_set)
    from semivss.models.weights.load import load_start, starting_point

    weights, start = model.weights, starting_point(Path(model.weights), model.head, label_set)
    model = model.model_copy(update={"class_rows": start.rows(model.head)})
    segmenter = _assemble(model, build_backbone(model.model_copy(update={"weights": None})), label_set)
    load_start(segmenter, start, weights)
    return segmenter


def _assemble(model: Model, backbone: Pyramid, label_set: LabelSet) -> Segmenter:
    return Segmenter(backbone, build_head(model, backbone.channels, len(label_set)), label_set, model)


def empty_parts(model: Model, classes: int) -> tuple[Pyramid, nn.Module]:
    """Backbone and head of a model whose values all lie in a file: those of the large models, made by us, are on the meta device.

    Others may keep tensors that no file has. Raises as `build_segmenter` does.
    """
    with torch.device("meta") if model.backbone in TRUNKS else contextlib.nullcontext():
        backbone = build_backbone(model)
        return backbone, build_head(model, backbone.channels, classes)


def build_backbone(model: Model) -> Pyramid:
    """The pyramid `model.backbone` names, with `model.weights` loaded when they are given. Raises as `build_segmenter`."""
    backbone = _new_backbone(model)
    if model.recompute:
        recompute_all(backbone.units())
    if model.weights is not None:
        from semivss.models.weights.load import load_backbone_weights

        load_backbone_weights(backbone, model.weights)
    return backbone


def trunk_sizes(model: Model) -> TrunkSizes | None:
    """Sizes of the trunk that `model` names; none for a backbone without one."""
    if model.backbone not in TRUNKS:
        return None
    departures = model.trunk.model_dump(exclude_none=True) if model.trunk else {}
    return dataclasses.replace(TRUNKS[model.backbone], **departures)


def swin_section(sizes: SwinSizes) -> dict[str, Any]:
    """The backbone of a recipe's section [model] that is a Swin of these sizes: a preset's name, or one with all of them changed."""
    name = next((name for name, preset in SWINS.items() if preset == sizes), None)
    return {"backbone": name} if name else {"backbone": "swin_t", "swin": dataclasses.asdict(sizes)}


def _new_backbone(model: Model) -> Pyramid:
    name = model.backbone
    if model.trunk is not None and name not in TRUNKS:
        raise RecipeError(f"model.trunk is for {', '.join(TRUNKS)}, not for backbone {name!r}; take it out")
    if model.swin is not None and name not in SWINS:
        raise RecipeError(f"model.swin is for {', '.join(SWINS)}, not for backbone {name!r}; take it out")
    if model.config is not None and not name.startswith("transformers/"):
        raise RecipeError(f"model.config is for transformers/<kind>, not for backbone {name!r}; take it out")
    match name.split("/", 1):
        case ["tiny"]:
            from semivss.models.tiny import TinyBackbone

            return TinyBackbone()
        case ["timm", timm_name]:
            from semivss.models.timm_backbone import TimmBackbone

            return TimmBackbone(timm_name, pretrained=model.pretrained, drop_path=model.drop_path)
        case ["transformers", kind]:
            from semivss.models.transformers_backbone import TransformersBackbone

            return TransformersBackbone(kind, model.config or {})
        case [_] if name in SWINS:
            from semivss.models.swin import Swin

            departures = model.swin.model_dump(exclude_none=True) if model.swin else {}
            return Swin(dataclasses.replace(SWINS[name], **departures), drop_path=model.drop_path)
        case [_] if sizes := trunk_sizes(model):
            return _trunk_backbone(name, sizes, model.drop_path)
    near = difflib.get_close_matches(name, ["tiny", *SWINS, *TRUNKS], n=2)
    hint = f"did you mean {' or '.join(near)}" if near else f"known names: tiny, {', '.join([*SWINS, *TRUNKS])}"
    others = "any model of timm is timm/<name>, such as timm/resnet18; a backbone of transformers is transformers/<kind>"
    raise WeightsError(f"backbone {name!r} is unknown; {hint}; {others}")


def _trunk_backbone(name: str, sizes: TrunkSizes, drop_path: float) -> Pyramid:
    match name.rsplit("_", 1)[0]:
        case "beit":
            from semivss.models.beit import Beit

            return Beit(sizes, drop_path=drop_path)
        case "vit_adapter":
            from semivss.models.vit_adapter import beit_adapter

            return beit_adapter(sizes, drop_path=drop_path)
        case "vit_adapter_plain":
            from semivss.models.vit_adapter import plain_adapter

            return plain_adapter(sizes, drop_path=drop_path)
        case "one_peace":
            from semivss.models.one_peace import one_peace

            return one_peace(sizes, drop_path=drop_path)
    raise AssertionError(name)


def build_head(model: Model, inputs: tuple[int, ...], classes: int) -> nn.Module:
    """The head `model.head` names, for a pyramid with these channels.

    Raises:
        RecipeError: sizes that do not fit together, or `model.class_rows` of another number of classes.
    """
    if model.class_rows is not None:
        rest = set(model.class_rows) - set(range(classes))
        if len(set(model.class_rows) - rest) < classes or rest - ({classes} if model.head == "mask2former" else set()):
            raise RecipeError(f"model.class_rows must name each of the {classes} classes; it is written by weights convert, take it out")
    match model.head:
        case "pixel":
            from semivss.models.pixel_head import PixelHead

            return PixelHead(inputs, classes, **model.pixel.model_dump(), rows=model.class_rows)
        case "mask2former":
            from semivss.models.mask2former import Mask2Former

            head = Mask2Former(inputs, classes, model.mask2former, model.class_rows)
            if model.recompute:
                recompute_all(head.units())
            return head
