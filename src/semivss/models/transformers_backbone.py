"""Normalised frames in, feature maps of stride 4, 8, 16, 32 out: a backbone of transformers, as its Mask2Former models have them.

Swin has a file of its own, swin.py; this one is for the others, and for Swins with unusual settings.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from semivss.errors import RecipeError
from semivss.models.pyramid import Pyramid
from semivss.models.recompute import without_statistics
from semivss.models.strides import demand_strides

KINDS = ("convnext", "convnextv2", "hgnet_v2", "maskformer-swin", "pvt_v2", "resnet", "swin", "swinv2")
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_MAPS = {"out_features", "out_indices"}  # which maps come out is ours to say


class TransformersBackbone(Pyramid):
    """`body` is transformers' module, so its parameters have the names they have there."""

    mean = (0.485, 0.456, 0.406)  # ImageNet's
    std = (0.229, 0.224, 0.225)

    def __init__(self, kind: str, config: Mapping[str, Any]) -> None:
        """
        Args:
            kind: one of KINDS, transformers' `model_type`.
            config: its settings, of `known_settings` alone; what is not given is transformers' default.

        Raises:
            RecipeError: another kind, settings that it does not know, or values that make no sense.
            WeightsError: its maps have other strides.
        """
        from transformers import AutoBackbone, AutoConfig

        super().__init__()
        if kind not in KINDS:
            raise RecipeError(f"backbone transformers/{kind} is not supported; supported: {', '.join(KINDS)}")
        known = known_settings(kind)
        if unknown := [key for key in config if key not in known]:
            raise RecipeError(f"model.config: {unknown[0]!r} is no setting of transformers/{kind}; known: {', '.join(sorted(known))}")
        try:
            settings = AutoConfig.for_model(kind, **config)
            settings.out_features = _STAGES
            self.body = AutoBackbone.from_config(settings)
        except (TypeError, ValueError, AttributeError, RuntimeError, LookupError, ImportError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise RecipeError(f"backbone transformers/{kind}: its model.config makes no sense ({reason}); correct it") from error
        if kind == "swin":
            self.body.swin.layernorm = nn.Identity()  # as in swin.py
        self.channels = tuple(self.body.channels)
        demand_strides(self, f"transformers/{kind}")

    def forward(self, frames: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """See Pyramid."""
        maps: tuple[Tensor, ...] = self.body(frames).feature_maps
        return maps

    def units(self) -> list[nn.Module]:
        """See Pyramid: what transformers keeps on one device, where that has no batch norms."""
        whole = self.body._no_split_modules or ()
        return without_statistics(module for module in self.body.modules() if type(module).__name__ in whole)


def known_settings(kind: str) -> frozenset[str]:
    """What makes a backbone of this kind larger or different, as its configuration class names it.

    Nothing that all models of transformers have belongs to it: among that is the implementation of attention, and the name of one that
    is not built in makes transformers download it and run it.
    """
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    own = _parameters(CONFIG_MAPPING[kind]) - _parameters(PreTrainedConfig)
    return frozenset(name for name in own - _MAPS if not name.startswith("_"))


def plain_config(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a foreign config.json, what `known_settings` are; the rest, such as where the file came from, changes no result."""
    known = known_settings(kind)
    return {key: value for key, value in config.items() if key in known and value is not None}


def _parameters(made: type) -> set[str]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name for name, parameter in inspect.signature(made).parameters.items() if parameter.kind in named}
