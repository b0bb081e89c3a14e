"""`weights inspect` and `weights convert`: files of every family in, a model that computes the same out, or one line and exit code 2."""

import argparse
import contextlib
import json
import os
import pickle
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from tests.models import foreign
from torch import Tensor
from transformers import ConvNextConfig, ResNetConfig

from semivss import cli
from semivss.data.labels import IGNORE, label_set, load_label_map
from semivss.errors import SemivssError, WeightsError
from semivss.models.positions import resize_positions, resize_table
from semivss.models.published_keys import INDEX_BUFFERS
from semivss.models.segmenter import Segmenter
from semivss.models.swin import Swin
from semivss.models.weights.classes import nameless_set
from semivss.models.weights.convert import convert
from semivss.models.weights.fit import fit_by_name
from semivss.models.weights.given import given_settings
from semivss.models.weights.inspect import inspect
from semivss.models.weights.names import from_torchvision
from semivss.models.weights.python_config import Unread, python_values
from semivss.models.weights.weight_file import read_weights
from semivss.models.zoo import build_segmenter
from semivss.posterior import class_distribution
from semivss.settings import Model
from semivss.tensors import MaskLogits

FAMILIES = ("vit_adapter_tiny", "vit_adapter_plain_tiny", "one_peace_tiny", "beit_tiny")


def frames(*size: int) -> Tensor:
    return torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def same(first: Segmenter, second: Segmenter) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def said(words: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that ends with exit code 2."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["semivss", "weights", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    assert stop.value.code == 2, captured
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


# --- whole segmentation models


@pytest.mark.parametrize("backbone", FAMILIES)
def test_a_whole_checkpoint_comes_back_bit_by_bit(backbone, tmp_path):
    model = foreign.segmenter(backbone)
    torch.save(foreign.checkpoint(model, ["a", "b", "c", "d", "e"]), tmp_path / "iter.pth")
    report = convert(tmp_path / "iter.pth", tmp_path / "model", preset=backbone, overrides=foreign.GIVEN)
    assert report.missing == report.mismatched == ()
    assert all(name.endswith(INDEX_BUFFERS) for name in report.unexpected)
    again = Segmenter.from_pretrained(tmp_path / "model")
    assert same(model, again)
    assert again.label_set.names == ("a", "b", "c", "d", "e")
    again.save_pretrained(tmp_path / "twice")
    assert same(again, Segmenter.from_pretrained(tmp_path / "twice"))
    assert (tmp_path / "twice/model.safetensors").read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()


def test_a_model_whose_values_all_lie_in_a_file_gets_no_others_first(tmp_path, monkeypatch):
    drawn: list[int] = []

    def count(tensor: Tensor, *_: object, **__: object) -> Tensor:
        drawn.append(0 if tensor.is_meta else tensor.numel())
        return tensor

    model = foreign.segmenter("one_peace_tiny")
    torch.save(foreign.checkpoint(model), tmp_path / "iter.pth")
    for draw in ("normal_", "uniform_"):
        monkeypatch.setattr(torch.Tensor, draw, count)
    report = convert(tmp_path / "iter.pth", tmp_path / "model", preset="one_peace_tiny", overrides=foreign.GIVEN)
    assert report.missing == report.mismatched == ()
    assert sum(drawn) < 0.01 * sum(parameter.numel() for parameter in model.parameters())  # a small tensor of transformers' own


def test_a_converted_folder_is_as_large_as_its_parameters(tmp_path):
    model = foreign.segmenter("one_peace_tiny")
    torch.save(foreign.checkpoint(model), tmp_path / "iter.pth")
    convert(tmp_path / "iter.pth", tmp_path / "model", preset="one_peace_tiny", overrides=foreign.GIVEN)
    assert {file.name for file in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    data = (tmp_path / "model/model.safetensors").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")  # names and places, which weigh nothing in a real model
    tensors = load_file(tmp_path / "model/model.safetensors")
    assert not [name for name in tensors if name.endswith(INDEX_BUFFERS)]
    assert len(data) - header == sum(tensor.nbytes for tensor in tensors.values())


def test_a_folder_of_millions_is_within_a_percent_of_its_parameters_and_was_never_in_memory_as_bytes(tmp_path):
    model = foreign.segmenter("beit_tiny", head=foreign.HEAD.model_copy(update={"channels": 256, "feedforward": 2048}))
    tracemalloc.start()
    model.save_pretrained(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]  # of Python's objects; tensors are not among them
    tracemalloc.stop()
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    assert parameters > 10e6
    assert abs((tmp_path / "model.safetensors").stat().st_size - parameters) < 0.01 * parameters
    assert peak < 0.2 * parameters


@pytest.mark.parametrize("backbone", [*FAMILIES, "swin_tiny"])
def test_a_folder_comes_back_whole_and_as_it_was_laid_out(backbone, tmp_path):
    model = foreign.segmenter(backbone)
    model.save_pretrained(tmp_path)
    again = Segmenter.from_pretrained(tmp_path)
    assert same(model, again)
    assert not any(tensor.is_meta for tensor in (*again.parameters(), *again.buffers()))
    for name, parameter in again.named_parameters():
        assert parameter.stride() == model.get_parameter(name).stride(), name
        assert parameter.requires_grad
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        assert torch.equal(again(frames(64, 64)).class_logits, model(frames(64, 64)).class_logits)
        for parameter in again.parameters():
            parameter.add_(1.0)  # the file stays as it is, though the weights lie there
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert same(model, Segmenter.from_pretrained(tmp_path))


def test_sizes_come_from_a_configuration_of_mmseg_that_is_not_run(tmp_path):
    model = foreign.segmenter("vit_adapter_tiny")
    torch.save(foreign.checkpoint(model), tmp_path / "iter.pth")
    (tmp_path / "mask2former.py").write_text(f"""
import os
os.mkdir({str(tmp_path / "ran")!r})
width = 48
model = dict(
    type='EncoderDecoderMask2FormerAug',
    backbone=dict(type='BEiTAdapter', img_size=64, patch_size=16, embed_dim=width, depth=4, num_heads=4, mlp_ratio=4, qkv_bias=True,
        use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=1e-6, drop_path_rate=0.3, conv_inplane=8, n_points=4,
        deform_num_heads=6, cffn_ratio=0.25, deform_ratio=0.5, interaction_indexes=[[0, 0], [1, 1], [2, 2], [3, 3]], norm=os.getcwd()),
    decode_head=dict(feat_channels=32, loss_cls=dict(class_weight=[1.0] * 5 + [0.1]), transformer_decoder=dict(
        transformerlayers=dict(attn_cfgs=dict(num_heads=4)))))
""")
    convert(tmp_path / "iter.pth", tmp_path / "model", config=tmp_path / "mask2former.py")
    assert same(model, Segmenter.from_pretrained(tmp_path / "model"))
    assert not (tmp_path / "ran").exists()


def test_values_of_a_python_file():
    text = """
a = 1
b = [a, -2.5]
c = dict(x=b, y=f(), **dict(z=2 * 3 // 4))
d = {'k': (a, None), **c}
e = [f(), 1]
g = [[True] * 2 + [False]] * 2
h = [0] * 10**9
i = [0] * 1000000000
j = dict(**unknown, x=1)
k = 1 / 0
class D: l = 1
a = f()
m = n = 1
o = 2
o *= 3
p = {'x': {}}
p['x']['y'] = 1
q = [1]
q.append(2)
r = 3
if a: r = 4
s = [[0] * 9999] * 9999
t: int = 5
"""
    values = python_values(text)
    unread = {name: values.pop(name).text for name in "aehijkmnopqrst"} | {"D": values.pop("D").text}
    assert unread["o"] == "o *= 3"
    assert unread["i"] == "[0] * 1000000000"
    assert unread["j"] == "dict(**unknown, x=1)"
    c = {"x": [1, -2.5], "y": Unread("f()"), "z": 1}
    assert values == {"b": [1, -2.5], "c": c, "d": {"k": [1, None]} | c, "g": [[True, True, False]] * 2}


def test_a_size_that_a_configuration_computes_is_no_default(tmp_path, monkeypatch, capsys):
    model = foreign.segmenter("vit_adapter_plain_tiny")
    torch.save(foreign.checkpoint(model), tmp_path / "w.pth")
    backbone = (
        "type='ViTAdapter', pretrain_size=64, depth=4, embed_dim=48, num_heads=4, init_values=0., conv_inplane=8, n_points=4, "
        "layer_scale=True, deform_num_heads=6, deform_ratio=1.0, cffn_ratio=0.25, interaction_indexes=[[0, 0], [1, 1], [2, 2], [3, 3]]"
    )
    head = "decode_head=dict(pixel_decoder=dict(encoder=dict(transformerlayers=dict(attn_cfgs=[dict(num_heads={})]))))"
    for more, heads, message in (
        ("window_attn=windows()", 2, "window_attn (windows())"),
        ("mlp_ratio=ratio", 2, "mlp_ratio (ratio)"),
        ("with_cffn=is_on()", 2, "with_cffn (is_on())"),
        ("patch_size=16", "count()", "num_heads (count())"),
    ):
        (tmp_path / "c.py").write_text(f"model = dict(backbone=dict({backbone}, {more}), {head.format(heads)})\n")
        line = said(["inspect", tmp_path / "w.pth", "--config", tmp_path / "c.py"], monkeypatch, capsys)
        assert f"{message} is not read, for nothing is run" in line
    (tmp_path / "c.py").write_text(
        f"model = dict(backbone=dict({backbone}, window_attn=[True] + [False] * 3, window_size=[2] + [None] * 3))\n"
    )
    assert given_settings(None, tmp_path / "c.py", ())["trunk"]["windows"] == (2, 0, 0, 0)


def test_a_model_that_was_trained_at_another_size_keeps_its_grid(tmp_path):
    model = foreign.segmenter("vit_adapter_tiny")
    state = foreign.checkpoint(model)
    for name in [name for name in state["state_dict"] if name.endswith("bias_table")]:
        state["state_dict"][name] = torch.randn(11 * 11 + 3, 4)
    torch.save(state, tmp_path / "large.pth")
    convert(tmp_path / "large.pth", tmp_path / "model", preset="vit_adapter_tiny", overrides=foreign.GIVEN)
    trunk = Segmenter.from_pretrained(tmp_path / "model").backbone.trunk
    assert trunk.grid == (6, 6)
    assert torch.equal(
        trunk.blocks[1].attn.relative_position_bias_table, state["state_dict"]["backbone.blocks.1.attn.relative_position_bias_table"]
    )


def test_a_given_grid_of_as_many_patches_is_the_files(tmp_path):
    model = foreign.lively(build_segmenter(Model(backbone="vit_adapter_plain_tiny", trunk={"grid": (2, 8)}), nameless_set(3)))
    weights = {name.replace("backbone.trunk.", "backbone."): value for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "w.pth")
    options = {"preset": "vit_adapter_plain_tiny", "classes": "camvid11"}
    convert(tmp_path / "w.pth", tmp_path / "model", overrides=["trunk.grid=[2,8]"], **options)
    again = Segmenter.from_pretrained(tmp_path / "model").backbone.trunk
    assert again.grid == (2, 8)
    assert torch.equal(again.pos_embed, model.backbone.trunk.pos_embed)


def test_windows_and_grids_that_are_no_square_are_given(tmp_path):
    model = build_segmenter(Model(backbone="vit_adapter_plain_tiny", trunk={"grid": (2, 6), "windows": (2, 0, 2, 0)}), nameless_set(3))
    torch.save(
        {"state_dict": {name.replace("backbone.trunk.", "backbone."): value for name, value in model.state_dict().items()}},
        tmp_path / "w.pth",
    )
    with pytest.raises(WeightsError, match=r"do not tell .*trunk\.windows.*trunk\.grid"):
        convert(tmp_path / "w.pth", tmp_path / "model", classes="camvid11")
    given = ["trunk.heads=4", "trunk.windows=[2,0,2,0]", "trunk.stages=[[0,0],[1,1],[2,2],[3,3]]", "trunk.points=4", "trunk.deform_heads=6"]
    convert(tmp_path / "w.pth", tmp_path / "model", classes="camvid11", overrides=[*given, "trunk.grid=[2,6]"])
    again = Segmenter.from_pretrained(tmp_path / "model")
    assert again.backbone.trunk.grid == (2, 6)
    assert [getattr(block.attn, "window", 0) for block in again.backbone.trunk.blocks] == [2, 0, 2, 0]
    assert all(torch.equal(value, again.backbone.state_dict()[name]) for name, value in model.backbone.state_dict().items())


# --- pre-trained trunks and backbones


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False], ids=["beit", "beitv2"])
@pytest.mark.parametrize("backbone", ["vit_adapter_tiny", "beit_tiny"])
def test_a_pretrained_beit_computes_the_same(backbone, shared, tmp_path):
    theirs, state = foreign.beit(shared)
    torch.save({"model": state}, tmp_path / "beit.pth")
    report = convert(tmp_path / "beit.pth", tmp_path / "model", preset=backbone, classes="camvid11")
    assert {name.split(".")[0] for name in report.unexpected} <= {"norm", "fc_norm", "head", "rel_pos_bias"}
    assert any("anew" in note for note in report.notes)
    trunk = Segmenter.from_pretrained(tmp_path / "model").backbone.trunk
    image = torch.randn(2, 3, 64, 64)
    tokens = torch.cat([theirs.cls_token.expand(2, -1, -1), theirs.patch_embed(image)], 1)
    for block in theirs.blocks:
        tokens = block(tokens)
    assert torch.allclose(trunk.run(trunk.embed(image), (4, 4), 0, 3), tokens, atol=1e-5)


def test_a_pretrained_beit_of_another_size_is_resized_once(tmp_path):
    table = torch.randn(5 * 5 + 3, 4)
    state = foreign.beit(shared=True)[1] | {"rel_pos_bias.relative_position_bias_table": table}
    torch.save({"model": state}, tmp_path / "beit.pth")
    convert(tmp_path / "beit.pth", tmp_path / "model", preset="vit_adapter_tiny", classes="camvid11")
    trunk = Segmenter.from_pretrained(tmp_path / "model").backbone.trunk
    wanted = resize_table(table, (3, 3), (4, 4))
    assert all(torch.equal(block.attn.relative_position_bias_table, wanted) for block in trunk.blocks)


@pytest.mark.parametrize("kind", ["tensors", "arrays", "torch"])
@pytest.mark.parametrize("whole", [False, True], ids=["vision", "whole_model"])
def test_a_pretrained_one_peace_in_a_plain_pickle(kind, whole, tmp_path):
    model = foreign.segmenter("one_peace_tiny")
    state = foreign.one_peace(model)
    state["image_adapter.pos_embed"] = positions = torch.randn(2 * 2 + 1, 48)
    state["image_adapter.rel_pos_table_list.0.weight"] = table = torch.randn(3 * 3 + 3, 4)
    if whole:  # the names of the model that the published file was cut out of
        state = {
            f"encoder_wrapper.fusion_model.{name.removeprefix('encoder.')}"
            if name.startswith("encoder.")
            else f"encoder_wrapper.{name}": value
            for name, value in state.items()
        }
        state["encoder_wrapper.fusion_model.layers.0.text_ffn.0.weight"] = torch.zeros(2)
    if kind == "torch":
        torch.save({"model": state}, tmp_path / "vision.pkl")
    else:
        values = {name: value.numpy() for name, value in state.items()} if kind == "arrays" else state
        (tmp_path / "vision.pkl").write_bytes(pickle.dumps({"model": values, "epoch": np.float64(3)}))
    report = convert(tmp_path / "vision.pkl", tmp_path / "model", preset="one_peace_tiny", classes="camvid11")
    assert not [name for name in report.missing if name.startswith("backbone.trunk.")]
    loaded, origin = Segmenter.from_pretrained(tmp_path / "model").state_dict(), model.state_dict()
    for name in (name for name in origin if name.startswith("backbone.trunk.")):
        if name.endswith("pos_embed"):
            assert torch.equal(loaded[name], torch.cat([positions[:1], resize_positions(positions[1:], (2, 2), (4, 4))]))
        elif name.endswith("rel_pos_table.weight"):
            assert torch.equal(loaded[name], resize_table(table, (2, 2), (4, 4)))
        else:
            assert torch.equal(loaded[name], origin[name]), name


def test_a_pretrained_plain_vit_of_timm(tmp_path):
    vit = timm.models.vision_transformer.VisionTransformer(img_size=48, patch_size=16, embed_dim=48, depth=4, num_heads=4, init_values=0.1)
    foreign.lively(vit)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    convert(tmp_path / "vit.safetensors", tmp_path / "model", preset="vit_adapter_plain_tiny", classes="camvid11")
    trunk = Segmenter.from_pretrained(tmp_path / "model").backbone.trunk
    assert torch.equal(trunk.blocks[2].gamma1, vit.blocks[2].ls1.gamma)
    assert torch.equal(trunk.pos_embed[0, 1:], resize_positions(vit.pos_embed[0, 1:], (3, 3), (4, 4)))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["timm", "authors", "authors_segmenter"])
def test_a_pretrained_swin_computes_the_same(kind, tmp_path):
    model = foreign.swin()
    state = model.state_dict() if kind == "timm" else foreign.as_its_authors(model.state_dict())
    prefix = "backbone." if kind == "authors_segmenter" else ""
    torch.save({"model": {prefix + name: tensor for name, tensor in state.items()}}, tmp_path / "swin.pth")
    convert(tmp_path / "swin.pth", tmp_path / "model", classes="camvid11")
    backbone = Segmenter.from_pretrained(tmp_path / "model").backbone
    assert isinstance(backbone, Swin)
    image = torch.randn(1, 3, 256, 256)  # at least two windows in the last stage, where timm does not shift a single one
    for ours, theirs in zip(backbone(image), model.forward_intermediates(image, intermediates_only=True), strict=True):
        normed = F.layer_norm(theirs.permute(0, 2, 3, 1), theirs.shape[1:2]).permute(0, 3, 1, 2)
        assert torch.allclose(ours, normed, atol=1e-5)


@torch.no_grad()
def test_a_pretrained_swin_of_transformers(tmp_path):
    model = foreign.transformers_swin(tmp_path / "swin")
    convert(tmp_path / "swin", tmp_path / "model", classes="camvid11")
    loaded = Segmenter.from_pretrained(tmp_path / "model").backbone.body.state_dict()
    wanted = {f"swin.{name}": tensor for name, tensor in model.state_dict().items() if not name.startswith("layernorm.")}
    assert wanted.keys() == {name for name in loaded if name.startswith("swin.")}
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in wanted.items())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["convnext", "swin"])
def test_names_of_torchvision(kind):
    image = torch.randn(1, 3, 64, 64)
    if kind == "convnext":
        block = torchvision.models.convnext.CNBlockConfig
        theirs: Any = torchvision.models.convnext.ConvNeXt(
            [block(8, 16, 1), block(16, 24, 1), block(24, 32, 2), block(32, None, 1)], num_classes=4
        )
        ours: Any = timm.models.convnext.ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), num_classes=4)
    else:
        theirs = torchvision.models.swin_transformer.SwinTransformer([4, 4], 8, [2, 2, 2, 2], [2, 2, 4, 4], [2, 2], num_classes=4)
        ours = timm.models.swin_transformer.SwinTransformer(
            img_size=64, embed_dim=8, depths=(2, 2, 2, 2), num_heads=(2, 2, 4, 4), window_size=2, num_classes=4
        )
        ours.norm.eps = theirs.norm.eps
    foreign.lively(theirs)
    renamed = from_torchvision(theirs.state_dict())
    assert renamed is not None
    ours.eval().load_state_dict(renamed)
    assert torch.allclose(ours(image), theirs(image), rtol=1e-3, atol=1e-4)


def test_a_resnet_of_torchvision_and_a_folder_of_timm(tmp_path):
    resnet = foreign.lively(torchvision.models.resnet18(num_classes=3))
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match=r"does not say the model .* --preset timm/NAME"):
        convert(tmp_path / "resnet18.pth", tmp_path / "model", classes="camvid11")
    report = convert(tmp_path / "resnet18.pth", tmp_path / "model", preset="timm/resnet18", classes="camvid11")
    assert report.unexpected == ("fc.bias", "fc.weight")
    loaded = Segmenter.from_pretrained(tmp_path / "model").backbone.body.state_dict()
    assert all(torch.equal(tensor, resnet.state_dict()[name]) for name, tensor in loaded.items())

    small = foreign.lively(timm.create_model("test_resnet", num_classes=3))
    inside = {f"model.backbone.{name}": tensor for name, tensor in small.state_dict().items()}
    torch.save({"state_dict": inside | {"model.head.weight": torch.zeros(2)}}, tmp_path / "whole.pth")
    convert(tmp_path / "whole.pth", tmp_path / "inner", preset="timm/test_resnet", classes="camvid11")
    assert torch.equal(Segmenter.from_pretrained(tmp_path / "inner").backbone.body.bn1.bias, small.bn1.bias)
    (tmp_path / "timm").mkdir()
    save_file(small.state_dict(), tmp_path / "timm/model.safetensors")
    config = {"architecture": "test_resnet", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    (tmp_path / "timm/config.json").write_text(json.dumps(config))
    convert(tmp_path / "timm/model.safetensors", tmp_path / "small", classes="camvid11")
    again = Segmenter.from_pretrained(tmp_path / "small")
    assert torch.allclose(again.mean.flatten() / 255, torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(again.backbone.body.state_dict()["conv1.0.weight"], small.state_dict()["conv1.0.weight"])


# --- Mask2Former of transformers, and classes


@torch.no_grad()
@pytest.mark.parametrize(
    ("saving", "kind"),
    [({}, None), ({"max_shard_size": "200KB"}, None), ({}, ResNetConfig), ({}, ConvNextConfig)],
    ids=["one_file", "pieces", "resnet", "convnext"],
)
def test_mask2former_of_transformers_computes_the_same(saving, kind, tmp_path):
    theirs = foreign.mask2former(tmp_path / "ade", backbone=kind and foreign.convolutional_config(kind), **saving).eval()
    assert (len(list((tmp_path / "ade").glob("*.safetensors"))) > 1) == bool(saving)
    convert(tmp_path / "ade", tmp_path / "model")
    ours = Segmenter.from_pretrained(tmp_path / "model")
    assert ours.label_set == label_set("ade20k150")
    image = frames(64, 96)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]))
    wanted = theirs((image / 127.5 - mean) / std)  # as preprocessor_config.json says
    output = ours(image)
    assert torch.allclose(output.class_logits, wanted.class_queries_logits, atol=1e-4)
    assert torch.allclose(output.mask_logits, wanted.masks_queries_logits, atol=1e-3)


def test_a_model_of_ours_with_another_head_is_not_called_damaged(tmp_path):
    classes = nameless_set(3)
    build_segmenter(Model(pixel={"channels": 16}), classes).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"of other sizes than the recipe's model \(head\..*copy what its config\.json says under model"):
        build_segmenter(Model(pixel={"channels": 32}, weights=str(tmp_path)), classes)


def test_a_single_size_that_is_given_leaves_the_others_of_a_folder_alone(tmp_path, monkeypatch, capsys):
    foreign.mask2former(tmp_path / "ade")
    convert(tmp_path / "ade", tmp_path / "model", overrides=["mask2former.heads=4", "mask2former.points=99"])
    head = Segmenter.from_pretrained(tmp_path / "model").settings.mask2former
    assert (head.channels, head.heads, head.points) == (32, 4, 99)
    line = said(["convert", tmp_path / "ade", "--out", tmp_path / "other", "-o", "mask2former.queries=7"], monkeypatch, capsys)
    assert "mask2former.queries 5 in the file, 7 in the model" in line
    assert "channels" not in line


@torch.no_grad()
def test_scores_of_merged_classes_are_summed(tmp_path):
    foreign.mask2former(tmp_path / "ade")
    convert(tmp_path / "ade", tmp_path / "own")
    report = convert(tmp_path / "ade", tmp_path / "vspw", classes="vspw124")
    assert any("label map ade20k150_to_vspw124" in note for note in report.notes)
    own, vspw = (Segmenter.from_pretrained(tmp_path / name) for name in ("own", "vspw"))
    assert vspw.label_set == label_set("vspw124")
    before, after = own(frames(64, 64)), vspw(frames(64, 64))
    assert isinstance(after, MaskLogits)
    chances, mapped = before.class_logits.softmax(-1), after.class_logits.softmax(-1)
    ids = load_label_map("ade20k150_to_vspw124").ids[:150].tolist()
    rest = chances[..., -1] + sum(chances[..., source] for source, goal in enumerate(ids) if goal == IGNORE)
    for goal in range(124):
        wanted = sum((chances[..., source] for source in range(150) if ids[source] == goal), torch.zeros(1, 5))
        assert torch.allclose(mapped[..., goal], wanted, atol=1e-6), goal
    assert torch.allclose(mapped[..., -1], rest, atol=1e-6)
    assert torch.allclose(class_distribution(after).sum(1), torch.ones(1, 16, 16))


def test_a_recipe_starts_from_another_set_of_classes(tmp_path, capsys):
    foreign.mask2former(tmp_path / "ade")
    convert(tmp_path / "ade", tmp_path / "model")
    settings = Model.model_validate(json.loads((tmp_path / "model/config.json").read_text())["model"])
    capsys.readouterr()
    for source in ("ade", "model"):
        model = build_segmenter(settings.model_copy(update={"weights": str(tmp_path / source)}), label_set("vspw124"))
        assert "label map ade20k150_to_vspw124" in capsys.readouterr().err
        assert set(model.settings.class_rows or ()) == set(range(125))
        model.train()(frames(64, 64)).class_logits.sum().backward()
    foreign_names = foreign.mask2former(tmp_path / "odd", ("zig", "zag", "zog"))
    model = build_segmenter(settings.model_copy(update={"weights": str(tmp_path / "odd")}), label_set("vspw124"))
    assert "the classifier starts anew" in capsys.readouterr().err
    assert model.head.classify.weight.shape == (125, 32)
    assert torch.equal(model.head.transformer.queries_features.weight, foreign_names.model.transformer_module.queries_features.weight)


def test_a_recipe_learns_new_classes_like_a_fresh_classifier(tmp_path):
    """A row that keeps silent learns some five times as slowly: Adam takes its bias up by one learning rate a step."""
    foreign.mask2former(tmp_path / "ade")
    convert(tmp_path / "ade", tmp_path / "vspw", classes="vspw124")
    settings = Model.model_validate(json.loads((tmp_path / "vspw/config.json").read_text())["model"])
    foreign.seeded(7)
    fresh = build_segmenter(settings, label_set("vspw124"))
    foreign.seeded(7)
    started = build_segmenter(settings.model_copy(update={"weights": str(tmp_path / "ade"), "class_rows": None}), label_set("vspw124"))
    known = set(load_label_map("ade20k150_to_vspw124").ids[:150].tolist())
    new = [row for row, goal in enumerate(settings.class_rows) if goal < 124 and goal not in known]
    assert new
    assert started.settings.class_rows == settings.class_rows
    assert torch.equal(started.head.classify.weight[new], fresh.head.classify.weight[new])
    assert torch.equal(started.head.classify.bias[new], fresh.head.classify.bias[new])
    converted = Segmenter.from_pretrained(tmp_path / "vspw").head.classify
    assert not converted.weight[new].any()
    assert (converted.bias[new] == -20).all()


def test_classes_with_equal_names_are_kept_and_others_start_anew(tmp_path):
    model = foreign.segmenter("vit_adapter_tiny", 3)
    torch.save(foreign.checkpoint(model, ["Sky", "road", "traffic light"]), tmp_path / "iter.pth")
    (tmp_path / "mine.txt").write_text("traffic_light\nboat\nsky\n")
    report = convert(
        tmp_path / "iter.pth", tmp_path / "model", preset="vit_adapter_tiny", overrides=foreign.GIVEN, classes=str(tmp_path / "mine.txt")
    )
    assert any("2 of 3 classes" in note and "boat" in note and "road" in note for note in report.notes)
    adapted = Segmenter.from_pretrained(tmp_path / "model")
    logits, wanted = (net.eval()(frames(64, 64)).class_logits for net in (adapted, model))
    assert torch.allclose(logits[..., [0, 2]], wanted[..., [2, 0]], atol=1e-5)
    assert (logits.softmax(-1)[..., 1] < 1e-6).all()


def test_a_converted_model_is_converted_again(tmp_path):
    foreign.mask2former(tmp_path / "ade")
    convert(tmp_path / "ade", tmp_path / "vspw", classes="vspw124")
    convert(tmp_path / "vspw", tmp_path / "camvid", classes="camvid11")
    first, second = (Segmenter.from_pretrained(tmp_path / name)(frames(64, 64)).class_logits.softmax(-1) for name in ("vspw", "camvid"))
    ids = load_label_map("vspw124_to_camvid11").ids[:124].tolist()
    for goal in range(11):
        wanted = sum((first[..., source] for source in range(124) if ids[source] == goal), torch.zeros(1, 5))
        assert torch.allclose(second[..., goal], wanted, atol=1e-6)


# --- what inspect says


@pytest.mark.parametrize("backbone", FAMILIES)
def test_inspect_tells_family_sizes_classes_and_what_is_to_be_given(backbone, tmp_path):
    content = foreign.checkpoint(foreign.segmenter(backbone), list(label_set("camvid11").names)[:5])
    torch.save(content, tmp_path / "iter.pth")
    rows = {line.split()[0]: line for line in inspect(tmp_path / "iter.pth").splitlines()}
    assert "Mask2Former head" in rows["family"]
    assert "width 48, depth 4" in rows["sizes"]
    assert "queries 5" in rows["head"]
    assert rows["classes"].split()[1] == "5"
    assert rows["missing"].endswith("nothing")
    indices = sum(name.endswith(INDEX_BUFFERS) for name in content["state_dict"])
    assert rows["unused"].split()[1] == (str(indices) if indices else "nothing")
    assert backbone in rows["to"]
    assert "trunk.stages" in rows["to"]
    del (
        content["state_dict"]["decode_head.mask_embed.2.bias"],
        content["state_dict"]["backbone.fpn1.0.weight" if backbone == "beit_tiny" else "backbone.norm1.weight"],
    )
    torch.save(content | {"state_dict": content["state_dict"] | {"auxiliary_head.conv.weight": torch.zeros(2)}}, tmp_path / "less.pth")
    text = inspect(tmp_path / "less.pth", preset=backbone, overrides=foreign.GIVEN)
    assert "missing  2 (backbone." in text
    assert "auxiliary_head.conv.weight" in text
    assert "to give" not in text


def test_inspect_of_everything_else(tmp_path):
    torch.save(foreign.checkpoint(foreign.segmenter("beit_tiny"), ["a", "b"]), tmp_path / "names.pth")
    assert "5, and 2 names (a, b), which cannot be" in inspect(tmp_path / "names.pth")
    torch.save({"model": foreign.beit(shared=True)[1]}, tmp_path / "beit.pth")
    text = inspect(tmp_path / "beit.pth")
    assert "to give  backbone: --preset vit_adapter_tiny or beit_tiny" in text
    assert "missing  nothing\nanew" in text
    foreign.mask2former(tmp_path / "ade")
    assert "150 (ade20k150" in inspect(tmp_path / "ade")
    assert "missing  nothing" in inspect(tmp_path / "ade")
    convert(tmp_path / "ade", tmp_path / "vspw", classes="vspw124")
    assert "124 (vspw124" in inspect(tmp_path / "vspw")
    torch.save(foreign.swin().state_dict(), tmp_path / "swin.pth")
    assert "backbone swin_tiny" in inspect(tmp_path / "swin.pth")
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "r.safetensors")
    assert "to give  backbone: --preset timm/NAME" in inspect(tmp_path / "r.safetensors")


def test_the_command_line(tmp_path, monkeypatch, capsys):
    torch.save(foreign.checkpoint(foreign.segmenter("vit_adapter_tiny")), tmp_path / "iter.pth")
    monkeypatch.chdir(tmp_path)
    for words in (["inspect", "iter.pth"], ["convert", "iter.pth", "--preset", "vit_adapter_tiny", "-o", "mask2former.heads=4"]):
        monkeypatch.setattr(sys, "argv", ["semivss", "weights", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
    assert "ViT-Adapter round BEiT" in capsys.readouterr().out
    assert len(Segmenter.from_pretrained(tmp_path / "models/iter").label_set) == 5
    assert "SHA-256" in (tmp_path / "models/iter/README.md").read_text()


# --- bad input


class Payload:
    """Unpickling it makes the folder `self.mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def _bytes(path: Path) -> bytes:
    torch.save(foreign.checkpoint(foreign.segmenter("vit_adapter_tiny")), path / "good.pth")
    return (path / "good.pth").read_bytes()


def _without(*parts: str) -> Callable[[Path], bytes]:
    def write(path: Path) -> bytes:
        content = foreign.checkpoint(foreign.segmenter("vit_adapter_tiny"))
        content["state_dict"] = {name: value for name, value in content["state_dict"].items() if not any(part in name for part in parts)}
        torch.save(content, path / "good.pth")
        return (path / "good.pth").read_bytes()

    return write


def _saved(content: object, protocol: int | None = None) -> Callable[[Path], bytes]:
    def write(path: Path) -> bytes:
        if protocol is not None:
            return pickle.dumps(content, protocol)
        torch.save(content, path / "good.pth")
        return (path / "good.pth").read_bytes()

    return write


@pytest.mark.parametrize("verb", ["inspect", "convert"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda path: _bytes(path)[:-5000], "the download did not finish; get the file again"),
        (lambda path: _bytes(path)[:300], "the download did not finish; get the file again"),
        (lambda path: b"", "empty; get the file again"),
        (lambda path: b"\n<!doctype html><html><body>Sign in", "a web page, not weights"),
        (lambda path: b"\xef\xbb\xbf<html>", "a web page, not weights"),
        (lambda path: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (lambda path: b"{'not': 'weights'}" * 20, "neither safetensors nor a torch file nor a pickle"),
        (lambda path: pickle.dumps({"model": {"a": np.zeros(3)}})[:-20], "not a sound torch file or pickle"),
        (_saved({"model": {"a": object()}}, 2), "builtins.object, which is neither tensor nor plain value"),
        (_saved({"state_dict": {"some.weight": torch.zeros(3), "other.weight": torch.zeros(3)}}), "not weights that are known here"),
        (_saved([1, 2]), "holds no named tensors"),
        (_saved({"image_adapter.cls_emb": torch.zeros(3)}), "one-peace-vision.pkl"),
        (_saved({"model.pixel_level_module.x": torch.zeros(3)}), "give the folder that holds config.json"),
        (_saved({"features.0.0.weight": torch.zeros(3)}), "supported: ResNets, ConvNeXt, Swin"),
    ],
)
def test_a_file_that_is_none_of_ours_gets_one_line(verb, content, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.pth").write_bytes(content(tmp_path))
    more = ["--out", tmp_path / "model", "--preset", "vit_adapter_tiny"] if verb == "convert" else []
    line = said([verb, tmp_path / "bad.pth", *more], monkeypatch, capsys)
    assert "bad.pth" in line
    assert words in line
    assert not (tmp_path / "model").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("verb", ["inspect", "convert"])
@pytest.mark.parametrize("form", ["torch", "old_torch", "pickle", "pickle_0", "inner"])
def test_a_file_with_code_is_not_run(verb, form, tmp_path, monkeypatch, capsys):
    mark, file = tmp_path / "ran", tmp_path / "bad.pth"
    content = foreign.checkpoint(foreign.segmenter("vit_adapter_tiny")) | {"extra": Payload(mark)}
    match form:
        case "pickle" | "pickle_0":
            file.write_bytes(pickle.dumps({"model": {"a": torch.zeros(2)}, "x": Payload(mark)}, 2 if form == "pickle" else 4))
        case "inner":  # a tensor's storage is a torch file inside the pickle, and that one has the code
            torch.save(Payload(mark), tmp_path / "inner", _use_new_zipfile_serialization=False)

            class Storage:
                def __reduce__(self) -> tuple:
                    return torch.storage._load_from_bytes, ((tmp_path / "inner").read_bytes(),)

            file.write_bytes(pickle.dumps({"model": {"a": Storage()}}))
        case _:
            torch.save(content, file, _use_new_zipfile_serialization=form == "torch")
    more = ["--out", tmp_path / "model", "--preset", "vit_adapter_tiny"] if verb == "convert" else []
    line = said([verb, file, *more], monkeypatch, capsys)
    assert "bad.pth" in line
    assert "neither tensor nor plain value" in line or form == "inner"
    assert not mark.exists()
    assert not (tmp_path / "model").exists()


class Rebuilt:
    """Pickled, a call of one of torch's functions with these arguments, and a state where there is one."""

    def __init__(self, call: Callable[..., Any], arguments: tuple[Any, ...], state: object = None) -> None:
        self.parts = (call, arguments, state) if state is not None else (call, arguments)

    def __reduce__(self) -> tuple:
        return self.parts


def _storage_of(*numbers: float) -> Any:
    return torch.tensor(numbers)._typed_storage()


REBUILD = torch._utils._rebuild_tensor_v2


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (Rebuilt(REBUILD, (_storage_of(1.0), 0, (10**9,), (0,), False, {})), "more numbers than its storage"),
        (Rebuilt(REBUILD, (_storage_of(1.0), 0, (-1,), (1,), False, {})), "impossible size"),
        (Rebuilt(REBUILD, (_storage_of(1.0, 2.0), 0, (2,), (1,), False, {}), {"data": 1}), "a state of its own"),
        (Rebuilt(bytearray, (10**13,)), "a bytearray of no bytes"),
    ],
)
def test_a_pickle_makes_no_tensor_larger_than_it_is_and_changes_none(tensor, words, tmp_path):
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"model": {"a": tensor}}))
    with pytest.raises(WeightsError, match=words):
        read_weights(tmp_path / "bad.pkl")


@pytest.mark.parametrize("form", ["torch", "old_torch", "pickle", "pickle_4"])
def test_what_training_scripts_leave_beside_the_weights_is_not_looked_at(form, tmp_path):
    tensors = {"a": torch.arange(3.0), "b": torch.zeros(2, 2)}
    beside = {"args": argparse.Namespace(lr=1e-4, out=Path("runs"), names=["a"]), "place": Path("x/y")}
    if form.startswith("pickle"):
        (tmp_path / "w.pth").write_bytes(pickle.dumps({"model": tensors, **beside}, 4 if form == "pickle_4" else 2))
    else:
        torch.save({"model": tensors, **beside}, tmp_path / "w.pth", _use_new_zipfile_serialization=form == "torch")
    read = read_weights(tmp_path / "w.pth").tensors
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


PRESET = ["--preset", "vit_adapter_tiny", "-o", "mask2former.heads=4"]


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (_bytes, [], "do not tell trunk.stages, trunk.points, trunk.deform_heads, mask2former.heads; give --preset"),
        (_bytes, ["--preset", "vit_adapter_tiny"], "do not tell mask2former.heads"),
        (_bytes, ["--preset", "one_peace_l"], "ViT-Adapter round BEiT and a Mask2Former head, which is no one_peace_l"),
        (_bytes, ["--preset", "vit_adapter_plain_l"], "which is no vit_adapter_plain_l"),
        (_bytes, ["--preset", "vit_adapter_l"], "width 48 in the file, 1024 given"),
        (_bytes, [*PRESET, "-o", "trunk.points=2"], "deform_heads x points 24 in the file, 6 x 2 given"),
        (_bytes, ["--preset", "vit_adapter_tiny", "-o", "mask2former.heads=8"], "mask2former.heads 4 in the file, 8 given"),
        (_bytes, [*PRESET, "-o", "trunk.points=many"], "trunk.points"),
        (_bytes, [*PRESET, "-o", "trunk.stages=[[0,1],[2,3]]"], "stages [[0, 1], [2, 3]] must be four"),
        (_bytes, [*PRESET, "--config", "x.toml"], "give one of them"),
        (_bytes, ["--config", "none.toml"], "none.toml: cannot be read"),
        (_bytes, [*PRESET, "--classes", "vspw124"], "does not name its 5 classes, and vspw124 has 124; give --source-classes"),
        (_bytes, [*PRESET, "--source-classes", "camvid11"], "its classifier has 5 classes, camvid11 has 11"),
        (_bytes, [*PRESET, "--classes", "vspw"], "label set 'vspw' is unknown"),
        (_without("blocks.3."), PRESET, "depth 3 in the file, 4 given"),
        (_without("mask_embed"), PRESET, "incomplete, 6 tensors"),
        (_without("spm.stem.0"), PRESET, "BEiT with the pyramid of its authors"),
        (
            lambda path: _saved({"model": foreign.beit(shared=False)[1]})(path),
            ["--preset", "vit_adapter_tiny"],
            "has no classifier, so its model needs classes",
        ),
        (
            lambda path: _saved({"model": foreign.beit(shared=False)[1]})(path),
            ["--preset", "vit_adapter_l", "--classes", "vspw124"],
            "width 48 in the file, 1024 given",
        ),
        (
            lambda path: _saved({"model": foreign.beit(shared=False)[1]})(path),
            ["--preset", "one_peace_l", "--classes", "vspw124"],
            "which is no one_peace_l",
        ),
    ],
)
def test_what_does_not_fit_gets_one_line(content, options, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.pth").write_bytes(content(tmp_path))
    line = said(["convert", tmp_path / "bad.pth", "--out", tmp_path / "model", *options], monkeypatch, capsys)
    assert words in line
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: next(folder.glob("model-*2-of-*")).unlink(), "weight files are missing, the first is model-"),
        (lambda folder: next(folder.glob("model-*2-of-*")).write_bytes(b"<html>"), "a web page"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: damaged"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "a bert of transformers, which is not supported"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "mask2former"}'), "config.json lacks"),
        (lambda folder: edited(folder, activation_function="gelu"), "activation_function = gelu is not supported"),
        (lambda folder: edited(folder, backbone_config=3), "makes no sense"),
        (lambda folder: edited(folder, num_queries="many"), "queries"),
        (lambda folder: edited(folder, hidden_dim=64, feature_size=64), "channels 32 in the file, 64 in the model"),
        (lambda folder: edited(folder, id2label={"0": "a", "1": "b"}), "its classifier has 150 classes, ade has 2"),
        (lambda folder: (folder / "preprocessor_config.json").write_text('{"image_mean": [0], "image_std": [1, 1, 1]}'), "three numbers"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}'), "outside its folder"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "no weights there"),
    ],
)
def test_a_damaged_folder_gets_one_line(damage, words, tmp_path, monkeypatch, capsys):
    foreign.mask2former(tmp_path / "ade", max_shard_size="200KB")
    damage(tmp_path / "ade")
    line = said(["convert", tmp_path / "ade", "--out", tmp_path / "model"], monkeypatch, capsys)
    assert words in line
    assert not (tmp_path / "model").exists()


def edited(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_values_that_are_not_finite_are_refused(tmp_path, monkeypatch, capsys):
    content = foreign.checkpoint(foreign.segmenter("vit_adapter_tiny"))
    content["state_dict"]["decode_head.query_feat.weight"][1, 1] = torch.nan
    torch.save(content, tmp_path / "bad.pth")
    line = said(["convert", tmp_path / "bad.pth", "--out", tmp_path / "model", *PRESET], monkeypatch, capsys)
    assert "not finite" in line
    assert not (tmp_path / "model").exists()


IN_PROJ = "decode_head.transformer_decoder.layers.0.attentions.1.attn.in_proj_bias"
SHAPES = [
    ("vit_adapter_tiny", IN_PROJ, (1,), f"damaged: {IN_PROJ} of shape [1] cannot hold"),
    ("vit_adapter_tiny", IN_PROJ, (), f"damaged: {IN_PROJ} of shape [] cannot hold"),
    ("vit_adapter_tiny", "backbone.interactions.0.injector.attn.value_proj.weight", (0, 0), ""),
    ("vit_adapter_tiny", "backbone.patch_embed.proj.weight", (), ""),
    ("vit_adapter_tiny", "backbone.blocks.0.attn.relative_position_bias_table", (7, 4), ""),
    ("vit_adapter_plain_tiny", "backbone.pos_embed", (1, 1, 48), ""),
    ("vit_adapter_plain_tiny", "backbone.pos_embed", (), ""),
    ("one_peace_tiny", "backbone.image_adapter.pos_embed", (3,), ""),
    ("one_peace_tiny", "decode_head.cls_embed.weight", (1,), ""),
    ("one_peace_tiny", "decode_head.cls_embed.bias", (0,), ""),
    ("beit_tiny", "decode_head.query_feat.weight", (), ""),
]


@pytest.mark.parametrize(("backbone", "name", "shape", "words"), SHAPES)
def test_a_tensor_of_another_shape_inside_a_known_family_gets_one_line(backbone, name, shape, words, tmp_path):
    content = foreign.checkpoint(foreign.segmenter(backbone))
    assert name in content["state_dict"]
    content["state_dict"][name] = torch.zeros(shape)
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(SemivssError) as caught:
        convert(tmp_path / "bad.pth", tmp_path / "model", preset=backbone, overrides=foreign.GIVEN)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    with contextlib.suppress(SemivssError):  # it may tell what is missing instead
        inspect(tmp_path / "bad.pth")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("name", "shape"), [("layers.0.blocks.0.attn.qkv.weight", (4, 24)), ("patch_embed.proj.bias", ())])
def test_a_swin_of_impossible_shapes_gets_one_line(name, shape, tmp_path, monkeypatch, capsys):
    torch.save({"model": foreign.swin().state_dict() | {name: torch.zeros(shape)}}, tmp_path / "bad.pth")
    assert "damaged" in said(["inspect", tmp_path / "bad.pth"], monkeypatch, capsys)


def test_a_checkpoint_that_lost_its_last_block_is_damaged(tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.pth").write_bytes(_without("blocks.3.")(tmp_path))
    assert "damaged: ViT-Adapter round BEiT and a Mask2Former head of depth 3" in said(
        ["inspect", tmp_path / "bad.pth"], monkeypatch, capsys
    )


def test_rows_of_classes_and_classifier_must_agree(tmp_path, monkeypatch, capsys):
    foreign.segmenter("beit_tiny", 5).save_pretrained(tmp_path / "ours")
    model = json.loads((tmp_path / "ours/config.json").read_text())["model"]
    edited(tmp_path / "ours", model=model | {"class_rows": [0, 1, 2, 3, 4, 4, 4]})
    for words in (["inspect", tmp_path / "ours"], ["convert", tmp_path / "ours", "--out", tmp_path / "model"]):
        assert "its classifier has 5 rows, its config.json says 7" in said(words, monkeypatch, capsys)
    assert not (tmp_path / "model").exists()


def test_the_classes_of_our_own_folder_are_not_given_again(tmp_path, monkeypatch, capsys):
    foreign.segmenter("beit_tiny", 11).save_pretrained(tmp_path / "ours")
    words = ["convert", tmp_path / "ours", "--out", tmp_path / "model", "--source-classes", "camvid11", "--classes", "vspw124"]
    assert "names its classes itself (unnamed); leave --source-classes out" in said(words, monkeypatch, capsys)
    assert not (tmp_path / "model").exists()


def test_a_model_is_replaced_only_on_demand(tmp_path, monkeypatch, capsys):
    torch.save(foreign.checkpoint(foreign.segmenter("vit_adapter_tiny")), tmp_path / "iter.pth")
    convert(tmp_path / "iter.pth", tmp_path / "model", preset="vit_adapter_tiny", overrides=foreign.GIVEN)
    capsys.readouterr()
    assert "--force" in said(["convert", tmp_path / "iter.pth", "--out", tmp_path / "model", *PRESET], monkeypatch, capsys)
    convert(tmp_path / "iter.pth", tmp_path / "model", preset="vit_adapter_tiny", overrides=foreign.GIVEN, force=True)


@pytest.mark.parametrize(
    "lost", ["decode_head.pixel_decoder.", "decode_head.mask_embed.", "backbone.interactions.0.", "backbone.blocks.1.attn."]
)
def test_a_recipe_does_not_start_from_a_part_of_a_model(lost, tmp_path):
    content = foreign.checkpoint(foreign.segmenter("vit_adapter_tiny"))
    content["state_dict"] = {name: tensor for name, tensor in content["state_dict"].items() if not name.startswith(lost)}
    torch.save(content, tmp_path / "iter.pth")
    model = Model(backbone="vit_adapter_tiny", weights=str(tmp_path / "iter.pth"), head="mask2former", mask2former=foreign.HEAD)
    with pytest.raises(WeightsError, match=r"incomplete, \d+ tensors of .* are missing or of another shape"):
        build_segmenter(model, nameless_set(5))


def test_positions_of_as_many_patches_in_another_grid_are_resized():
    """4 x 4 and 2 x 8 patches have tensors of one shape."""
    positions, other = torch.randn(1, 17, 6), torch.zeros(1, 17, 6)
    wanted = torch.cat([positions[0, :1], resize_positions(positions[0, 1:], (4, 4), (2, 8))])
    for source in (None, (4, 4)):
        fit = fit_by_name({"pos_embed": positions}, {"pos_embed": other}, (2, 8), source)
        assert torch.equal(fit.tensors["pos_embed"][0], wanted)
        assert torch.equal(fit_by_name({"pos_embed": positions}, {"pos_embed": other}, (4, 4), source).tensors["pos_embed"], positions)
    assert torch.equal(fit_by_name({"pos_embed": positions}, {"pos_embed": other}, (2, 8), (2, 8)).tensors["pos_embed"], positions)
    table = torch.randn(3 * 13 + 3, 4)  # of 2 x 7 patches, and of 7 x 2
    turned = fit_by_name({"a.relative_position_bias_table": table}, {"a.relative_position_bias_table": table}, (7, 2), (2, 7))
    assert torch.equal(turned.tensors["a.relative_position_bias_table"], resize_table(table, (2, 7), (7, 2)))


def test_a_recipe_that_does_not_fit_its_weights_is_told(tmp_path):
    torch.save(foreign.checkpoint(foreign.segmenter("vit_adapter_tiny")), tmp_path / "iter.pth")
    settings = Model(backbone="vit_adapter_tiny", weights=str(tmp_path / "iter.pth"), head="mask2former", mask2former=foreign.HEAD)
    assert build_segmenter(settings, nameless_set(5)).head.classify.weight.shape == (6, 32)
    for changes in ({"trunk": {"width": 96}}, {"mask2former": foreign.HEAD.model_copy(update={"queries": 9})}):
        with pytest.raises(WeightsError, match=r"of other sizes: .* in the file, .* in the model"):
            build_segmenter(Model.model_validate(settings.model_dump() | changes), nameless_set(5))


@pytest.mark.parametrize("spelling", ["attn_implementation", "_attn_implementation"])
def test_a_configuration_cannot_name_code_for_transformers_to_fetch(spelling, tmp_path, monkeypatch, capsys):
    """transformers takes an implementation of attention called owner/name for a repository to download and import."""
    foreign.mask2former(tmp_path / "ade")
    config = json.loads((tmp_path / "ade/config.json").read_text())
    edited(tmp_path / "ade", backbone_config=config["backbone_config"] | {"hidden_act": "gelu_new", spelling: "owner/kernel"})
    convert(tmp_path / "ade", tmp_path / "model")
    ours = json.loads((tmp_path / "model/config.json").read_text())["model"]
    assert ours["backbone"] == "transformers/swin"
    assert spelling not in ours["config"]
    edited(tmp_path / "model", model=ours | {"config": ours["config"] | {spelling: "owner/kernel"}})
    with pytest.raises(SemivssError, match=rf"{spelling}' is no setting of transformers/swin; known: .*embed_dim") as caught:
        Segmenter.from_pretrained(tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert spelling in said(["inspect", tmp_path / "model"], monkeypatch, capsys)
