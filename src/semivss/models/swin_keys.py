"""Tensors of a Swin under the names of its authors, of timm or of files of transformers in, those of transformers' module out.

Its authors' (and mmseg's) files and timm's differ in one thing: the reduction between two stages belongs to the one before it or to
the one behind it. transformers writes files under other names than its module has.
"""

import re
from collections.abc import Mapping

from torch import Tensor

_WRITTEN = (  # in files of transformers; in its module
    (r"^(encoder|embeddings)\.", r"swin.\1."),
    (r"\.attention\.self\.(q|k|v)(?:uery|ey|alue)\.", r".attention.\1_proj."),
    (r"\.attention\.self\.relative_position_bias_table$", ".attention.relative_position_bias.relative_position_bias_table"),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_AUTHORS = (  # in files of its authors; in transformers' module
    (r"^patch_embed\.proj\.", "swin.embeddings.patch_embeddings.projection."),
    (r"^patch_embed\.norm\.", "swin.embeddings.norm."),
    (r"^layers\.", "swin.encoder.layers."),
    (r"\.attn\.relative_position_bias_table$", ".attention.relative_position_bias.relative_position_bias_table"),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
)
_QKV = re.compile(r"(.+)\.attn\.qkv\.(weight|bias)")
_OUTPUT = re.compile(r"norm(\d)\.(weight|bias)")  # mmseg's norms of the four maps


def from_swin_files(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a file of transformers, or of its module: names of the module; others are kept."""
    return {_renamed(name, _WRITTEN): tensor for name, tensor in tensors.items()}


def from_swin_authors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Of a file of its authors, mmseg or timm: the module's tensors, and the names of those that it does not have."""
    late = "layers.0.downsample.reduction.weight" not in tensors  # timm
    swin: dict[str, Tensor] = {}
    unused = []
    for name, tensor in tensors.items():
        if late and (found := re.match(r"layers\.(\d+)\.downsample\.(.+)", name)):
            swin[f"swin.encoder.layers.{int(found[1]) - 1}.downsample.{found[2]}"] = tensor
        elif found := _QKV.fullmatch(name):
            block = _renamed(found[1], _AUTHORS)
            swin |= {f"{block}.attention.{part}_proj.{found[2]}": piece for part, piece in zip("qkv", tensor.chunk(3), strict=True)}
        elif found := _OUTPUT.fullmatch(name):
            swin[f"hidden_states_norms.stage{int(found[1]) + 1}.{found[2]}"] = tensor
        elif name.startswith(("layers.", "patch_embed.")) and not name.endswith(("relative_position_index", "attn_mask")):
            swin[_renamed(name, _AUTHORS)] = tensor
        else:
            unused.append(name)
    return swin, tuple(unused)


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in table:
        name = re.sub(pattern, new, name)
    return name
