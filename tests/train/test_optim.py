"""Parameter groups, the learning rate of each step, averaged weights."""

import pytest
import torch
from torch import nn

from semivss.data.labels import LabelSet, distinct_colors
from semivss.errors import RecipeError
from semivss.models.zoo import build_segmenter
from semivss.recipe import checked
from semivss.settings import Mask2FormerHead, Model, Train
from semivss.train.ema import AveragedModel
from semivss.train.optim import build_optimizer, learning_rate, named_roles, set_learning_rate

CLASSES = LabelSet("three", ("a", "b", "c"), distinct_colors(3), (False,) * 3)
HEAD = {"channels": 32, "queries": 4, "encoder_layers": 1, "decoder_layers": 2, "heads": 2, "encoder_feedforward": 16, "feedforward": 16}
SMALL = {"mask2former": Mask2FormerHead(**HEAD)}


@pytest.fixture(scope="module")
def mask2former():
    return build_segmenter(Model.model_validate({"head": "mask2former", "mask2former": HEAD}), CLASSES)


def test_every_parameter_is_in_exactly_one_group(mask2former):
    optimizer = build_optimizer(mask2former, Train())
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in mask2former.parameters() if parameter.requires_grad}


def test_the_backbone_learns_slower_and_norms_biases_and_queries_do_not_decay(mask2former):
    optimizer = build_optimizer(mask2former, Train(backbone_lr=0.1, weight_decay=0.05))
    found = {id(p): (group["scale"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in mask2former.named_parameters():
        if parameter.requires_grad:
            scale, decay = found[id(parameter)]
            assert scale == (0.1 if name.startswith("backbone.") else 1.0), name
            if parameter.ndim == 1 or name.endswith(".bias"):
                assert decay == 0, name
    kinds = {name: decays for name, _, decays in named_roles(mask2former)}
    queries = [name for name in kinds if ("quer" in name and "embedder" in name) or "queries_features" in name or "level_embed" in name]
    assert len(queries) >= 3
    assert not any(kinds[name] for name in queries)
    assert kinds["backbone.stem.0.0.weight"]


def test_frozen_parameters_are_left_out():
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    model["backbone"].requires_grad_(False)
    assert [len(group["params"]) for group in build_optimizer(model, Train()).param_groups] == [1, 1]


def test_rates_by_hand():
    poly = Train(steps=10, lr=1.0, warmup=4, power=1.0)
    rates = [learning_rate(step, poly) for step in range(10)]
    assert rates == pytest.approx([0.25 * 1.0, 0.5 * 0.9, 0.75 * 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    constant = poly.model_copy(update={"schedule": "constant"})
    assert [learning_rate(step, constant) for step in (0, 3, 9)] == [0.25, 1.0, 1.0]
    assert learning_rate(0, Train(lr=0.5)) == 0.5


def test_each_group_gets_its_share(mask2former):
    optimizer = build_optimizer(mask2former, Train(backbone_lr=0.1))
    set_learning_rate(optimizer, 0.02)
    assert {(group["scale"], round(group["lr"], 6)) for group in optimizer.param_groups} == {(0.1, 0.002), (1.0, 0.02)}


def test_the_average_follows_by_one_minus_decay_and_counters_are_copied():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(model[0].weight, 0.0)
    average = AveragedModel(model, 0.9)
    nn.init.constant_(model[0].weight, 1.0)
    model[1].running_mean.fill_(10.0)
    model[1].num_batches_tracked.fill_(7)
    average.update(model, 0)  # decay (1 + 0) / (10 + 0)
    assert average.module[0].weight.item() == pytest.approx(0.9)
    assert average.module[1].running_mean.item() == pytest.approx(9.0)
    assert average.module[1].num_batches_tracked.item() == 7
    average.update(model, 1000)  # decay 0.9
    assert average.module[0].weight.item() == pytest.approx(0.9 + 0.1 * 0.1)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert model[0].weight.item() == 1.0


def test_the_average_of_a_trained_model_does_not_run_after_its_first_steps():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = AveragedModel(model, 0.99, random="head.")
    nn.init.constant_(model.weight, 1.0)
    average.update(model, 0)
    assert average.module.weight.item() == pytest.approx(0.01)


def test_a_new_head_on_a_trained_model_is_averaged_with_a_ramp_from_its_first_step():
    model = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in ("trunk", "head")})
    for part in model.values():
        nn.init.constant_(part.weight, 0.0)
    average = AveragedModel(model, 0.99, random="head.", begin=30)
    for part in model.values():
        nn.init.constant_(part.weight, 1.0)
    average.update(model, 30)
    assert average.module["trunk"].weight.item() == pytest.approx(0.01)
    assert average.module["head"].weight.item() == pytest.approx(0.9)


def test_a_constant_model_is_its_own_average():
    model = nn.Linear(3, 3)
    average = AveragedModel(model, 0.99)
    for step in range(20):
        average.update(model, step)
    torch.testing.assert_close(average.module.weight, model.weight, rtol=0, atol=0)


def by_name(model: nn.Module, train: Train) -> dict[str, tuple[float, float]]:
    """Scale and weight decay of each parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optimizer(model, train).param_groups
    found = {names[id(parameter)]: (group["scale"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())
    return found


def test_rates_fall_from_block_to_block():
    model = nn.ModuleDict({"segmenter": build_segmenter(Model(backbone="vit_adapter_tiny", head="mask2former", **SMALL), CLASSES)})
    found = by_name(model, Train(layer_decay=0.5, weight_decay=0.05))
    trunk = "segmenter.backbone.trunk."
    assert found[f"{trunk}patch_embed.proj.weight"] == (0.5**5, 0.05)
    assert found[f"{trunk}cls_token"] == (0.5**5, 0.0)
    for block in range(4):
        assert found[f"{trunk}blocks.{block}.attn.qkv.weight"] == (0.5 ** (4 - block), 0.05)
        assert found[f"{trunk}blocks.{block}.attn.relative_position_bias_table"] == (0.5 ** (4 - block), 0.0)
        assert found[f"{trunk}blocks.{block}.gamma_1"] == (0.5 ** (4 - block), 0.0)
    for name in ("backbone.spm.stem.0.weight", "backbone.up.weight", "head.classify.weight", "head.pixel_decoder.mask_projection.weight"):
        assert found[f"segmenter.{name}"] == (1.0, 0.05)
    for name in ("backbone.level_embed", "head.transformer.queries_features.weight", "head.classify.bias", "backbone.norm1.weight"):
        assert found[f"segmenter.{name}"] == (1.0, 0.0)


def test_published_groups_slow_the_predictors_and_shrink_tokens_and_tables():
    model = build_segmenter(Model(backbone="one_peace_tiny", head="mask2former", **SMALL), CLASSES)
    sane, published = (by_name(model, Train(layer_decay=0.5, compat=compat)) for compat in (False, True))
    slow = {name for name in sane if sane[name][0] != published[name][0]}
    assert {name.removeprefix("head.transformer.").split(".")[0] for name in slow} == {
        "head",
        "queries_embedder",
        "queries_features",
        "level_embed",
        "decoder",
    }
    assert all(published[name][0] == 0.5**5 and sane[name][0] == 1.0 for name in slow)
    shrunk = {name for name in sane if sane[name][1] != published[name][1]}
    assert all(sane[name][1] == 0 and published[name][1] == 0.05 for name in shrunk)
    assert {"backbone.trunk.image_adapter.pos_embed", "backbone.trunk.encoder.layers.0.rel_pos_table.weight"} <= shrunk


def test_rates_by_layer_need_layers(mask2former):
    with pytest.raises(RecipeError, match="trunk of equal blocks"):
        build_optimizer(mask2former, Train(layer_decay=0.9))
    with pytest.raises(RecipeError, match=r"compat .* set train\.layer_decay"):
        checked(Train, "train", compat=True)


def test_a_step_with_rates_by_layer_moves_each_layer_by_its_rate():
    model = build_segmenter(Model(backbone="beit_tiny", **SMALL), CLASSES)
    optimizer = build_optimizer(model, Train(layer_decay=0.5, weight_decay=0.0))
    set_learning_rate(optimizer, 0.01)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # of AdamW: the first step is as long as the rate
    for name, share in (("backbone.trunk.blocks.0.norm1.bias", 0.5**4), ("backbone.trunk.cls_token", 0.5**5), ("head.classify.bias", 1)):
        moved = (before[name] - model.get_parameter(name)).abs().mean().item()
        assert moved == pytest.approx(0.01 * share, rel=1e-4)
