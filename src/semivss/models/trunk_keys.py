"""Tensors of a pre-training file of BEiT, ViT or ONE-PEACE in, those of our trunk under its names out (`trunk.` is taken as read).

Such files hold one relative-position table for all blocks, or one each; ours has one each. Heads and index buffers stay behind.
"""

import re
from collections.abc import Mapping

from torch import Tensor

_SHARED = {  # name of a table for all blocks: that of one block
    "rel_pos_bias.relative_position_bias_table": "blocks.{}.attn.relative_position_bias_table",
    "image_adapter.rel_pos_table_list.0.weight": "encoder.layers.{}.rel_pos_table.weight",
}
_BLOCK = re.compile(r"(?:blocks|encoder\.layers)\.(\d+)\.")
_SCALES = {"ls1.gamma": "gamma1", "ls2.gamma": "gamma2"}  # of timm's plain ViT
_OURS = re.compile(
    r"cls_token|pos_embed|patch_embed\.proj\.(?:weight|bias)"
    r"|blocks\.\d+\.(?:gamma_?[12]|norm[12]\..+|mlp\.fc[12]\..+|attn\.(?:qkv|proj)\..+|attn\.[qv]_bias|attn\.relative_position_bias_table)"
    r"|image_adapter\.(?:cls_embedding|pos_embed|embed_images\..+)"
    r"|encoder\.layers\.\d+\.(?:gamma_[12]|(?:self_attn|self_attn_layer_norm|final_layer_norm|image_ffn)\..+|rel_pos_table\.weight)"
)


def trunk_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The trunk's tensors, and the names of those that no trunk of ours has, as in the file."""
    trunk, unused = {}, []
    for name, tensor in tensors.items():
        ours = _trunk_name(name)
        if _OURS.fullmatch(ours):
            trunk[ours] = tensor
        elif ours not in _SHARED:
            unused.append(name)
    shared = {one: tensor for name, tensor in tensors.items() if (one := _SHARED.get(_trunk_name(name)))}
    for one, table in shared.items():
        for block in sorted({match[1] for name in trunk if (match := _BLOCK.match(name))}):
            trunk.setdefault(one.format(block), table)
    return trunk, tuple(unused)


def _trunk_name(name: str) -> str:
    """Also out of the whole ONE-PEACE model, whose vision branch the published pre-training file is."""
    name = name.replace("encoder_wrapper.", "encoder.").replace("fusion_model.", "")
    name = name.removeprefix("encoder.") if name.startswith("encoder.image_adapter.") else name
    for theirs, ours in _SCALES.items():
        if name.endswith(theirs):
            return name.removesuffix(theirs) + ours
    return name
