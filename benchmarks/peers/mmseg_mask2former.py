"""A Swin-T Mask2Former of ours in, mmsegmentation's own with the same weights out. Needs the folder that install.py makes."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semivss.models.published_keys import INDEX_BUFFERS, to_published
from semivss.models.segmenter import Segmenter

CONFIG = ".mim/configs/mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py"
_HEAD = (  # what mmdet 3 names otherwise than the published files, which are mmdet 2's
    (r"pixel_decoder\.encoder\.layers\.(\d+)\.attentions\.0", r"pixel_decoder.encoder.layers.\1.self_attn"),
    (r"transformer_decoder\.layers\.(\d+)\.attentions\.0", r"transformer_decoder.layers.\1.cross_attn"),
    (r"transformer_decoder\.layers\.(\d+)\.attentions\.1", r"transformer_decoder.layers.\1.self_attn"),
    (r"\.ffns\.0\.", ".ffn."),
)
_SWIN = (  # transformers' module, mmsegmentation's
    (r"^backbone\.body\.swin\.embeddings\.patch_embeddings\.", "backbone.patch_embed."),
    (r"^backbone\.body\.swin\.embeddings\.", "backbone.patch_embed."),
    (r"^backbone\.body\.swin\.encoder\.layers\.", "backbone.stages."),
    (r"\.attention\.relative_position_bias\.", ".attn.w_msa."),
    (r"\.attention\.o_proj\.", ".attn.w_msa.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)


def mmseg_scores(ours: Segmenter) -> Callable[[np.ndarray], Tensor]:
    """A function from an RGB frame to mmsegmentation's class scores at the frame's size (C H W), padding and its removal included."""
    import mmdet.models  # noqa: F401 -- registers the head's parts
    import mmseg
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    init_default_scope("mmseg")
    config = Config.fromfile(Path(mmseg.__file__).parent / CONFIG).model
    classes = len(ours.label_set)
    config.backbone.init_cfg = None  # it would fetch weights
    config.decode_head.num_classes = classes
    config.decode_head.loss_cls.class_weight = [1.0] * classes + [0.1]
    model = MODELS.build(config).eval()
    absent, unknown = model.load_state_dict(mmseg_names(ours.state_dict()), strict=False)
    assert not unknown, unknown
    assert all(name.endswith(INDEX_BUFFERS) for name in absent), absent

    def scores(frame: np.ndarray) -> Tensor:
        bgr = torch.from_numpy(np.ascontiguousarray(frame[..., ::-1].transpose(2, 0, 1)))
        size = frame.shape[:2]
        sample = SegDataSample(metainfo={"ori_shape": size, "img_shape": size})
        (result,) = model.test_step({"inputs": [bgr], "data_samples": [sample]})
        logits: Tensor = result.seg_logits.data
        return logits

    return scores


def mmseg_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under mmsegmentation 1.2's names."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in to_published({name: tensor for name, tensor in state.items() if name.startswith("head.")}).items():
        theirs[_renamed(name, _HEAD)] = tensor
    for name, tensor in state.items():
        if norm := re.fullmatch(r"backbone\.body\.hidden_states_norms\.stage(\d)\.(\w+)", name):
            theirs[f"backbone.norm{int(norm[1]) - 1}.{norm[2]}"] = tensor
        elif query := re.fullmatch(r"(backbone\..+\.attention)\.q_proj\.(\w+)", name):
            parts = [state[f"{query[1]}.{part}_proj.{query[2]}"] for part in "qkv"]
            theirs[_renamed(query[1], _SWIN).replace(".attention", f".attn.w_msa.qkv.{query[2]}")] = torch.cat(parts)
        elif name.startswith("backbone.") and not name.endswith((".k_proj.weight", ".k_proj.bias", ".v_proj.weight", ".v_proj.bias")):
            theirs[_renamed(name, _SWIN)] = _unfolded(tensor) if ".downsample." in name else tensor
    return theirs


def _unfolded(tensor: Tensor) -> Tensor:
    """Of a reduction between two stages: transformers takes 2 x 2 neighbours one after the other, column by column, `Unfold` channels."""
    grouped = tensor.unflatten(-1, (2, 2, -1))  # ..., column, row, channel
    return grouped.transpose(-1, -3).flatten(-3)


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in table:
        name = re.sub(pattern, new, name)
    return name
