"""Two gloo processes train as one: the same weights on both, and the integer scores of a single process."""

import pytest
import torch
from children import equal, run_label, start, train_ddp, wait

from semivss.data.policy import DefectCounter
from semivss.data.source import open_source
from semivss.infer.views import View
from semivss.models.segmenter import Segmenter
from semivss.recipe import Recipe
from semivss.train.evaluate import Validation, evaluate


def short(recipe: Recipe, **values) -> Recipe:
    return recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"steps": 6, "evaluate_every": 6, "checkpoint_every": 3} | values)}
    )


@pytest.fixture
def ended(recipe, tmp_path):
    return train_ddp(short(recipe), tmp_path / "run")


def test_ddp_ranks_end_with_identical_weights_and_one_set_of_files(ended, tmp_path):
    first, second = ended
    assert equal(first["model"], second["model"])
    assert equal(first["best"], second["best"])
    saved = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert equal({f"segmenter.{name}": value for name, value in first["model"].items()}, saved["model"])
    assert saved["counters"]["step"] == 6
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "5", "6"]
    assert len(list((tmp_path / "run").glob("events.*"))) == 1


def test_ddp_scores_are_the_integer_counts_of_one_process(ended, recipe, tmp_path):
    model = Segmenter.from_pretrained(tmp_path / "run" / "model")
    validation = Validation.of(open_source(recipe.data.val), "strict", View())
    confusion, _ = evaluate(model, validation, 0, DefectCounter())
    assert confusion.counts.sum() == 4 * 48 * 64
    assert [rank["counts"] for rank in ended] == [[confusion.counts.tolist()]] * 2


@pytest.mark.parametrize("backbone", ["vit_adapter_tiny"])
def test_ddp_trains_a_trunk_with_rates_by_layer_and_recomputed_layers(recipe, tmp_path, backbone):
    model = recipe.model.model_copy(update={"backbone": backbone, "recompute": True, "drop_path": 0.1})
    first, second = train_ddp(short(recipe.model_copy(update={"model": model}), layer_decay=0.9), tmp_path / "run")
    assert equal(first["model"], second["model"])


def test_ddp_skips_a_step_on_both_when_one_has_no_finite_loss(recipe, tmp_path):
    first, second = train_ddp(short(recipe), tmp_path / "run", failing_step=2)
    assert first["skipped"] == second["skipped"] == 1
    assert equal(first["model"], second["model"])


def test_ddp_killed_and_resumed_ends_with_the_same_bytes(ended, recipe, tmp_path):
    out = tmp_path / "broken"
    train_ddp(short(recipe), out, last_step=4)
    assert torch.load(out / "last.ckpt", weights_only=True)["counters"]["step"] == 3
    resumed = train_ddp(short(recipe), out)
    for rank, other in zip(ended, resumed, strict=True):
        assert equal(rank["model"], other["model"])
        assert equal(rank["best"], other["best"])


def test_labels_of_a_damaged_teacher_are_refused_on_both_processes(tmp_path):
    ranks = [start(run_label, rank, tmp_path / "meeting") for rank in range(2)]
    assert [wait(rank) for rank in ranks] == [0, 0]
