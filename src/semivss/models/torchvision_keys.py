"""Tensors of a ConvNeXt or Swin of torchvision in, the same under timm's names out. Its ResNets have timm's names already."""

import re
from collections.abc import Mapping

from torch import Tensor

_CONVNEXT = (
    (r"^features\.0\.([01])\.", r"stem.\1."),
    (r"\.layer_scale$", ".gamma"),
    (r"\.block\.0\.", ".conv_dw."),
    (r"\.block\.2\.", ".norm."),
    (r"\.block\.3\.", ".mlp.fc1."),
    (r"\.block\.5\.", ".mlp.fc2."),
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
)
_SWIN = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^head\.", "head.fc."),
)
_PART = re.compile(r"features\.(\d+)\.(.+)")  # stages and the reductions between them take turns


def from_torchvision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Under timm's names; none for a model of torchvision that is neither."""
    if "features.1.0.layer_scale" in tensors:
        return {_convnext(name): tensor.flatten() if name.endswith("layer_scale") else tensor for name, tensor in tensors.items()}
    if "features.1.0.attn.relative_position_bias_table" in tensors:
        return {_swin(name): tensor for name, tensor in tensors.items() if not name.endswith("relative_position_index")}
    return None


def _convnext(name: str) -> str:
    name = _renamed(name, _CONVNEXT)
    if found := _PART.fullmatch(name):
        part, rest = int(found[1]), found[2]
        return f"stages.{(part - 1) // 2}.blocks.{rest}" if part % 2 else f"stages.{part // 2}.downsample.{rest}"
    return name


def _swin(name: str) -> str:
    name = _renamed(name, _SWIN)
    if found := _PART.fullmatch(name):
        part, rest = int(found[1]), found[2]
        return f"layers.{(part - 1) // 2}.blocks.{rest}" if part % 2 else f"layers.{part // 2}.downsample.{rest}"
    return name


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in table:
        name = re.sub(pattern, new, name)
    return name
