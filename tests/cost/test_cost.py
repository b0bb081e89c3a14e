"""Costs counted from shapes are those of real tensors, and full-size models are counted in seconds."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from semivss.cost.autocast import MetaAutocast
from semivss.cost.meter import Meter
from semivss.cost.model_cost import TARGETS, build_meta, count_parameters, prediction_cost, step_cost
from semivss.cost.recipe_cost import Machine, expected_classes, labelling_cost, look_cost, recipe_costs, training_cost
from semivss.data.labels import label_set, vspw124
from semivss.errors import RecipeError
from semivss.full_precision import full_precision
from semivss.losses.supervised import supervised_loss
from semivss.models.zoo import build_segmenter
from semivss.recipe import parse_recipe
from semivss.settings import Mask2FormerHead, Model, Predict, Source, Views
from semivss.summary import describe, describe_cost

ROOT = Path(__file__).parents[2]
HEAD = Mask2FormerHead(
    channels=32, queries=16, encoder_layers=2, decoder_layers=2, heads=4, points=256, feedforward=64, encoder_feedforward=64
)
PUBLISHED = Mask2FormerHead(channels=1024, queries=200, heads=32, encoder_feedforward=4096, feedforward=4096)


def recipe(**more):
    train = {"batch": 4, "steps": 10} | more.pop("train", {})
    data = {"train": [{"kind": "toy"}], "augment": {"crop": [64, 64]}} | more.pop("data", {})
    return parse_recipe({"name": "x", "data": data, "train": train} | more)


def test_live_bytes_rise_and_fall_with_tensors():
    meter = Meter()
    with meter:
        kept = torch.empty(1000, device="meta")
        gone = kept + 1
        view = kept[:10]
        del gone
    assert (meter.live, meter.peak) == (4000, 8000)
    assert view.shape == (10,)
    del kept
    assert meter.live == 4000  # the view holds the storage
    del view
    assert meter.live == 0


def test_operations_of_products_and_samples():
    meter = Meter()
    with meter, meter.part("one"):
        torch.empty(3, 5, device="meta") @ torch.empty(5, 7, device="meta")
    with meter, meter.part("two"):
        F.grid_sample(torch.empty(1, 2, 4, 4, device="meta"), torch.empty(1, 3, 3, 2, device="meta"), align_corners=False)
    assert meter.flops == {"one": 2 * 3 * 5 * 7, "two": 8 * 2 * 9}


@pytest.mark.parametrize("backbone", ["vit_adapter_tiny", "one_peace_tiny", "beit_tiny", "swin_tiny", "tiny"])
@pytest.mark.parametrize("recompute", [False, True])
def test_operations_are_those_of_a_real_step(backbone, recompute):
    settings = Model(backbone=backbone, head="mask2former", mask2former=HEAD, recompute=recompute)
    counted = step_cost(build_meta(settings, vspw124(), "cpu"), (64, 96), 2)
    torch.manual_seed(0)
    model = build_segmenter(settings, vspw124()).train()
    stripes = (torch.arange(96) * TARGETS // 96).to(torch.uint8).expand(2, 64, 96).contiguous()
    with FlopCounterMode(display=False) as counter:
        frames = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
        torch.stack([*supervised_loss(model(frames), stripes, settings).values()]).sum().backward()
    assert counted.total_flops == pytest.approx(counter.get_total_flops(), rel=0.2)
    assert sum(counted.parameters.values()) == sum(p.numel() for p in model.parameters())


def test_recomputing_costs_operations_and_saves_memory():
    kept, again = (
        step_cost(build_meta(Model(backbone="vit_adapter_b", head="mask2former", recompute=recompute), vspw124()), (256, 256), 2)
        for recompute in (False, True)
    )
    assert again.peak < 0.6 * kept.peak
    assert 1.1 * kept.total_flops < again.total_flops < 4 / 3 * kept.total_flops
    assert again.flops["backbone"] == kept.flops["backbone"]


def test_bfloat16_as_autocast_has_it():
    x, weight = torch.empty(2, 8, device="meta"), torch.nn.Linear(8, 4, device="meta")
    with MetaAutocast():
        low = weight(x)
        assert (low.dtype, F.layer_norm(low, (4,)).dtype) == (torch.bfloat16, torch.float32)
        with full_precision(x):
            assert weight(x).dtype == torch.float32
    settings = Model(backbone="vit_adapter_tiny", head="mask2former", mask2former=HEAD, recompute=True)
    low, high = (step_cost(build_meta(settings, vspw124()), (128, 128), 4, bf16=bf16) for bf16 in (True, False))
    assert low.peak < high.peak
    assert low.total_flops == high.total_flops


@pytest.mark.parametrize(
    ("backbone", "millions", "tera"),
    [("vit_adapter_l", 570.8, 7.28), ("one_peace_l", 1822.9, 17.02), ("swin_l", 433.6, None), ("beit_l", 557.8, None)],
)
def test_full_size_models_are_counted_in_seconds(backbone, millions, tera):
    began = time.process_time()
    model = build_meta(Model(backbone=backbone, head="mask2former", mask2former=PUBLISHED), label_set("coco_stuff171"))
    assert sum(count_parameters(model).values()) / 1e6 == pytest.approx(millions, abs=0.06)
    if tera is not None:
        assert prediction_cost(model, (896, 896), 1, (480, 853)).flops / 1e12 == pytest.approx(tera, abs=0.02)
    assert all(p.is_meta for p in model.parameters())
    assert time.process_time() - began < 20


def test_memory_by_part_and_what_sharding_leaves_of_it():
    masks = {"backbone": "one_peace_tiny", "head": "mask2former", "mask2former": HEAD.model_dump(), "recompute": True}
    labels = expected_classes(Source(kind="toy"))
    costs = {
        sharding: training_cost("student", recipe(model=masks, train={"sharding": sharding, "ema": 0.9}), labels, Machine(processes=4))
        for sharding in ("none", "full")
    }
    learned = 4 * sum(costs["none"].parameters.values())
    assert costs["none"].memory["gradients"] == learned
    assert costs["none"].memory["AdamW"] == 2 * learned
    assert costs["full"].memory["AdamW"] == 2 * learned // 4
    assert costs["full"].memory["average"] == costs["none"].memory["average"]
    assert costs["none"].step.activations < costs["none"].step.peak - costs["none"].step.weights
    kept = costs["none"].step.activations  # up to what is remembered of sizes from the first count on
    assert costs["full"].memory["activations"] == pytest.approx(kept, rel=0.05)
    assert kept > costs["none"].memory["activations"]
    assert costs["none"].crops == 1
    assert costs["none"].flops == 4 * costs["none"].step.total_flops


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(RecipeError, match=r"train\.batch 4 cannot be shared out among 3 processes; give --processes a divisor"):
        describe_cost(recipe(), Machine(processes=3))


def test_windows_of_the_published_views():
    # by hand: 2, 2, 2, 3, 6, 8, 8 and 10 windows of 896 for a frame of 480x853 at short sides of 512 to 1408
    scales = tuple(side / 896 for side in range(512, 1409, 128))
    views = Views(scales=scales, flip=True, crop=(896, 896), stride=(512, 512), short_side=896)
    look = look_cost(Model(backbone="tiny"), views, 1, vspw124(), Machine())
    both, single = (labelling_cost("x", [look, look], Predict(views=views), 10, Machine(), together=together) for together in (True, False))
    assert (both.views, both.windows, both.flops) == (2 * len(scales), 82, 2 * look.flops)
    assert both.peak - single.peak == look.weights


def test_classes_come_from_the_kind_of_the_data():
    sources = [
        Source(kind="coco_stuff", path="x"),
        Source(kind="coco_stuff", path="x", remap="coco_stuff171_to_vspw124"),
        Source(kind="toy"),
        Source(kind="folder", path="x"),
    ]
    assert [len(expected_classes(source)) for source in sources] == [171, 124, 12, 124]


def test_text_of_show_and_of_show_cost():
    semi = {"data": {"train": [{"kind": "toy"}], "unlabelled": [{"kind": "toy"}], "val": {"kind": "toy"}, "augment": {"crop": [64, 64]}}}
    made = recipe(teacher={}, semi={"train": {"batch": 2}, "unlabelled_batch": 2}, **semi)
    text = describe(made)
    for word in ("# parameters", "# training memory", "# retraining", "# teacher", "# pseudo labels", "# predict"):
        assert word in text
    text = describe_cost(made, Machine(processes=2, device="cpu", speed=1e12))
    for word in (
        "# Cost on 2 CPUs at 1 TFLOP/s each",
        "# teacher",
        "# student",
        "# retrained",
        "with model.recompute",
        "# predict val",
        "# all",
    ):
        assert word in text


def test_hours_are_those_of_the_device_and_the_precision():
    labels = expected_classes(Source(kind="toy"))
    hours = {
        (device, precision): training_cost("student", recipe(train={"precision": precision}), labels, Machine(device=device)).hours
        for device in ("gpu", "cpu")
        for precision in ("32", "bf16")
    }
    assert hours["cpu", "32"] is None
    assert hours["gpu", "32"] == pytest.approx(350 / 45 * hours["gpu", "bf16"], rel=1e-6)
    assert "give --tflops" in describe_cost(recipe(), Machine(device="cpu"))
    assert "TFLOP/s" not in describe_cost(recipe(), Machine(device="cpu"))


def test_the_total_has_rounds_controls_and_evaluations():
    toy = {"kind": "toy", "toy": {"clips": 2, "frames": 4}}
    data = {"train": [toy], "unlabelled": [toy], "val": toy, "augment": {"crop": [64, 64]}}
    made = recipe(data=data, semi={"rounds": 3, "controls": ["supervised"], "train": {"batch": 4, "steps": 7}}, train={"evaluate_every": 4})
    trainings, labellings = recipe_costs(made, Machine())
    assert [cost.name for cost in trainings] == ["student", "retrained", "control"]
    assert [(cost.evaluation.frames, cost.evaluation.times) for cost in trainings] == [(8, 3), (8, 1), (8, 1)]
    each = [cost.hours + cost.evaluation.hours for cost in trainings]
    expected = each[0] + 3 * each[1] + each[2] + 3 * labellings[0].hours + sum(cost.hours for cost in labellings[1:])
    line = describe_cost(made, Machine()).splitlines()[-1]
    assert f"{expected * 3600:,.1f} seconds" in line


def test_evaluation_needs_less_one_frame_at_a_time_and_in_bfloat16():
    labels = expected_classes(Source(kind="toy"))
    masks = {"backbone": "vit_adapter_tiny", "head": "mask2former", "mask2former": HEAD.model_dump()}
    data = {"val": {"kind": "toy"}, "augment": {"crop": [64, 64], "short_side": 256}}

    def peak(**train):
        return training_cost("student", recipe(model=masks, data=data, train=train), labels, Machine()).evaluation.peak

    whole = peak()
    assert peak(evaluate_batch=1) < 0.6 * whole
    assert peak(precision="bf16") < whole


def test_counted_memory_is_within_a_fifth_of_a_real_step():
    case = {"backbone": "vit_adapter_tiny", "crop": 256, "crops": 4}
    quick = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, ROOT / "benchmarks" / "show_cost.py", "--child", json.dumps(case)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | quick, check=True)
    rows = {row["what"]: row["ratio"] for row in map(json.loads, done.stdout.splitlines())}
    assert rows["peak memory of a training step"] == pytest.approx(1, abs=0.2)
    assert rows["operations of a training step"] == pytest.approx(1, abs=0.2)
    assert rows["operations of a prediction"] == pytest.approx(1, abs=0.2)
