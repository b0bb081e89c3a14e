"""Normalised frames in, feature maps of stride 4, 8, 16, 32 out: a backbone of transformers, as its Mask2Former models have them.

Swin has a file of its own, swin.py; this one is for the others, and for Swins with unusual settings.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from semivss.errors import RecipeError
from semivss.models.pyramid import Pyramid
from semivss.models.strides import demand_strides

KINDS = ("convnext", "convnextv2", "hgnet_v2", "maskformer-swin", "pvt_v2", "resnet", "swin", "swinv2")
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_ABOUT_FILES = {"_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "torch_dtype", "transformers_version"}


class TransformersBackbone(Pyramid):
    """`body` is transformers' module, so its parameters have the names they have there."""

    mean = (0.485, 0.456, 0.406)  # ImageNet's
    std = (0.229, 0.224, 0.225)

    def __init__(self, kind: str, config: Mapping[str, Any]) -> None:
        """
        Args:
            kind: one of KINDS, transformers' `model_type`.
            config: its settings as in config.json, plain values; what is not given is transformers' default.

        Raises:
            RecipeError: another kind, or settings that it does not know.
            WeightsError: its maps have other strides.
        """
        from transformers import AutoBackbone, AutoConfig

        super().__init__()
        if kind not in KINDS:
            raise RecipeError(f"backbone transformers/{kind} is not supported; supported: {', '.join(KINDS)}")
        try:
            settings = AutoConfig.for_model(kind, **plain_config(config))
            settings.out_features = _STAGES
            self.body = AutoBackbone.from_config(settings)
        except (TypeError, ValueError, AttributeError, RuntimeError, LookupError) as error:
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


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make a difference: without where a file came from, code that it would like to run, and which maps it gives."""
    left_out = _ABOUT_FILES | {"model_type", "out_features", "out_indices", "stage_names"}
    return {key: value for key, value in config.items() if key not in left_out and value is not None}
