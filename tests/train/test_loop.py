"""The loop learns, writes what it promises, and survives steps without a finite result."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image

from semivss.data.pseudo import PseudoFolder
from semivss.errors import DataError, DefectError, SemivssError
from semivss.losses.matcher import NonFiniteCost
from semivss.metrics.confusion import Confusion
from semivss.models.segmenter import Segmenter
from semivss.plan import training
from semivss.recipe import Recipe, parse_recipe
from semivss.train import loop, method
from semivss.train.loop import train
from semivss.train.too_large import too_large_crops


def changed(recipe: Recipe, **sections) -> Recipe:
    updates = {name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()}
    return recipe.model_copy(update=updates)


def journal(out):
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_it_learns_and_leaves_everything_promised(recipe, tmp_path):
    out = tmp_path / "run"
    train(recipe, out)
    rows = journal(out)
    assert [row["step"] for row in rows] == ["5", "10", "15", "20", "25", "30", "35", "40"]
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert rows[3]["val_miou"]
    assert not rows[4]["val_miou"]
    assert float(rows[-1]["val_miou"]) > 0.5
    model = Segmenter.from_pretrained(out / "model")
    assert model.label_set.names == ("red", "green", "blue")
    assert list(out.glob("events.out.tfevents.*"))
    assert json.loads((out / "defects.json").read_text()) == {}
    for step in (20, 40):
        panel = Image.open(out / "panels" / f"{step:06d}.png")
        assert panel.width > panel.height > 400  # two frames, four cells wide
        assert len(panel.getcolors(1 << 20)) > 100


def test_the_saved_model_is_the_best_one_not_the_last(recipe, tmp_path, monkeypatch):
    recipe = changed(recipe, train={"steps": 6, "evaluate_every": 2})
    original, models = loop.evaluate, []

    def evaluate(model, *arguments, **more):
        models.append({key: value.clone() for key, value in model.state_dict().items()})
        _, rows = original(model, *arguments, **more)
        right = (1, 9, 4)[len(models) - 1]  # the second evaluation is the best
        return Confusion(3, np.pad(np.diag([right] * 3) + np.eye(3, k=1, dtype=int) * (10 - right), ((0, 1), (0, 1)))), rows

    monkeypatch.setattr(loop, "evaluate", evaluate)
    train(recipe, tmp_path / "run")
    saved = Segmenter.from_pretrained(tmp_path / "run" / "model").state_dict()
    assert all(torch.equal(value, models[1][key]) for key, value in saved.items())
    assert not all(torch.equal(value, models[2][key]) for key, value in saved.items())


def test_without_validation_data_the_latest_weights_are_kept(recipe, tmp_path):
    recipe = changed(recipe, data={"val": None}, train={"steps": 3, "checkpoint_every": 2})
    train(recipe, tmp_path / "run")
    ema = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["ema"]
    saved = Segmenter.from_pretrained(tmp_path / "run" / "model").state_dict()
    assert all(torch.equal(value, ema[f"segmenter.{key}"]) for key, value in saved.items())


def break_steps(patch, bad, how):
    """Let the loss of the optimiser steps `bad` (numbers from 0) not be finite."""
    original, calls = method.supervised_loss, []

    def loss(output, labels, settings, generator, *rest):
        calls.append(1)
        terms = original(output, labels, settings, generator, *rest)
        if len(calls) - 1 not in bad:
            return terms
        if how == "cost":
            raise NonFiniteCost("no assignment")
        return {name: term * float("nan") if how == "loss" else NanGradient.apply(term) for name, term in terms.items()}

    patch.setattr(method, "supervised_loss", loss)


class NanGradient(torch.autograd.Function):
    """The identity with a gradient that is not a number."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * float("nan")


@pytest.mark.parametrize("how", ["cost", "loss", "gradient"])
def test_a_step_without_a_finite_result_is_skipped_and_counted(recipe, tmp_path, monkeypatch, how):
    recipe = changed(recipe, train={"steps": 8})
    with monkeypatch.context() as patch:
        break_steps(patch, {2, 3, 5}, how)
        train(recipe, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert state["counters"]["skipped"] == 3
    assert state["counters"]["skipped_in_a_row"] == 0
    assert all(value.isfinite().all() for value in state["model"].values())
    assert next(iter(state["optimizer"]["state"].values()))["step"] == 5
    assert journal(tmp_path / "run")[-1]["skipped"] == "3"


def test_ten_in_a_row_stop_with_the_samples_named_and_a_checkpoint(recipe, tmp_path, monkeypatch):
    recipe = changed(recipe, train={"steps": 20, "checkpoint_every": 1000})
    with monkeypatch.context() as patch:
        break_steps(patch, set(range(3, 40)), "cost")
        with pytest.raises(SemivssError) as caught:
            train(recipe, tmp_path / "run")
    assert "10 steps in a row" in str(caught.value)
    assert "tiny_world/" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["counters"]["step"] == 13
    train(recipe, tmp_path / "run")  # the cause is gone: goes on
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["counters"]["step"] == 20


def test_a_skipped_step_leaves_weights_statistics_and_average_alone(recipe, tmp_path, monkeypatch):
    kept = []
    original = loop.train_step

    def watched(fabric, training, *rest):
        before = [{name: value.clone() for name, value in part.state_dict().items()} for part in (training.module, training.average)]
        kept.append((before, original(fabric, training, *rest), training))
        return kept[-1][1]

    monkeypatch.setattr(loop, "train_step", watched)
    with monkeypatch.context() as patch:
        break_steps(patch, {3}, "gradient")
        train(changed(recipe, train={"steps": 5, "ema": 0.5}), tmp_path / "run")
    (_, skipped, training), after = kept[3], kept[4][0]
    assert skipped.skipped
    assert any("num_batches_tracked" in name for name in training.module.state_dict())
    for old, new in zip(kept[3][0], after, strict=True):
        assert all(torch.equal(value, new[name]) for name, value in old.items())
    assert not all(torch.equal(value, kept[2][0][0][name]) for name, value in kept[3][0][0].items())  # other steps do change them


def test_damaged_files_stop_training_or_are_counted(recipe, world, tmp_path):
    frame = world / "data" / "a" / "origin" / "00000002.png"
    frame.write_bytes(frame.read_bytes()[:60])
    with pytest.raises(DefectError, match=r"00000002.png: "):
        train(recipe, tmp_path / "strict")
    train(changed(recipe, train={"steps": 12}, data={"policy": "skip", "workers": 2}), tmp_path / "skip")
    (kind,) = (defects := json.loads((tmp_path / "skip" / "defects.json").read_text()))
    assert defects[kind] == {"count": 1, "files": [str(frame)]}


def test_validation_of_other_classes_is_refused(recipe, world, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(world, other)
    (other / "label_num_dic_final.json").write_text(json.dumps({"others": "0", "red": "1", "green": "2", "grey": "3"}))
    with pytest.raises(DataError, match=r"has the classes of"):
        train(changed(recipe, data={"val": recipe.data.val.model_copy(update={"path": str(other)})}), tmp_path / "run")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(recipe, tmp_path):
    recipe = changed(recipe, train={"steps": 3}, data={"val": None})
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(changed(recipe, train={"seed": seed}), tmp_path / name)
    a, b, c = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_accumulated_halves_equal_one_batch(recipe, tmp_path, monkeypatch):
    """Without augmentation and batch statistics, every image once: gradients of two halves add up to that of the whole."""
    monkeypatch.setattr(torch.nn, "BatchNorm2d", lambda channels: torch.nn.GroupNorm(1, channels))
    still = recipe.data.augment.model_copy(
        update={"crop": (48, 64), "scale": (1.0, 1.0), "flip": 0.0, "photometric": False, "max_class_share": 1.0}
    )
    plain = changed(recipe, data={"val": None, "augment": still}, model={"pixel": recipe.model.pixel.model_copy(update={"dropout": 0.0})})
    norms = []
    for batch, accumulate in ((8, 1), (4, 2)):
        out = tmp_path / f"{batch}"
        train(changed(plain, train={"steps": 1, "batch": batch, "accumulate": accumulate, "warmup": 0, "log_every": 1}), out)
        norms.append((float(journal(out)[0]["gradient_norm"]), float(journal(out)[0]["loss"])))
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)


FULL = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(FULL), MemoryError()], ids=type)
def test_crops_that_do_not_fit_memory_are_told_in_one_line_with_remedies(recipe, tmp_path, monkeypatch, error):
    def fail(*_given):
        raise error

    monkeypatch.setattr(loop, "train_step", fail)
    with pytest.raises(SemivssError) as caught:
        train(recipe, tmp_path / "run")
    told = str(caught.value)
    assert told.startswith("tiny: out of memory with 2 crops of 32x48 in 1 process, in step 1; set model.recompute = true, ")
    assert told.endswith("or lower data.augment.crop (semivss show --cost tells what each needs)")
    assert "\n" not in told


def test_frames_and_loading_that_do_not_fit_are_not_laid_to_the_crops(recipe, tmp_path, monkeypatch):
    def fail(*_given, **_more):
        raise torch.OutOfMemoryError("CUDA out of memory")

    short = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 1})})
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", fail)
        with pytest.raises(
            SemivssError, match=r"4 whole frames at a time, in the evaluation after step 1; lower train.evaluate_batch, set"
        ):
            train(short, tmp_path / "one")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "build_segmenter", fail)
        with pytest.raises(
            SemivssError, match=r"out of memory with a model round \S+, before the first step; choose a smaller model.backbone or"
        ):
            train(short, tmp_path / "three")
    monkeypatch.setattr(loop.Supervised, "batches", lambda *_given: map(fail, [1]))
    with pytest.raises(SemivssError, match=r"out of memory with 0 loader processes and a cache of 256 MB in each, while frames were read"):
        train(short, tmp_path / "two")


def test_keys_of_what_does_not_fit_are_those_of_the_stage(recipe, monkeypatch):
    tree = recipe.model_dump(mode="json") | {"semi": {"mode": "offline", "retrain_teacher": True}, "teacher": {"train": {}}}
    whole = parse_recipe(tree | {"data": tree["data"] | {"unlabelled": tree["data"]["train"], "sampling": {"offsets": [1, 2]}}})
    told = []

    def remember(own, folder, *, sections, given=None):
        told.append((folder.name, str(too_large_crops(own, sections, Fabric(accelerator="cpu", devices=1), 1))))

    monkeypatch.setattr(loop, "train", remember)
    monkeypatch.setattr("semivss.plan.open_pseudo", lambda *_given, **_more: object.__new__(PseudoFolder))
    for step in training(whole, Path("run")):
        if step.together:
            step.make()
    lines = dict(told)
    assert "set model.recompute = true" in lines["student"]
    assert "with 6 crops of" in lines["student"]
    assert "lower train.batch and raise train.accumulate" in lines["student"]
    assert "set teacher.model.recompute = true" in lines["teacher"]
    assert "lower teacher.train.batch and raise teacher.train.accumulate" in lines["teacher"]
    for name in ("retrained", "retrained_teacher"):
        assert "lower semi.train.batch and semi.unlabelled_batch and raise semi.train.accumulate" in lines[name]
    assert "set teacher.model.recompute = true" in lines["retrained_teacher"]


def test_other_errors_of_torch_stay_what_they_are(recipe, tmp_path, monkeypatch):
    def fail(*_given):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(loop, "train_step", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(recipe, tmp_path / "run")
