"""Full-size models on the meta device have exactly the published parameters; maps of names go both ways."""

import json
import math
from pathlib import Path

import pytest
import torch
from tests.models import published

from semivss.errors import SemivssError, WeightsError
from semivss.models.published_config import published_head, published_sizes
from semivss.models.published_keys import INDEX_BUFFERS, from_published, our_name, published_name, to_published
from semivss.models.segmenter import Segmenter
from semivss.models.weights.architecture import settings_of
from semivss.models.weights.classes import nameless_set
from semivss.models.weights.given import given_settings
from semivss.models.weights.load import matched, with_classes
from semivss.models.weights.recognise import recognise
from semivss.models.weights.weight_file import WeightFile
from semivss.models.zoo import TRUNKS, build_segmenter
from semivss.settings import Mask2FormerHead, Model, Train
from semivss.train.optim import build_optimizer

HEAD = Mask2FormerHead(channels=1024, queries=200, heads=32, encoder_feedforward=4096, feedforward=4096)
MODELS = {  # backbone, millions of parameters, layer decay
    "keys_vit_adapter_l_mask2former_cocostuff.json": ("vit_adapter_l", 570.8, 0.90),
    "keys_one_peace_mask2former_cocostuff.json": ("one_peace_l", 1822.9, 0.95),
}


def full_size(backbone: str, count: int) -> Segmenter:
    with torch.device("meta"):
        return build_segmenter(Model(backbone=backbone, head="mask2former", mask2former=HEAD), nameless_set(count))


def rows(golden, file: str) -> dict[str, dict]:
    table = json.loads((golden / "backbones" / file).read_text())
    assert table
    return table


def shapes(state) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in state.items()}


def test_golden_backbones_keys_are_all_read(golden):
    assert {path.name for path in (golden / "backbones").rglob("keys_*.json")} == MODELS.keys()


@pytest.mark.parametrize("file", MODELS)
def test_golden_backbones_keys(golden, file):
    table, (backbone, millions, _) = rows(golden, file), MODELS[file]
    model = full_size(backbone, table["decode_head.cls_embed.bias"]["shape"][0] - 1)
    parameters = dict(model.named_parameters())
    assert shapes(to_published(parameters)) == {name: row["shape"] for name, row in table.items() if row["kind"] == "param"}
    assert round(sum(parameter.numel() for parameter in parameters.values()) / 1e6, 1) == millions
    state = to_published(model.state_dict())
    assert shapes(state) == {name: row["shape"] for name, row in table.items() if not name.endswith(INDEX_BUFFERS)}
    again = from_published(state | {name: torch.empty(row["shape"], device="meta") for name, row in table.items() if name not in state})
    assert shapes(again) == {name: shape for name, shape in shapes(model.state_dict()).items() if name not in published.OWN_BUFFERS}


@pytest.mark.parametrize("file", MODELS)
def test_golden_backbones_keys_are_a_checkpoint_that_fits_its_preset(golden, file):
    """Names and shapes of the published files, index buffers and counters included, without their values."""
    tensors = {key: torch.empty(row["shape"], device="meta") for key, row in rows(golden, file).items()}
    found = recognise(WeightFile(Path(file), "torch", tensors, ()))
    settings = settings_of(found, given_settings(MODELS[file][0], None, ()))
    start = with_classes(found, settings.head, nameless_set(171), nameless_set(171))
    with torch.device("meta"):
        report, _ = matched(build_segmenter(settings, nameless_set(171)), start, file)
    assert report.missing == report.mismatched == ()
    assert sorted(report.unexpected) == sorted(key for key in tensors if key.endswith(INDEX_BUFFERS))


@pytest.mark.parametrize("file", MODELS)
def test_golden_backbones_keys_optimiser_groups(golden, file):
    table, (backbone, _, decay) = rows(golden, file), MODELS[file]
    model = full_size(backbone, 171)
    train = Train(layer_decay=decay, compat=True, weight_decay=0.05)
    names = {id(parameter): published_name(name) for name, parameter in model.named_parameters()}
    groups = build_optimizer(model, train).param_groups
    ours = {names[id(parameter)]: (group["scale"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    wanted = {name: row for name, row in table.items() if row["kind"] == "param"}
    assert ours.keys() == wanted.keys()
    for name, row in wanted.items():
        assert ours[name] == (pytest.approx(row["lr_scale"], abs=1e-9), row["weight_decay"]), name


@pytest.mark.parametrize("backbone", ["vit_adapter_tiny", "vit_adapter_plain_tiny", "one_peace_tiny"])
def test_there_and_back_changes_nothing(backbone):
    small = Mask2FormerHead(channels=32, queries=5, encoder_layers=1, decoder_layers=2, heads=4, encoder_feedforward=16, feedforward=16)
    model = build_segmenter(Model(backbone=backbone, head="mask2former", mask2former=small), nameless_set(3))
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in published.OWN_BUFFERS}
    there = to_published(state)
    assert not any("trunk" in name or ("q_proj" in name and "decode_head" in name) for name in there)
    torch.testing.assert_close(from_published(there), state, rtol=0, atol=0)
    assert {our_name(name) for name in there} - state.keys() == {
        f"head.transformer.decoder.layers.{layer}.self_attn.in_proj_{kind}" for layer in (0, 1) for kind in ("weight", "bias")
    }


def test_a_published_configuration_gives_the_preset():
    config = {
        "type": "OnePeaceAdapter",
        "attention_heads": 24,
        "bucket_size": 56,
        "embed_dim": 1536,
        "ffn_embed_dim": 6144,
        "layers": 40,
        "init_values": 1e-6,
        "conv_inplane": 64,
        "n_points": 4,
        "deform_num_heads": 24,
        "cffn_ratio": 0.25,
        "deform_ratio": 0.5,
        "interaction_indexes": [[0, 9], [10, 19], [20, 29], [30, 39]],
    }
    assert published_sizes(config) == ("one_peace", TRUNKS["one_peace_l"])
    with pytest.raises(WeightsError, match="lacks layers"):
        published_sizes({key: value for key, value in config.items() if key != "layers"})
    with pytest.raises(WeightsError, match="shared_rp_bias = True is not supported"):
        published_sizes(config | {"shared_rp_bias": True})
    with pytest.raises(WeightsError, match="'ResNet' is unknown"):
        published_sizes({"type": "ResNet"})


ADAPTER = {
    "img_size": 64,
    "pretrain_size": 64,
    "bucket_size": 4,
    "embed_dim": 48,
    "depth": 4,
    "layers": 4,
    "num_heads": 4,
    "attention_heads": 4,
    "ffn_embed_dim": 96,
    "init_values": 1e-6,
    "conv_inplane": 8,
    "n_points": 4,
    "deform_num_heads": 6,
    "cffn_ratio": 0.25,
    "deform_ratio": 0.5,
    "interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]],
}


@pytest.mark.parametrize("kind", ["BEiTAdapter", "ViTAdapter", "OnePeaceAdapter"])
@pytest.mark.parametrize("key", ["add_vit_feature", "use_extra_extractor", "with_cffn"])
def test_an_adapter_of_another_build_is_refused(kind, key):
    config = ADAPTER | {"type": kind}
    assert published_sizes(config | {key: True, "window_attn": [False] * 4})[1].depth == 4
    with pytest.raises(WeightsError, match=f"{key} = False is not supported; only True is"):
        published_sizes(config | {key: False})


def test_one_table_for_all_blocks_and_windows_where_there_are_none_are_refused():
    with pytest.raises(WeightsError, match="use_shared_rel_pos_bias = True is not supported"):
        published_sizes(ADAPTER | {"type": "BEiTAdapter", "use_shared_rel_pos_bias": True})
    for kind in ("BEiTAdapter", "OnePeaceAdapter"):
        for windowed in (True, [False, True, False, False]):
            with pytest.raises(WeightsError, match="window_attn is not supported"):
                published_sizes(ADAPTER | {"type": kind, "window_attn": windowed})
    windows = published_sizes(ADAPTER | {"type": "ViTAdapter", "window_attn": [True, False] * 2, "window_size": [2] * 4})[1].windows
    assert windows == (2, 0, 2, 0)


@pytest.mark.parametrize("key", ["attention_heads", "layers", "embed_dim", "n_points", "deform_num_heads", "bucket_size", "deform_ratio"])
def test_sizes_of_nothing_are_refused(key):
    with pytest.raises(SemivssError, match="must be above 0, got"):
        published_sizes(ADAPTER | {"type": "OnePeaceAdapter", key: 0})


def test_attention_of_a_head_may_be_a_list_of_one():
    def head(attention: object) -> dict:
        return {"transformer_decoder": {"transformerlayers": {"attn_cfgs": attention}}}

    assert published_head(head([{"num_heads": 8}])) == published_head(head({"num_heads": 8})) == {"heads": 8}
    for attention in ([], [{"num_heads": 8}, {"num_heads": 4}], 3):
        with pytest.raises(WeightsError, match="attn_cfgs must be one section"):
            published_head(head(attention))


def test_published_sizes_sum_up_to_the_published_counts():
    """Of the tables in reference/vit_adapter.md and one_peace.md: backbone and parts in millions."""
    vit, peace = (full_size(backbone, 171).backbone for backbone in ("vit_adapter_l", "one_peace_l"))

    def millions(module: torch.nn.Module) -> float:
        return sum(parameter.numel() for parameter in module.parameters()) / 1e6

    for module, expected in (
        (vit, 331.1),
        (vit.trunk.blocks, 307.1),
        (vit.spm, 1.8),
        (vit.interactions, 17.3),
        (vit.up, 4.2),
        (peace, 1581.2),
        (peace.trunk.encoder, 1523.0),
        (peace.trunk.image_adapter, 7.8),
        (peace.interactions, 38.8),
    ):
        assert millions(module) == pytest.approx(expected, abs=0.051)
    assert math.isclose(sum(block.attn.relative_position_bias_table.numel() for block in vit.trunk.blocks) / 1e6, 4.7, abs_tol=0.05)
