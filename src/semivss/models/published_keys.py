"""Tensors of a model under their published names in, under ours out, and back.

Published are the names of mmseg-style checkpoints of ViT-Adapter and ONE-PEACE with Mask2Former. Ours differ in three ways: the trunk's
lie under `backbone.trunk.`, the head's are those of transformers' modules, and there queries, keys and values of self-attention are three
tensors. Index buffers, which the published files are full of, do not exist here; `mean` and `std` do not exist there.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

INDEX_BUFFERS = ("relative_position_index", "rp_bucket")
_OWN = ("mean", "std")  # of a Segmenter; they belong to the backbone's class
_TRUNK = ("cls_token", "pos_embed", "patch_embed", "blocks", "image_adapter", "encoder")  # first parts of a trunk's names
_PARTS = ("q_proj", "k_proj", "v_proj")  # in the order of the merged tensor

# published, ours; without `decode_head.` and `head.`; (n) is a layer's number
_HEAD = (
    (r"pixel_decoder.input_convs.(n).conv", "pixel_decoder.input_projections.(n).0"),
    (r"pixel_decoder.input_convs.(n).gn", "pixel_decoder.input_projections.(n).1"),
    (r"pixel_decoder.encoder.layers.(n).attentions.0", "pixel_decoder.encoder.layers.(n).self_attn"),
    (r"pixel_decoder.encoder.layers.(n).ffns.0.layers.0.0", "pixel_decoder.encoder.layers.(n).fc1"),
    (r"pixel_decoder.encoder.layers.(n).ffns.0.layers.1", "pixel_decoder.encoder.layers.(n).fc2"),
    (r"pixel_decoder.encoder.layers.(n).norms.0", "pixel_decoder.encoder.layers.(n).self_attn_layer_norm"),
    (r"pixel_decoder.encoder.layers.(n).norms.1", "pixel_decoder.encoder.layers.(n).final_layer_norm"),
    (r"pixel_decoder.level_encoding.weight", "pixel_decoder.level_embed"),
    (r"pixel_decoder.lateral_convs.0.conv", "pixel_decoder.adapter_1.0"),
    (r"pixel_decoder.lateral_convs.0.gn", "pixel_decoder.adapter_1.1"),
    (r"pixel_decoder.output_convs.0.conv", "pixel_decoder.layer_1.0"),
    (r"pixel_decoder.output_convs.0.gn", "pixel_decoder.layer_1.1"),
    (r"pixel_decoder.mask_feature", "pixel_decoder.mask_projection"),
    (r"transformer_decoder.layers.(n).attentions.0.attn", "transformer.decoder.layers.(n).cross_attn"),
    (r"transformer_decoder.layers.(n).attentions.1.attn", "transformer.decoder.layers.(n).self_attn"),
    (r"transformer_decoder.layers.(n).norms.0", "transformer.decoder.layers.(n).cross_attn_layer_norm"),
    (r"transformer_decoder.layers.(n).norms.1", "transformer.decoder.layers.(n).self_attn_layer_norm"),
    (r"transformer_decoder.layers.(n).norms.2", "transformer.decoder.layers.(n).final_layer_norm"),
    (r"transformer_decoder.layers.(n).ffns.0.layers.0.0", "transformer.decoder.layers.(n).fc1"),
    (r"transformer_decoder.layers.(n).ffns.0.layers.1", "transformer.decoder.layers.(n).fc2"),
    (r"transformer_decoder.post_norm", "transformer.decoder.layernorm"),
    (r"query_embed", "transformer.queries_embedder"),
    (r"query_feat", "transformer.queries_features"),
    (r"level_embed", "transformer.level_embed"),
    (r"mask_embed.0", "transformer.decoder.mask_predictor.mask_embedder.0.0"),
    (r"mask_embed.2", "transformer.decoder.mask_predictor.mask_embedder.1.0"),
    (r"mask_embed.4", "transformer.decoder.mask_predictor.mask_embedder.2.0"),
    (r"cls_embed", "classify"),
)
_MERGED = re.compile(r"(head\.transformer\.decoder\.layers\.\d+\.self_attn)\.in_proj_(weight|bias)")
_SPLIT = re.compile(r"(head\.transformer\.decoder\.layers\.\d+\.self_attn)\.[qkv]_proj\.(weight|bias)")


def thirds(name: str, merged: Tensor) -> tuple[Tensor, ...]:
    """Queries', keys' and values' part of a tensor that holds all three. Raises ValueError for one that cannot be divided so."""
    if merged.ndim == 0 or len(merged) % 3 or not len(merged):
        raise ValueError(f"{name} of shape {list(merged.shape)} cannot hold queries, keys and values")
    return merged.chunk(3)


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Ours; index buffers are left out, names that no published model has are kept as they are. Raises ValueError as `thirds` does."""
    ours: dict[str, Tensor] = {}
    for published, tensor in state.items():
        if published.endswith(INDEX_BUFFERS):
            continue
        name = our_name(published)
        if merged := _MERGED.fullmatch(name):
            ours |= {f"{merged[1]}.{part}.{merged[2]}": piece for part, piece in zip(_PARTS, thirds(published, tensor), strict=True)}
        else:
            ours[name] = tensor
    return ours


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published; `mean` and `std` are left out."""
    published: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if part := _SPLIT.fullmatch(name):
            published[published_name(name)] = torch.cat([state[f"{part[1]}.{piece}.{part[2]}"] for piece in _PARTS])
        elif name not in _OWN:
            published[published_name(name)] = tensor
    return published


def our_name(published: str) -> str:
    """Of one tensor; a merged in_proj keeps its last part."""
    root, _, rest = published.partition(".")
    match root:
        case "backbone":
            return f"backbone.trunk.{rest}" if rest.split(".")[0] in _TRUNK else published
        case "decode_head":
            return f"head.{_translate(rest, _FROM_PUBLISHED)}"
    return published


def published_name(ours: str) -> str:
    """Of one tensor; the three parts of self-attention have one name in common."""
    if part := _SPLIT.fullmatch(ours):
        return published_name(f"{part[1]}.in_proj_{part[2]}")
    root, _, rest = ours.partition(".")
    match root:
        case "backbone":
            return f"backbone.{rest.removeprefix('trunk.')}"
        case "head":
            return f"decode_head.{_translate(rest, _TO_PUBLISHED)}"
    return ours


def _translate(name: str, table: Iterable[tuple[re.Pattern[str], str]]) -> str:
    return next((pattern.sub(new, name, count=1) for pattern, new in table if pattern.match(name)), name)


def _compiled(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Prefixes that end at a part's end, and what to put there."""
    return tuple((re.compile(re.escape(old).replace(r"\(n\)", r"(\d+)") + r"(?=\.|$)"), new.replace("(n)", r"\1")) for old, new in pairs)


_FROM_PUBLISHED = _compiled(_HEAD)
_TO_PUBLISHED = _compiled((ours, published) for published, ours in _HEAD)
