"""Two gloo processes that share out a model: the losses and weights of one process, and checkpoints that serve any number of them."""

import pytest
import torch
from children import equal, free_port, run_steps, start, train_ddp, wait

from semivss.data.labels import LabelSet
from semivss.models.zoo import build_segmenter
from semivss.posterior import class_distribution
from semivss.recipe import Recipe
from semivss.settings import Model
from semivss.train.loop import train
from semivss.train.sharding import whole_module

MASKS = {"channels": 32, "queries": 8, "encoder_layers": 1, "decoder_layers": 2, "heads": 4, "points": 256}
MODEL = {"backbone": "one_peace_tiny", "recompute": True, "head": "mask2former", "mask2former": MASKS}


def tiny(recipe: Recipe, model: dict | None = None, **settings) -> Recipe:
    """ONE-PEACE in its smallest size with recomputed layers and rates by layer, shared out."""
    short = {"steps": 4, "evaluate_every": 4, "checkpoint_every": 2, "log_every": 1, "ema": 0.0, "layer_decay": 0.9, "lr": 1e-3}
    own = recipe.train.model_dump() | short | {"sharding": "full"} | settings
    return Recipe.model_validate(recipe.model_dump() | {"model": MODEL | (model or {}), "train": own})


def test_shards_on_two_processes_train_as_one_process_does(recipe, tmp_path):
    # factors of 1e-6 would leave gradients of rounding errors, to which AdamW gives full steps
    shared = tiny(recipe, {"trunk": {"injector_scale": 1.0, "layer_scale": 0.5}}, clip=1.0)
    port = free_port()
    ranks = [start(run_steps, rank, 2, port, shared, tmp_path, 4) for rank in range(2)]
    alone = start(run_steps, 0, 1, port, tiny(recipe, shared.model.model_dump(), accumulate=2), tmp_path, 4)
    assert [wait(one) for one in (*ranks, alone)] == [0, 0, 0]
    first, second, one = (torch.load(tmp_path / f"steps{name}.pt", weights_only=True) for name in ("2_0", "2_1", "1_0"))
    assert (first["sharded"], one["sharded"]) == (True, False)
    assert (first["units_shared_out"], one["units_shared_out"]) == (True, False)  # each by itself, not the model as a whole alone
    assert first["parts"] > 0.9 * len(first["after"])  # nearly all parameters are cut; a vector of one number cannot be
    assert equal(first["after"], second["after"])
    both = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert both == pytest.approx(one["losses"], rel=1e-3)
    assert first["norms"] == pytest.approx(one["norms"], rel=1e-2)
    apart, gone = (
        torch.stack([(left[name] - right[name]).double().norm() for name in one["after"]]).norm()
        for left, right in ((first["after"], one["after"]), (one["after"], one["before"]))
    )
    assert apart < 0.02 * gone


def test_shards_killed_and_resumed_end_as_undisturbed_and_go_on_in_one_process(recipe, tmp_path):
    settings = tiny(recipe, ema=0.9)
    undisturbed = train_ddp(settings, tmp_path / "undisturbed")
    assert equal(undisturbed[0]["model"], undisturbed[1]["model"])
    saved = torch.load(tmp_path / "undisturbed" / "last.ckpt", weights_only=True)
    assert equal({f"segmenter.{name}": value for name, value in undisturbed[0]["model"].items()}, saved["model"])
    out = tmp_path / "broken"
    train_ddp(settings, out, last_step=3)
    halfway = torch.load(out / "last.ckpt", weights_only=True)
    assert halfway["counters"]["step"] == 2
    resumed = train_ddp(settings, out)
    assert equal(resumed[0]["model"], undisturbed[0]["model"])
    assert equal(resumed[1]["best"], undisturbed[0]["best"])
    torch.save(halfway, out / "last.ckpt")
    train(tiny(recipe, ema=0.9, sharding="none"), out)
    assert torch.load(out / "last.ckpt", weights_only=True)["counters"]["step"] == 4


def test_shards_without_an_average_are_evaluated_and_saved_whole(recipe, tmp_path):
    first, second = train_ddp(tiny(recipe, steps=2, evaluate_every=2), tmp_path / "run")
    assert equal(first["best"], first["model"])
    assert first["counts"] == second["counts"]
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_model_put_together_tells_the_same_classes(tmp_path):
    black = (0, 0, 0)
    build_segmenter(Model(), LabelSet("pets", ("cat", "dog"), (black, black), ())).save_pretrained(tmp_path)
    model = build_segmenter(Model(weights=str(tmp_path)), LabelSet("pets", ("dog", "cat"), (black, black), ())).eval()
    together = whole_module(model).eval()
    frames = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    expected, found = (class_distribution(one(frames), (32, 32), one.rule) for one in (model, together))
    assert not torch.equal(expected, expected.flip(1))
    assert torch.equal(found, expected)


def test_shards_leave_nothing_of_a_skipped_step_behind(recipe, tmp_path):
    settings = tiny(recipe, accumulate=2, clip=1.0)
    port = free_port()
    ranks = [start(run_steps, rank, 2, port, settings, tmp_path, 2, 1) for rank in range(2)]
    assert [wait(one) for one in ranks] == [0, 0]
    skipped = torch.load(tmp_path / "steps2_0.pt", weights_only=True)
    assert skipped["losses"][0] == 0
    port = free_port()
    ranks = [start(run_steps, rank, 2, port, settings, tmp_path, 1) for rank in range(2)]
    assert [wait(one) for one in ranks] == [0, 0]
    fresh = torch.load(tmp_path / "steps2_0.pt", weights_only=True)
    assert skipped["norms"][1] == pytest.approx(fresh["norms"][0], rel=1e-6)
    assert skipped["losses"][1] == pytest.approx(fresh["losses"][0], rel=1e-6)
