"""The backbone and head sections of a published configuration in, our family and sizes out.

The sections are those of the mmseg-style repositories ViT-Adapter and ONE-PEACE: keyword arguments of their classes, with `type`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from semivss.errors import WeightsError
from semivss.models.sizes import PATCH, TrunkSizes

FAMILIES = {"BEiTAdapter": "vit_adapter", "ViTAdapter": "vit_adapter_plain", "OnePeaceAdapter": "one_peace"}


def published_sizes(backbone: Mapping[str, Any]) -> tuple[str, TrunkSizes]:
    """Family (of models/zoo.py) and sizes.

    Raises:
        WeightsError: a class that is none of the three, a missing entry, or a variant that the published models do not use.
    """
    kind = backbone.get("type")
    if kind in FAMILIES:
        _demand(backbone, add_vit_feature=True, use_extra_extractor=True, with_cffn=True)  # of the adapter, which all three share
    try:
        match kind:
            case "BEiTAdapter":
                _demand(backbone, use_abs_pos_emb=False, use_rel_pos_bias=True, use_shared_rel_pos_bias=False, patch_size=PATCH)
                _demand_no_windows(backbone)
                return FAMILIES[kind], _vit_sizes(backbone, _grid(backbone["img_size"]), backbone["init_values"], backbone["init_values"])
            case "ViTAdapter":
                _demand(backbone, layer_scale=True, patch_size=PATCH)
                return FAMILIES[kind], _vit_sizes(backbone, _grid(backbone["pretrain_size"]), 1.0, backbone.get("init_values", 0.0))
            case "OnePeaceAdapter":
                _demand(backbone, rp_bias=True, shared_rp_bias=False)
                _demand_no_windows(backbone)
                return FAMILIES[kind], _one_peace_sizes(backbone)
    except KeyError as error:
        raise WeightsError(f"backbone {kind}: the configuration lacks {error.args[0]}; add it as the model was trained with") from error
    except (TypeError, ValueError) as error:
        raise WeightsError(f"backbone {kind}: the configuration makes no sense ({error}); correct it") from error
    raise WeightsError(f"backbone type {kind!r} is unknown; known types: {', '.join(FAMILIES)}")


def published_head(head: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of the recipe's section mask2former, from the section decode_head; what it leaves to its bases is left out.

    Raises:
        WeightsError: heads of the two decoders differ, other points than 4, which transformers' modules cannot have, or sections of
            another form.
    """
    encoder = _at(head, "pixel_decoder", "encoder")
    decoder = _at(head, "transformer_decoder")
    sampling, attention = (_at(part, "transformerlayers", "attn_cfgs") for part in (encoder, decoder))
    if sampling.get("num_points", 4) != 4:
        raise WeightsError(f"decode_head: num_points = {sampling['num_points']} is not supported; only 4 is")
    heads = {part["num_heads"] for part in (sampling, attention) if "num_heads" in part}
    if len(heads) > 1:
        raise WeightsError(f"decode_head: pixel decoder and transformer decoder have different num_heads {sorted(heads)}; not supported")
    places = {
        "channels": (head, "feat_channels"),
        "mask_channels": (head, "out_channels"),
        "queries": (head, "num_queries"),
        "encoder_layers": (encoder, "num_layers"),
        "encoder_feedforward": (_at(encoder, "transformerlayers", "ffn_cfgs"), "feedforward_channels"),
        "decoder_layers": (decoder, "num_layers"),
        "feedforward": (_at(decoder, "transformerlayers", "ffn_cfgs"), "feedforward_channels"),
    }
    return {name: section[key] for name, (section, key) in places.items() if key in section} | ({"heads": heads.pop()} if heads else {})


def _at(section: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """A section within; empty where there is none. mmcv also takes a list of sections, one for each part of a layer."""
    for key in keys:
        inner = section.get(key)
        if inner is None:
            inner = {}
        if isinstance(inner, list | tuple) and len(inner) == 1:
            inner = inner[0]
        if not isinstance(inner, Mapping):
            raise WeightsError(f"decode_head: {key} must be one section, got {inner!r:.60}; write the one of all layers")
        section = inner
    return section


def _vit_sizes(backbone: Mapping[str, Any], grid: tuple[int, int], layer_scale: float, injector_scale: float) -> TrunkSizes:
    depth = backbone["depth"]
    windowed, sides = (backbone.get(key) or (None,) * depth for key in ("window_attn", "window_size"))
    windows = tuple(side if chosen else 0 for chosen, side in zip(windowed, sides, strict=True))
    return TrunkSizes(
        width=backbone["embed_dim"],
        depth=depth,
        heads=backbone["num_heads"],
        feedforward=int(backbone["embed_dim"] * backbone.get("mlp_ratio", 4)),
        grid=grid,
        windows=windows if any(windows) else (),
        layer_scale=layer_scale,
        injector_scale=injector_scale,
        **_adapter_sizes(backbone),
    )


def _one_peace_sizes(backbone: Mapping[str, Any]) -> TrunkSizes:
    return TrunkSizes(
        width=backbone["embed_dim"],
        depth=backbone["layers"],
        heads=backbone["attention_heads"],
        feedforward=backbone["ffn_embed_dim"],
        grid=(backbone["bucket_size"],) * 2,
        layer_scale=float(backbone.get("layer_scale_init_value", 1e-2)),
        injector_scale=float(backbone["init_values"]),
        **_adapter_sizes(backbone),
    )


def _adapter_sizes(backbone: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stages": tuple((first, last) for first, last in backbone["interaction_indexes"]),
        "prior": backbone["conv_inplane"],
        "points": backbone["n_points"],
        "deform_heads": backbone["deform_num_heads"],
        "deform_ratio": float(backbone["deform_ratio"]),
        "conv_ratio": float(backbone["cffn_ratio"]),
    }


def _grid(pixels: int | Sequence[int]) -> tuple[int, int]:
    high, wide = (pixels, pixels) if isinstance(pixels, int) else pixels
    return high // PATCH, wide // PATCH


def _demand_no_windows(backbone: Mapping[str, Any]) -> None:
    """BEiT and ONE-PEACE attend to the whole image here."""
    windowed = backbone.get("window_attn") or False
    if windowed is True or (isinstance(windowed, list | tuple) and any(windowed)):
        raise WeightsError(f"backbone {backbone['type']}: window_attn is not supported; only ViTAdapter may have windows")


def _demand(backbone: Mapping[str, Any], **wanted: object) -> None:
    for key, value in wanted.items():
        if backbone.get(key, value) != value:
            raise WeightsError(f"backbone {backbone['type']}: {key} = {backbone[key]} is not supported; only {value} is")
