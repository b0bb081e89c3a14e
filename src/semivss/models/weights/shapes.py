"""Tensors under our names in, the sizes that their shapes tell out: of a trunk, of an adapter, of a Mask2Former head, of a Swin.

What no shape tells: heads of plain attention, where stages end, windows, and the two factors of heads times points.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from semivss.models.positions import SPECIAL
from semivss.models.sizes import SwinSizes

HEAD_POINTS = 4 * 3  # points and maps of each head in Mask2Former's pixel decoder, as transformers fixes them
SEEDS = "head.transformer.queries_features.weight"  # of a Mask2Former head and no other
State = Mapping[str, Tensor]

_BEIT, _ONE_PEACE = "backbone.trunk.patch_embed.proj.weight", "backbone.trunk.image_adapter.cls_embedding"
_SWIN = "backbone.body.swin."
_SWIN_TABLE = "encoder.layers.{}.blocks.0.attention.relative_position_bias.relative_position_bias_table"


def read_sizes(state: State) -> dict[str, Any]:
    """Names as in TrunkSizes and in the recipe's section mask2former (these behind `mask2former.`), without what cannot be read.

    Two names are of no setting: `heads_x_points` of the adapter's deformable attention, and `classes`: rows of the classifier.
    """
    head = {f"mask2former.{key}": value for key, value in _head(state).items()}
    return _trunk(state) | _adapter(state) | head | _classes(state)


def read_swin(state: State) -> SwinSizes:
    """Sizes of a Swin, all of which its shapes tell. Raises KeyError with the name of a tensor that it lacks."""
    swin = {name.removeprefix(_SWIN): tensor for name, tensor in state.items() if name.startswith(_SWIN)}
    return SwinSizes(
        width=len(swin["embeddings.patch_embeddings.projection.bias"]),
        depths=tuple(_count(swin, rf"encoder\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4)),
        heads=tuple(swin[_SWIN_TABLE.format(stage)].shape[1] for stage in range(4)),
        window=(math.isqrt(len(swin[_SWIN_TABLE.format(0)])) + 1) // 2,
    )


def square_side(tokens: int) -> int | None:
    """Patches a side of a square image; none where it cannot be one."""
    side = math.isqrt(tokens)
    return side if side * side == tokens else None


def table_side(rows: int) -> int | None:
    """Patches a side of the square grid that a relative-position table of so many rows is for."""
    side = square_side(rows - SPECIAL) if rows > SPECIAL else None
    return (side + 1) // 2 if side is not None and side % 2 else None


def _trunk(state: State) -> dict[str, Any]:
    if (stem := _shape(state, _BEIT, 4)) is not None:
        width, layers, mlp, table, positions = (
            stem[0],
            r"backbone\.trunk\.blocks\.(\d+)\.",
            _shape(state, "backbone.trunk.blocks.0.mlp.fc1.weight", 2),
            _shape(state, "backbone.trunk.blocks.0.attn.relative_position_bias_table", 2),
            _shape(state, "backbone.trunk.pos_embed", 3),
        )
    elif (token := _shape(state, _ONE_PEACE, 3)) is not None:
        width, layers, mlp, table, positions = (
            token[-1],
            r"backbone\.trunk\.encoder\.layers\.(\d+)\.",
            _shape(state, "backbone.trunk.encoder.layers.0.image_ffn.0.wi_0.weight", 2),
            _shape(state, "backbone.trunk.encoder.layers.0.rel_pos_table.weight", 2),
            _shape(state, "backbone.trunk.image_adapter.pos_embed", 2),
        )
    else:
        return {}
    side = table_side(table[0]) if table else _positions_side(positions[-2]) if positions else None
    read = {"feedforward": mlp and mlp[0], "heads": table and table[1], "grid": side and (side, side)}
    return {"width": width, "depth": _count(state, layers)} | {key: value for key, value in read.items() if value}


def _positions_side(count: int) -> int | None:
    """With a class token's position, or without."""
    return square_side(count - 1) or square_side(count)


def _adapter(state: State) -> dict[str, Any]:
    prior = _shape(state, "backbone.spm.stem.0.weight", 4)
    value = _shape(state, "backbone.interactions.0.injector.attn.value_proj.weight", 2)
    weights = _shape(state, "backbone.interactions.0.injector.attn.attention_weights.bias", 1)
    inner = _shape(state, "backbone.interactions.0.extractor.ffn.fc1.weight", 2)
    if not (prior and value and weights and inner):
        return {}
    return {
        "prior": prior[0],
        "deform_ratio": value[0] / value[1],
        "conv_ratio": inner[0] / inner[1],
        "heads_x_points": weights[0] // 3,
    }


def _head(state: State) -> dict[str, int]:
    queries = _shape(state, SEEDS, 2)
    masks = _shape(state, "head.pixel_decoder.mask_projection.weight", 4)
    inner = _shape(state, "head.pixel_decoder.encoder.layers.0.fc1.weight", 2)
    weights = _shape(state, "head.pixel_decoder.encoder.layers.0.self_attn.attention_weights.bias", 1)
    outer = _shape(state, "head.transformer.decoder.layers.0.fc1.weight", 2)
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
    rows = _shape(state, "head.classify.bias", 1)
    return {"classes": rows[0] - (SEEDS in state)} if rows else {}


def _shape(state: State, name: str, axes: int) -> tuple[int, ...] | None:
    """Of a tensor with so many axes and some numbers; none where there is no such tensor."""
    return tuple(state[name].shape) if name in state and state[name].ndim == axes and state[name].numel() else None


def _count(state: State, pattern: str) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})
