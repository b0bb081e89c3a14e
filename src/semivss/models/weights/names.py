"""Tensors under the names of other libraries in, the same under the names of our backbones out.

BEiT, ViT and ONE-PEACE from pre-training files; Swin of its authors, timm and transformers; ConvNeXt and Swin of torchvision. The
names of whole segmentation models are in published_keys.py and mask2former_folder.py.
"""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from semivss.models.published_keys import INDEX_BUFFERS, thirds

Table = Sequence[tuple[str, str]]  # patterns and what to put there, one after the other

_SHARED = {  # name of a table for all blocks: that of one block
    "rel_pos_bias.relative_position_bias_table": "blocks.{}.attn.relative_position_bias_table",
    "image_adapter.rel_pos_table_list.0.weight": "encoder.layers.{}.rel_pos_table.weight",
}
_BLOCK = re.compile(r"(?:blocks|encoder\.layers)\.(\d+)\.")
_TRUNK: Table = (
    (r"^encoder_wrapper\.", "encoder."),  # the whole ONE-PEACE model, whose vision branch the published pre-training file is
    (r"\bfusion_model\.", ""),
    (r"^encoder\.(?=image_adapter\.)", ""),
    (r"\.ls([12])\.gamma$", r".gamma\1"),  # timm's plain ViT
)
_OF_TRUNKS = re.compile(
    r"cls_token|pos_embed|patch_embed\.proj\.(?:weight|bias)"
    r"|blocks\.\d+\.(?:gamma_?[12]|norm[12]\..+|mlp\.fc[12]\..+|attn\.(?:qkv|proj)\..+|attn\.[qv]_bias|attn\.relative_position_bias_table)"
    r"|image_adapter\.(?:cls_embedding|pos_embed|embed_images\..+)"
    r"|encoder\.layers\.\d+\.(?:gamma_[12]|(?:self_attn|self_attn_layer_norm|final_layer_norm|image_ffn)\..+|rel_pos_table\.weight)"
)
_SWIN_FILES: Table = (  # transformers writes files under other names than its module has
    (r"^(encoder|embeddings)\.", r"swin.\1."),
    (r"\.attention\.self\.query\.", ".attention.q_proj."),
    (r"\.attention\.self\.key\.", ".attention.k_proj."),
    (r"\.attention\.self\.value\.", ".attention.v_proj."),
    (r"\.attention\.self\.relative_position_bias_table$", ".attention.relative_position_bias.relative_position_bias_table"),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_SWIN_AUTHORS: Table = (
    (r"^patch_embed\.proj\.", "swin.embeddings.patch_embeddings.projection."),
    (r"^patch_embed\.norm\.", "swin.embeddings.norm."),
    (r"^layers\.", "swin.encoder.layers."),
    (r"\.attn\.relative_position_bias_table$", ".attention.relative_position_bias.relative_position_bias_table"),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
)
_QKV = re.compile(r"(.+)\.attn\.qkv\.(weight|bias)")
_MAP_NORM = re.compile(r"norm(\d)\.(weight|bias)")  # norms of the four maps in the authors' segmentation models
_CONVNEXT: Table = (  # torchvision, timm
    (r"^features\.0\.([01])\.", r"stem.\1."),
    (r"\.layer_scale$", ".gamma"),
    (r"\.block\.0\.", ".conv_dw."),
    (r"\.block\.2\.", ".norm."),
    (r"\.block\.3\.", ".mlp.fc1."),
    (r"\.block\.5\.", ".mlp.fc2."),
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
)
_VISION_SWIN: Table = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^head\.", "head.fc."),
)
_PART = re.compile(r"features\.(\d+)\.(.+)")  # torchvision: stages and the reductions between them take turns


def trunk_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Of a pre-training file of BEiT, ViT or ONE-PEACE: the tensors of our trunk, and the names of those that no trunk of ours has.

    Such files hold one relative-position table for all blocks, or one each; our trunks have one each.
    """
    trunk: dict[str, Tensor] = {}
    shared: dict[str, Tensor] = {}
    unused = []
    for name, tensor in tensors.items():
        ours = renamed(name, _TRUNK)
        if ours in _SHARED:
            shared[_SHARED[ours]] = tensor
        elif _OF_TRUNKS.fullmatch(ours):
            trunk[ours] = tensor
        else:
            unused.append(name)
    blocks = sorted({match[1] for name in trunk if (match := _BLOCK.match(name))})
    for pattern, table in shared.items():
        for block in blocks:
            trunk.setdefault(pattern.format(block), table)
    return trunk, tuple(unused)


def from_swin_files(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a file of transformers, or of its module: names of the module; others are kept."""
    return {renamed(name, _SWIN_FILES): tensor for name, tensor in tensors.items()}


def from_swin_authors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Of a file of its authors or timm: the tensors of transformers' module, and the names of those that it does not have.

    The authors count the reduction between two stages to the one before it, timm to the one behind it. Raises ValueError as `thirds` does.
    """
    late = "layers.0.downsample.reduction.weight" not in tensors  # timm
    swin: dict[str, Tensor] = {}
    unused = []
    for name, tensor in tensors.items():
        if late and (found := re.match(r"layers\.(\d+)\.downsample\.(.+)", name)):
            swin[f"swin.encoder.layers.{int(found[1]) - 1}.downsample.{found[2]}"] = tensor
        elif found := _QKV.fullmatch(name):
            block = renamed(found[1], _SWIN_AUTHORS)
            swin |= {f"{block}.attention.{part}_proj.{found[2]}": piece for part, piece in zip("qkv", thirds(name, tensor), strict=True)}
        elif found := _MAP_NORM.fullmatch(name):
            swin[f"hidden_states_norms.stage{int(found[1]) + 1}.{found[2]}"] = tensor
        elif name.startswith(("layers.", "patch_embed.")) and not name.endswith((*INDEX_BUFFERS, "attn_mask")):
            swin[renamed(name, _SWIN_AUTHORS)] = tensor
        else:
            unused.append(name)
    return swin, tuple(unused)


def from_torchvision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Of a ConvNeXt or Swin of torchvision: timm's names; none for another model. torchvision's ResNets have timm's names already."""
    if "features.1.0.layer_scale" in tensors:
        renaming, stages = _CONVNEXT, "stages"
    elif "features.1.0.attn.relative_position_bias_table" in tensors:
        renaming, stages = _VISION_SWIN, "layers"
    else:
        return None
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(INDEX_BUFFERS)}
    return {
        _staged(renamed(name, renaming), stages): tensor.flatten() if name.endswith("layer_scale") else tensor
        for name, tensor in kept.items()
    }


def renamed(name: str, table: Table) -> str:
    """The name after each substitution of the table."""
    for pattern, new in table:
        name = re.sub(pattern, new, name)
    return name


def _staged(name: str, stages: str) -> str:
    if found := _PART.fullmatch(name):
        number, odd = divmod(int(found[1]) - 1, 2)
        return f"{stages}.{number + 1}.downsample.{found[2]}" if odd else f"{stages}.{number}.blocks.{found[2]}"
    return name
