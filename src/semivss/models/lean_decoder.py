"""Maps and mask features of a pixel decoder in, the last layer's queries and masks out: Mask2Former's transformer decoder for inference.

It computes with the parameters of transformers' own module, which trains, and leaves out what the loss alone needs. There every layer
makes each query's mask at full size and shrinks it to the map that the next layer looks at; here the mask features are shrunk, once a map,
and the masks come out small: shrinking is linear, so it may as well come before the product with the queries. And no layer hands out its
attention, so that a fused kernel may do it. Results are those of transformers' module up to rounding; a mask logit within rounding of 0
may fall on its other side.

Letters: B images, Q queries, D width of a query, E mask channels, S cells of a map, h w size of the mask features.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.models.mask2former.modeling_mask2former import Mask2FormerTransformerModule

from semivss.models.trunk import attend


class _Level(NamedTuple):
    """A map as the layers look at it."""

    keys: Float[Tensor, "B S D"]  # cells with their places
    values: Float[Tensor, "B S D"]  # cells without
    mask_features: Float[Tensor, "B E S"]  # at the map's size


def decode(
    module: Mask2FormerTransformerModule, maps: Sequence[Float[Tensor, "B _ _ _"]], mask_features: Float[Tensor, "B E h w"]
) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B Q h w"]]:
    """Queries after the last layer, normed, and their mask logits.

    Args:
        module: in evaluation mode, with whole parameters and norms after each part (`pre_norm` off).
        maps: coarsest first; layer i looks at map i modulo their number.
        mask_features: of the finest level.
    """
    decoder: Any = module.decoder
    levels = [_level(module, number, level, mask_features) for number, level in enumerate(maps)]
    places = module.queries_embedder.weight
    queries = module.queries_features.weight.repeat(len(mask_features), 1, 1)
    for number, layer in enumerate(decoder.layers):
        level = levels[number % len(levels)]
        inside = _masks(decoder, decoder.layernorm(queries), level.mask_features) >= 0
        queries = _layer(layer, queries, places, level, inside | ~inside.any(-1, keepdim=True))  # an empty mask hides nothing
    queries = decoder.layernorm(queries)
    return queries, torch.unflatten(_masks(decoder, queries, mask_features.flatten(2)), 2, mask_features.shape[-2:])


def _level(module: Mask2FormerTransformerModule, number: int, level: Tensor, mask_features: Tensor) -> _Level:
    dtype = torch.promote_types(level.dtype, torch.float32)
    places = module.position_embedder(level.shape, level.device, dtype).flatten(2).transpose(1, 2)
    cells = module.input_projections[number](level).flatten(2).transpose(1, 2) + module.level_embed.weight[number]
    features = F.interpolate(mask_features, level.shape[-2:], mode="bilinear", align_corners=False)
    return _Level(cells + places, cells, features.flatten(2))


def _masks(decoder: Any, queries: Float[Tensor, "B Q D"], features: Float[Tensor, "B E S"]) -> Float[Tensor, "B Q S"]:
    """Mask logits of normed queries."""
    masks: Tensor = decoder.mask_predictor.mask_embedder(queries) @ features
    return masks


def _layer(
    layer: Any, queries: Float[Tensor, "B Q D"], places: Float[Tensor, "Q D"], level: _Level, inside: Bool[Tensor, "B Q S"]
) -> Float[Tensor, "B Q D"]:
    """Queries look at the cells inside their masks, at each other, and go through the feed-forward part."""
    queries = layer.cross_attn_layer_norm(queries + _look(layer.cross_attn, queries + places, level, inside))
    placed, own = queries + places, layer.self_attn
    mixed = attend(own.q_proj(placed), own.k_proj(placed), own.v_proj(queries), own.num_heads)
    queries = layer.self_attn_layer_norm(queries + own.out_proj(mixed))
    result: Tensor = layer.final_layer_norm(queries + layer.fc2(layer.activation_fn(layer.fc1(queries))))
    return result


def _look(
    attention: nn.MultiheadAttention, queries: Float[Tensor, "B Q D"], level: _Level, inside: Bool[Tensor, "B Q S"]
) -> Float[Tensor, "B Q D"]:
    assert attention.in_proj_weight is not None
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    parts = zip((queries, level.keys, level.values), weights, biases, strict=True)
    query, key, value = (F.linear(part, weight, bias) for part, weight, bias in parts)
    mixed: Tensor = attention.out_proj(attend(query, key, value, attention.num_heads, inside[:, None]))
    return mixed
