"""What does a vision transformer with relative positions cost? Ours against transformers, and against our own modules run plainly.

    python benchmarks/vit_speed.py            5 rounds
    python benchmarks/vit_speed.py --quick    2 rounds of BEiT-B alone

The forward pass of one 640x640 frame, random weights, a Mask2Former head of 256 channels, 100 queries and 124 classes:

BEiT-B           against transformers' `Mask2FormerForUniversalSegmentation` with its `BeitModel` as backbone (`add_fpn`), same weights
ViT-Adapter-B    against its own plain form, assembled here of the same modules and weights: relative-position bias looked up anew in each
                 pass by an index of all pairs, softmax attention that holds all its weights, deformable attention by `grid_sample`,
                 transformers' decoder with masks of full size after every layer, linear layers by torch's default library

Peers run in float32, ours in float32 and in bfloat16 under autocast. `mask_difference` is the largest difference of mask logits, beside
their standard deviation; masked attention decides at 0, so rounding alone may move a logit. Sides take turns in one process on one thread.
"""

import contextlib
import functools
import re
from collections.abc import Callable
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BeitConfig, Mask2FormerForUniversalSegmentation

from peers.side_by_side import alternated, emit, named, options_of, short
from semivss.data.labels import vspw124
from semivss.models import beit, linear_layers
from semivss.models.bias_memory import BiasMemory
from semivss.models.deform_attn import DeformableAttention
from semivss.models.deform_sample import sample_by_map
from semivss.models.mask2former import Mask2Former, transformers_config
from semivss.models.positions import SPECIAL, Grid, resize_table
from semivss.models.segmenter import Segmenter
from semivss.models.trunk import EPS
from semivss.models.zoo import build_segmenter
from semivss.processor import has_amx
from semivss.settings import Mask2FormerHead, Model
from semivss.tensors import MaskLogits

SIZE = (640, 640)
FLOORS = {"32": 1.7, "bf16": 3.5}  # bf16 with AMX
NAMES = (  # ours, transformers'
    (r"^trunk\.cls_token", "beit.embeddings.cls_token"),
    (r"^trunk\.patch_embed\.proj", "beit.embeddings.patch_embeddings.projection"),
    (r"^trunk\.blocks\.(\d+)\.gamma_", r"beit.layers.\1.lambda_"),
    (r"^trunk\.blocks\.(\d+)\.norm1", r"beit.layers.\1.layernorm_before"),
    (r"^trunk\.blocks\.(\d+)\.norm2", r"beit.layers.\1.layernorm_after"),
    (r"^trunk\.blocks\.(\d+)\.attn\.([qv])_bias", r"beit.layers.\1.attention.\2_proj.bias"),
    (r"^trunk\.blocks\.(\d+)\.attn\.relative", r"beit.layers.\1.relative_position_bias.relative"),
    (r"^trunk\.blocks\.(\d+)\.attn\.proj", r"beit.layers.\1.attention.o_proj"),
    (r"^trunk\.blocks\.(\d+)\.attn\.", r"beit.layers.\1.attention."),
    (r"^trunk\.blocks\.", "beit.layers."),
    (r"^fpn1\.0", "fpn.fpn1.conv_transpose1"),
    (r"^fpn1\.1", "fpn.fpn1.normalization"),
    (r"^fpn1\.3", "fpn.fpn1.conv_transpose2"),
    (r"^fpn2\.0", "fpn.fpn2"),
)
Logits = tuple[Tensor, Tensor]  # classes, masks


@torch.inference_mode()
def main() -> None:
    options = options_of(__doc__, rounds=5)
    torch.set_num_threads(1)
    rounds = 2 if options.quick else options.rounds
    frame = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(False):
        ours = spread_out(build_segmenter(Model(backbone="beit_b", head="mask2former"), vspw124()))
        theirs = transformers_twin(ours)
    compare("BEiT-B", ours, lambda: transformers_pass(theirs, ours, frame), frame, named("transformers"), rounds)
    if not options.quick:
        with torch.inference_mode(False):
            ours = spread_out(build_segmenter(Model(backbone="vit_adapter_b", head="mask2former"), vspw124()))
        compare("ViT-Adapter-B", ours, lambda: plain_pass(ours, frame), frame, "the same modules run plainly", rounds)


def compare(name: str, ours: Segmenter, peer: Callable[[], Logits], frame: Tensor, against: str, rounds: int) -> None:
    """Two rows."""
    sides: dict[str, list[Callable[[], object]]] = {
        "32": [lambda: ours(frame)],
        "bf16": [lambda: in_bf16(ours, frame)],
        "peer": [peer],
    }
    masks = peer()[1]
    equal = {
        precision: {
            "mask_difference": [short((output.mask_logits - masks).abs().max().item()), short(masks.std().item())],
            "equal_signs": round(((output.mask_logits >= 0) == (masks >= 0)).float().mean().item(), 6),
        }
        for precision, output in (("32", ours(frame)), ("bf16", in_bf16(ours, frame)))
    }
    times = alternated(sides, rounds)
    for precision, floor in FLOORS.items():
        more = {"floor": floor} | equal[precision] | ({"amx": has_amx()} if precision == "bf16" else {})
        what = f"forward pass {SIZE[0]}x{SIZE[1]}, {name} Mask2Former, precision {precision}"
        emit(what, times, precision, "peer", against, unit="a frame", **more)


def in_bf16(model: Segmenter, frame: Tensor) -> MaskLogits:
    with torch.autocast("cpu", torch.bfloat16):
        output = model(frame)
    assert isinstance(output, MaskLogits)
    return output


def spread_out(model: Segmenter) -> Segmenter:
    """Random tables and scales, and queries that stay apart, as those of trained models are."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "relative_position_bias_table" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    assert isinstance(model.head, Mask2Former)
    with torch.no_grad():
        for layer in model.head.transformer.decoder.layers:
            for branch in (layer.cross_attn.out_proj, layer.self_attn.out_proj, layer.fc2):
                branch.weight.mul_(0.1)
    return model.eval()


def transformers_twin(ours: Segmenter) -> Mask2FormerForUniversalSegmentation:
    """transformers' model with the weights of ours."""
    trunk, head = ours.backbone.trunk, ours.head
    config = transformers_config(Mask2FormerHead(), len(ours.label_set))
    config.backbone_config = BeitConfig(
        image_size=SIZE[0],
        hidden_size=trunk.width,
        num_hidden_layers=len(trunk.blocks),
        num_attention_heads=trunk.blocks[0].attn.heads,
        intermediate_size=trunk.blocks[0].mlp.fc1.out_features,
        layer_norm_eps=EPS,
        use_relative_position_bias=True,
        out_features=[f"stage{last + 1}" for _, last in ours.backbone.stages],
        reshape_hidden_states=True,
        add_fpn=True,
    )
    theirs = Mask2FormerForUniversalSegmentation(config).eval()
    theirs.model.pixel_level_module.decoder.load_state_dict(head.pixel_decoder.state_dict())
    theirs.model.transformer_module.load_state_dict(head.transformer.state_dict())
    theirs.class_predictor.load_state_dict(head.classify.state_dict())
    copy_beit(ours, theirs.model.pixel_level_module.encoder)
    return theirs


def copy_beit(ours: Segmenter, theirs: torch.nn.Module) -> None:
    """Weights of the trunk and of the maps' transposed convolutions, under transformers' names."""
    state: dict[str, Tensor] = {}
    for name, value in ours.backbone.state_dict().items():
        if name.endswith("qkv.weight"):
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                state[renamed(name.replace("qkv", f"{part}_proj"))] = rows
        else:
            state[renamed(name)] = value
    absent, unknown = theirs.load_state_dict(state, strict=False)
    assert not unknown, unknown
    assert all(name.endswith("index") for name in absent), absent


def renamed(name: str) -> str:
    for pattern, new in NAMES:
        name = re.sub(pattern, new, name)
    return name


def plain_pass(ours: Segmenter, frame: Tensor) -> Logits:
    """Our modules, each in the form that one would write first."""
    with contextlib.ExitStack() as changed:
        for target, name, plain in (
            (BiasMemory, "bias", looked_up),
            (beit, "attend", eager_attention),
            (DeformableAttention, "sample", staticmethod(sample_by_map)),
            (Mask2Former, "_is_shared_out", lambda self: True),  # the way to transformers' decoder
            (linear_layers, "_is_served_badly", lambda: False),
        ):
            changed.enter_context(patch.object(target, name, plain))
        output = ours(frame)
    assert isinstance(output, MaskLogits)
    return output.class_logits, output.mask_logits


def looked_up(memory: BiasMemory, table: Tensor, source: Grid, grid: Grid, dtype: torch.dtype) -> Tensor:
    tokens = 1 + grid[0] * grid[1]
    return resize_table(table, source, grid).to(dtype)[pairs(grid)].view(tokens, tokens, -1).permute(2, 0, 1)[None].contiguous()


@functools.cache
def pairs(grid: Grid) -> Tensor:
    """Row of the table for each pair of tokens, class token first."""
    high, wide = grid
    places = torch.stack(torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")).flatten(1)
    down, right = places[:, :, None] - places[:, None]
    rows = (2 * high - 1) * (2 * wide - 1) + SPECIAL
    index = F.pad((down + high - 1) * (2 * wide - 1) + right + wide - 1, (1, 0, 1, 0))
    index[0], index[:, 0], index[0, 0] = rows - 3, rows - 2, rows - 1
    return index.flatten()


def eager_attention(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor) -> Tensor:
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + mask).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def transformers_pass(theirs: Mask2FormerForUniversalSegmentation, ours: Segmenter, frame: Tensor) -> Logits:
    output = theirs(pixel_values=(frame.float() - ours.mean) / ours.std)
    return output.class_queries_logits, output.masks_queries_logits


if __name__ == "__main__":
    main()
