"""Weight files as others write them, tiny: the makers of what `weights inspect` and `weights convert` read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from transformers import (
    ConvNextConfig,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedConfig,
    ResNetConfig,
    SwinConfig,
)
from transformers import SwinModel as TransformersSwin

from semivss.data.labels import label_set
from semivss.models.published_keys import to_published
from semivss.models.segmenter import Segmenter
from semivss.models.weights.classes import nameless_set
from semivss.models.zoo import build_segmenter
from semivss.settings import Mask2FormerHead, Model

HEAD = Mask2FormerHead(channels=32, queries=5, encoder_layers=1, decoder_layers=2, heads=4, encoder_feedforward=64, feedforward=48)
GIVEN = ("mask2former.heads=4",)  # what no preset of a tiny backbone says about it


def seeded(seed: int = 0) -> None:
    torch.manual_seed(seed)


def lively(module: nn.Module, seed: int = 1) -> nn.Module:
    """Every parameter and running statistic random and far from its start value, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and name not in ("mean", "std"):
                noise = torch.randn(tensor.shape, generator=generator) * 0.2
                tensor.copy_(noise.abs() + 0.5 if "var" in name or "norm" in name or "gamma" in name else noise)
    return module.eval()


def segmenter(backbone: str, classes: int = 5, head: Mask2FormerHead = HEAD) -> Segmenter:
    seeded()
    model = build_segmenter(Model(backbone=backbone, head="mask2former", mask2former=head), nameless_set(classes))
    return lively(model)  # type: ignore[return-value]


def checkpoint(model: Segmenter, names: list[str] | None = None) -> dict[str, Any]:
    """As mmcv saves it, index buffers included."""
    state = to_published(model.state_dict())
    for name in list(state):
        if name.endswith("relative_position_bias_table"):
            state[name.replace("bias_table", "index")] = torch.zeros(17, 17, dtype=torch.int64)
        if name.endswith("rel_pos_table.weight"):
            state[name.replace("rel_pos_table.weight", "rp_bucket")] = torch.zeros(17, 17, dtype=torch.int64)
    return {"meta": {"CLASSES": names, "epoch": 3, "iter": 7, "mmseg_version": "0.30.0"}, "state_dict": state}


def beit(shared: bool) -> tuple[Beit, dict[str, Tensor]]:
    """timm's BEiT of the sizes of `beit_tiny`, and its tensors as its authors publish them: heads, norms and index buffers included."""
    seeded()
    sizes: dict[str, Any] = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 4, "num_heads": 4, "num_classes": 10}
    model = lively(Beit(**sizes, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1))
    assert isinstance(model, Beit)
    state = dict(model.state_dict())
    tables = [name for name in state if name.endswith("relative_position_bias_table")]
    if shared:
        for name in tables[1:]:
            model.get_parameter(name).data.copy_(state[tables[0]])
        state["rel_pos_bias.relative_position_bias_table"] = state[tables[0]]
        state = {name: tensor for name, tensor in state.items() if name not in tables}
    state["rel_pos_bias.relative_position_index"] = torch.zeros(17, 17, dtype=torch.int64)
    return model, state


def one_peace(model: Segmenter) -> dict[str, Tensor]:
    """The published pre-training file of a model's trunk: one table for all layers, in the image adapter."""
    trunk = {
        name.removeprefix("backbone.trunk."): tensor for name, tensor in model.state_dict().items() if name.startswith("backbone.trunk.")
    }
    tables = [name for name in trunk if name.endswith("rel_pos_table.weight")]
    shared = trunk[tables[0]].clone()
    state = {name: tensor.clone() for name, tensor in trunk.items() if name not in tables}
    return state | {
        "image_adapter.rel_pos_table_list.0.weight": shared,
        "image_adapter.rp_bucket": torch.zeros(17, 17, dtype=torch.int64),
        "encoder.image_layer_norm.weight": torch.ones(48),
    }


def swin() -> SwinTransformer:
    """timm's Swin of the sizes of `swin_tiny`."""
    seeded()
    sizes: dict[str, Any] = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (2, 2, 4, 4), "window_size": 4}
    return lively(SwinTransformer(img_size=256, num_classes=10, **sizes))  # type: ignore[return-value]


def as_its_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's names of a Swin turned into those of its authors."""
    return {
        name.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample") if "downsample" in name else name: tensor
        for name, tensor in state.items()
        for stage in [int(name.split(".")[1]) if name.startswith("layers.") else 0]
    }


def swin_config() -> SwinConfig:
    return SwinConfig(
        embed_dim=24, depths=[2, 2, 2, 2], num_heads=[2, 2, 4, 4], window_size=4, out_features=[f"stage{k}" for k in range(1, 5)]
    )


def transformers_swin(folder: Path) -> TransformersSwin:
    seeded()
    model = lively(TransformersSwin(swin_config()))
    assert isinstance(model, TransformersSwin)
    model.save_pretrained(folder)
    return model


def convolutional_config(kind: type[ResNetConfig] | type[ConvNextConfig]) -> PreTrainedConfig:
    sizes = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "out_features": [f"stage{k}" for k in range(1, 5)]}
    return kind(**sizes, **({"embedding_size": 8, "layer_type": "basic"} if kind is ResNetConfig else {}))


def mask2former(
    folder: Path,
    names: tuple[str, ...] = label_set("ade20k150").names,
    backbone: PreTrainedConfig | None = None,
    **saving: Any,
) -> Mask2FormerForUniversalSegmentation:
    """A whole model of transformers, round Swin where nothing else is given, saved in `folder`."""
    seeded()
    config = Mask2FormerConfig(
        backbone_config=backbone or swin_config(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        num_queries=5,
        encoder_layers=1,
        decoder_layers=3,
        num_attention_heads=4,
        encoder_feedforward_dim=64,
        dim_feedforward=48,
        id2label=dict(enumerate(names)),
    )
    model = lively(Mask2FormerForUniversalSegmentation(config))
    assert isinstance(model, Mask2FormerForUniversalSegmentation)
    model.save_pretrained(folder, **saving)
    preprocessor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "do_rescale": True, "rescale_factor": 1 / 127.5}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return model
