"""A Mask2Former folder of transformers in (its config.json and tensors), our settings and our names out.

`Mask2FormerForUniversalSegmentation` of any task and backbone; the head's modules are the same ones as ours, so names differ in front only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from semivss.errors import RecipeError, WeightsError
from semivss.models.published_keys import INDEX_BUFFERS
from semivss.models.sizes import SwinSizes
from semivss.models.transformers_backbone import KINDS, plain_config
from semivss.models.weights.names import from_swin_files
from semivss.models.zoo import swin_section
from semivss.recipe import checked
from semivss.settings import Model

_PREFIXES = {
    "model.pixel_level_module.encoder.": "backbone.body.",
    "model.pixel_level_module.decoder.": "head.pixel_decoder.",
    "model.transformer_module.": "head.transformer.",
    "class_predictor.": "head.classify.",
}
_LOSS = "criterion.empty_weight"
_SWIN_AS_OURS = {  # a Swin with any other of these is `transformers/swin`
    "patch_size": 4,
    "num_channels": 3,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "use_absolute_embeddings": False,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
_AS_OURS = {  # of the head; no published model has any other
    "pre_norm": False,
    "enforce_input_projection": False,
    "activation_function": "relu",
    "common_stride": 4,
    "feature_strides": [4, 8, 16, 32],
    "dropout": 0.0,
}


def mask2former_settings(config: Mapping[str, Any], where: Path) -> Model:
    """The recipe section of a model with the same architecture.

    Raises:
        WeightsError: a backbone or variant that is not supported, or a damaged config.json.
    """
    try:
        if unlike := [key for key, value in _AS_OURS.items() if config.get(key, value) != value]:
            raise WeightsError(f"{where}: {unlike[0]} = {config[unlike[0]]} is not supported; only {_AS_OURS[unlike[0]]} is")
        if config["feature_size"] != config["hidden_dim"]:
            raise WeightsError(f"{where}: feature_size {config['feature_size']} and hidden_dim {config['hidden_dim']} must be equal")
        head = {
            "channels": config["hidden_dim"],
            "mask_channels": config["mask_feature_size"],
            "queries": config["num_queries"],
            "encoder_layers": config["encoder_layers"],
            "decoder_layers": config["decoder_layers"] - 1,  # transformers counts the prediction before the first layer
            "heads": config["num_attention_heads"],
            "encoder_feedforward": config["encoder_feedforward_dim"],
            "feedforward": config["dim_feedforward"],
        }
        backbone = _backbone(config["backbone_config"], where)
    except KeyError as error:
        raise WeightsError(f"{where}: its config.json lacks {error.args[0]}; get the folder again") from error
    except (TypeError, AttributeError, RecipeError) as error:
        raise WeightsError(f"{where}: its config.json makes no sense ({error}); get the folder again") from error
    return checked(Model, f"{where}/config.json", head="mask2former", mask2former=head, **backbone)


def mask2former_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Under our names; and the names of those that serve a loss or nothing we know."""
    ours, unused = {}, []
    encoder = "model.pixel_level_module.encoder."
    body = {name.removeprefix(encoder): tensor for name, tensor in tensors.items() if name.startswith(encoder)}
    if config["backbone_config"].get("model_type", "swin") == "swin":
        body = {name: tensor for name, tensor in from_swin_files(body).items() if not name.startswith("swin.layernorm.")}
    body = {name: tensor for name, tensor in body.items() if not name.endswith(INDEX_BUFFERS)}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None or name.endswith(INDEX_BUFFERS):
            unused += [] if name == _LOSS else [name]
        elif prefix != encoder:
            ours[_PREFIXES[prefix] + name.removeprefix(prefix)] = tensor
    return ours | {_PREFIXES[encoder] + name: tensor for name, tensor in body.items()}, tuple(unused)


def class_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Of a config.json with `id2label`; none where there is none, or one of placeholders."""
    table = config.get("id2label")
    if not isinstance(table, Mapping) or not table:
        return None
    names = [str(table.get(str(number), "")).strip() for number in range(len(table))]
    if not all(names) or all(name == f"LABEL_{number}" for number, name in enumerate(names)):
        return None
    return tuple(names)


def _backbone(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    kind = config.get("model_type", "swin")
    if kind not in KINDS:
        raise WeightsError(f"{where}: its backbone {kind} is not supported; supported: {', '.join(KINDS)}")
    if kind != "swin" or any(config.get(key, value) != value for key, value in _SWIN_AS_OURS.items()):
        return {"backbone": f"transformers/{kind}", "config": plain_config(kind, config)}
    sizes = SwinSizes(
        width=config["embed_dim"], depths=tuple(config["depths"]), heads=tuple(config["num_heads"]), window=config["window_size"]
    )
    return swin_section(sizes) | {"drop_path": config.get("drop_path_rate", 0.0)}
