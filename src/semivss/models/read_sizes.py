"""Tensors under our names in, the sizes that their shapes tell out: of a trunk, of an adapter, of a Mask2Former head.

What no shape tells: heads of plain attention, where stages end, windows, and the two factors of heads times points.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from semivss.models.positions import SPECIAL

HEAD_POINTS = 4 * 3  # points and maps of each head in Mask2Former's pixel decoder, as transformers fixes them
State = Mapping[str, Tensor]


def read_sizes(state: State) -> dict[str, Any]:
    """Names as in TrunkSizes and in the recipe's section mask2former (these behind `mask2former.`), without what cannot be read.

    Two names are of no setting: `heads_x_points` of the adapter's deformable attention, and `classes`: rows of the classifier.
    """
    sizes = {f"mask2former.{key}": value for key, value in _head(state).items()} | _classes(state)
    return _trunk(state) | _adapter(state) | sizes


def square_side(tokens: int) -> int | None:
    """Patches a side of a square image; none where it cannot be one."""
    side = math.isqrt(tokens)
    return side if side * side == tokens else None


def table_side(rows: int) -> int | None:
    """Patches a side of the square grid that a relative-position table of so many rows is for."""
    side = square_side(rows - SPECIAL)
    return (side + 1) // 2 if side is not None and side % 2 else None


def _trunk(state: State) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    if (stem := _shape(state, "backbone.trunk.patch_embed.proj.weight")) is not None:
        inner = _shape(state, "backbone.trunk.blocks.0.mlp.fc1.weight")
        table = _shape(state, "backbone.trunk.blocks.0.attn.relative_position_bias_table")
        sizes |= {"width": stem[0], "depth": _count(state, r"backbone\.trunk\.blocks\.(\d+)\.")}
        places = _shape(state, "backbone.trunk.pos_embed")
    elif (stem := _shape(state, "backbone.trunk.image_adapter.cls_embedding")) is not None:
        inner = _shape(state, "backbone.trunk.encoder.layers.0.image_ffn.0.wi_0.weight")
        table = _shape(state, "backbone.trunk.encoder.layers.0.rel_pos_table.weight")
        sizes |= {"width": stem[-1], "depth": _count(state, r"backbone\.trunk\.encoder\.layers\.(\d+)\.")}
        places = _shape(state, "backbone.trunk.image_adapter.pos_embed")
    else:
        return {}
    side = table_side(table[0]) if table else square_side(places[-2] - 1) if places else None
    return (
        sizes
        | ({"feedforward": inner[0]} if inner else {})
        | ({"heads": table[1]} if table else {})
        | ({"grid": (side, side)} if side else {})
    )


def _adapter(state: State) -> dict[str, Any]:
    prior = _shape(state, "backbone.spm.stem.0.weight")
    value = _shape(state, "backbone.interactions.0.injector.attn.value_proj.weight")
    weights = _shape(state, "backbone.interactions.0.injector.attn.attention_weights.bias")
    inner = _shape(state, "backbone.interactions.0.extractor.ffn.fc1.weight")
    if not (prior and value and weights and inner):
        return {}
    return {
        "prior": prior[0],
        "deform_ratio": value[0] / value[1],
        "conv_ratio": inner[0] / inner[1],
        "heads_x_points": weights[0] // 3,
    }


def _head(state: State) -> dict[str, int]:
    queries = _shape(state, "head.transformer.queries_features.weight")
    masks = _shape(state, "head.pixel_decoder.mask_projection.weight")
    inner = _shape(state, "head.pixel_decoder.encoder.layers.0.fc1.weight")
    weights = _shape(state, "head.pixel_decoder.encoder.layers.0.self_attn.attention_weights.bias")
    outer = _shape(state, "head.transformer.decoder.layers.0.fc1.weight")
    if not (queries and masks and inner and weights and outer):
        return {}
    return {
        "channels": queries[1],
        "mask_channels": masks[0],
        "queries": queries[0],
        "encoder_layers": _count(state, r"head\.pixel_decoder\.encoder\.layers\.(\d+)\."),
        "decoder_layers": _count(state, r"head\.transformer\.decoder\.layers\.(\d+)\."),
        "encoder_feedforward": inner[0],
        "feedforward": outer[0],
        "heads": weights[0] // HEAD_POINTS,
    }


def _classes(state: State) -> dict[str, int]:
    rows = _shape(state, "head.classify.bias")
    return {"classes": rows[0] - ("head.transformer.queries_features.weight" in state)} if rows else {}


def _shape(state: State, name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None


def _count(state: State, pattern: str) -> int:
    found = {int(match[1]) for name in state if (match := re.match(pattern, name))}
    return max(found) + 1 if found else 0
