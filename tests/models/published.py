"""Models and numbers out of the golden files of the backbones. Everything, sizes included, is read from the files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from semivss.models.mask2former import Mask2Former
from semivss.models.published_config import published_sizes
from semivss.models.published_keys import from_published
from semivss.models.pyramid import Pyramid
from semivss.models.segmenter import Segmenter
from semivss.models.weights.convert import convert
from semivss.models.zoo import build_backbone
from semivss.settings import Mask2FormerHead, Model, Trunk

OWN_BUFFERS = {"mean", "std"}  # no published file has them


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata (JSON where it is JSON, else text) and tensors; those of the file that `base` names count where the file has none."""
    with safe_open(path, "pt") as file:
        metadata = {key: loads(value) for key, value in (file.metadata() or {}).items()}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
    if "base" in metadata:
        weights = {key: value for key, value in read(path.parent / metadata["base"])[1].items() if key.startswith("sd.")}
        tensors = weights | tensors
    return metadata, tensors


def loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def weights(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The file's own weights under our names, without `prefix` of ours."""
    root = {"backbone.": "backbone.", "head.": "decode_head."}[prefix]
    published = {root + key.removeprefix("sd."): value for key, value in tensors.items() if key.startswith("sd.")}
    return {name.removeprefix(prefix): value for name, value in from_published(published).items()}


def backbone_settings(config: dict[str, Any]) -> dict[str, Any]:
    family, sizes = published_sizes(config)
    return {"backbone": f"{family}_tiny", "trunk": Trunk(**dataclasses.asdict(sizes))}


def load_strictly(module: nn.Module, state: dict[str, Tensor]) -> None:
    """All of `state` and nothing else, except the norms' counters of batches, which some files lack, and our own buffers."""
    found = module.load_state_dict(state, strict=False)
    assert found.unexpected_keys == []
    assert [name for name in found.missing_keys if not name.endswith("num_batches_tracked") and name not in OWN_BUFFERS] == []


def backbone(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> Pyramid:
    module = build_backbone(Model(**backbone_settings(metadata["config"] | {"type": metadata["cls"]})))
    load_strictly(module, weights(tensors, "backbone."))
    return module.eval()


def head_settings(config: dict[str, Any]) -> Mask2FormerHead:
    return Mask2FormerHead(
        channels=config["feat"],
        mask_channels=config.get("out", config["feat"]),
        queries=config["queries"],
        encoder_layers=config["enc_layers"],
        decoder_layers=config["dec_layers"],
        heads=config["heads"],
        encoder_feedforward=config["enc_ffn"],
        feedforward=config["dec_ffn"],
    )


def head(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> Mask2Former:
    config = metadata["config"]
    module = Mask2Former(config["in_channels"], config["classes"], head_settings(config))
    load_strictly(module, weights(tensors, "head."))
    return module.eval()


def configuration(metadata: dict[str, Any]) -> dict[str, Any]:
    """Of a whole checkpoint, in the words of its repository; `metadata` is that of its golden numbers."""
    head = metadata["head"]
    layers = {"attn_cfgs": {"num_heads": head["heads"], "num_points": 4}, "ffn_cfgs": {"feedforward_channels": head["enc_ffn"]}}
    encoder = {"num_layers": head["enc_layers"], "transformerlayers": layers}
    decoder = {"attn_cfgs": {"num_heads": head["heads"]}, "ffn_cfgs": {"feedforward_channels": head["dec_ffn"]}}
    return {
        "backbone": metadata["backbone"],
        "decode_head": {
            "feat_channels": head["feat"],
            "out_channels": head.get("out", head["feat"]),
            "num_queries": head["queries"],
            "pixel_decoder": {"encoder": encoder},
            "transformer_decoder": {"num_layers": head["dec_layers"], "transformerlayers": decoder},
        },
    }


def segmenter(path: Path, metadata: dict[str, Any], scratch: Path) -> Segmenter:
    """The model of a whole checkpoint, through `weights convert` and a folder."""
    scratch.mkdir(parents=True)
    (scratch / "configuration.json").write_text(json.dumps({"model": configuration(metadata)}))
    convert(path, scratch / "model", config=scratch / "configuration.json")
    return Segmenter.from_pretrained(scratch / "model")
