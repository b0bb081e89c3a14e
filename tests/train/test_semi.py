"""Retraining on pseudo labels: it runs in every mode, resumes bitwise in the middle, and refuses what does not fit."""

import contextlib
import csv
import dataclasses
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from children import equal, free_port, run_anywhere, start, train_ddp, wait
from lightning_fabric import Fabric
from PIL import Image
from same import assert_same
from semi_world import STEPS, semi_recipe

from semivss.data.codes import BIN_WIDTH, BINS, HIGHEST
from semivss.data.loader import labelled_batches
from semivss.data.pseudo import open_pseudo
from semivss.errors import DataError, SemivssError, WeightsError
from semivss.losses.matcher import NonFiniteCost
from semivss.models.segmenter import Segmenter
from semivss.pipeline import run
from semivss.plan import retraining_recipe, supervised_recipe
from semivss.settings import Teacher, Threshold
from semivss.tensors import IGNORE
from semivss.train import loop
from semivss.train.contrast import Contrast
from semivss.train.loop import train
from semivss.train.method import Given
from semivss.train.objective import SemiObjective
from semivss.train.previous import PreviousTeachers
from semivss.train.targets import Targets
from semivss.train.threshold import alpha_at, cut, surest


def retrain(labelled_run: Path, out: Path, **semi) -> list[dict[str, str]]:
    """Retrain into `out` from the fixture's student and pseudo labels; the journal."""
    recipe = retraining_recipe(semi_recipe(labelled_run / "tiny_world", **semi))
    offline = recipe.semi.mode == "offline"
    pseudo = [open_pseudo(labelled_run / "run" / "pseudo")] if offline else None
    train(recipe, out, given=Given(labelled_run / "run" / "student" / "model", pseudo))
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_no_two_trainings_of_a_run_see_the_same_crops(labelled_run):
    recipe = semi_recipe(labelled_run / "tiny_world", rounds=2, retrain_teacher=True)
    recipe = recipe.model_copy(update={"teacher": Teacher(model=recipe.model)})
    roles = ("teacher", "student")
    trainings = [supervised_recipe(recipe, role) for role in roles]
    trainings += [retraining_recipe(recipe, role, number) for role in roles for number in (1, 2)]
    first = [next(iter(labelled_batches(one.data, one.train))).frames for one in trainings]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(first, 2))
    control = retraining_recipe(recipe.model_copy(update={"semi": recipe.semi.model_copy(update={"mode": "supervised"})}))
    assert torch.equal(next(iter(labelled_batches(control.data, control.train))).frames, first[4])  # only what it is compared with does


MODES = {
    "offline": {},
    "online": {"mode": "online"},
    "online, aligned": {"mode": "online", "align": 0.5},
    "online, earlier teachers": {"mode": "online", "previous": 2, "previous_every": 2},
    "without contrast": {"contrast": {"weight": 0}},
    "own features": {"contrast": {"teacher": "self", "stride": 8}},
    "published sets": {"contrast": {"anchor_set": "code", "prototypes": True}},
    "two views": {"strong": {"views": 2, "mix": "classmix", "mix_chance": 1.0}},
    "dataset percentile": {"threshold": {"kind": "dataset_percentile", "per_class": True}},
    "a share of the crops": {"contrast": {"share": 0.5}},
    "bf16": {"train": {"precision": "bf16"}},
    "absolute": {"mode": "online", "threshold": {"kind": "absolute", "gamma": 1.2}},
}


@pytest.mark.parametrize("semi", MODES.values(), ids=MODES.keys())
def test_every_mode_trains(labelled_run, tmp_path, semi):
    rows = retrain(labelled_run, tmp_path / "out", **semi)
    assert len(rows) == STEPS / 2
    assert all(float(row["loss_unlabelled_cross_entropy"]) > 0 for row in rows)
    assert all(0 < float(row["reliable"]) <= 1 for row in rows)
    if semi.get("contrast", {}).get("weight") == 0:
        assert "loss_contrast" not in rows[0]
    else:
        assert float(rows[-1]["loss_contrast"]) > 0


def test_the_last_states_of_the_teacher_are_kept_and_drawn():
    model = torch.nn.Linear(1, 1, bias=False)
    teachers, generator = PreviousTeachers(model, most=2, every=10, device=torch.device("cpu")), torch.Generator().manual_seed(0)
    assert teachers.draw(generator) == []
    for step in range(35):
        torch.nn.init.constant_(model.weight, float(step))
        teachers.look(model, step)
        teachers.look(model, step)  # the second micro-batch of the step
    assert {teachers.draw(generator)[0].weight.item() for _ in range(20)} == {20.0, 30.0}
    assert not any(parameter.requires_grad for parameter in teachers.draw(generator)[0].parameters())
    resumed = PreviousTeachers(model, most=2, every=10, device=torch.device("cpu"))
    resumed.load_state_dict(teachers.state_dict())
    assert {resumed.draw(generator)[0].weight.item() for _ in range(20)} == {20.0, 30.0}


def test_earlier_teachers_need_the_online_mode(labelled_run):
    with pytest.raises(SemivssError, match=r"semi\.previous needs mode online"):
        semi_recipe(labelled_run / "tiny_world", previous=2)


def test_the_average_of_the_students_weights_keeps_its_decay_from_the_first_step(labelled_run, tmp_path):
    retrain(labelled_run, tmp_path / "out", mode="online", train={"steps": 1, "ema": 0.9, "log_every": 1, "checkpoint_every": 1})
    begun = Segmenter.from_pretrained(labelled_run / "run" / "student" / "model").state_dict()
    saved = torch.load(tmp_path / "out" / "last.ckpt", weights_only=True)
    for name, first in begun.items():
        if first.is_floating_point():
            stepped, average = (saved[key][f"segmenter.{name}"] for key in ("model", "ema"))
            torch.testing.assert_close(average, first + 0.1 * (stepped - first))


def test_each_channel_goes_to_one_of_the_two_views():
    from semivss.train.objective import deal_out_channels

    dealt = torch.tensor([True, False, True])
    pyramid = [torch.ones(2 + 6, 40, 2, 3), torch.ones(2 + 6, 7, 1, 1)]
    for maps in deal_out_channels(pyramid, dealt, torch.Generator().manual_seed(0)):
        labelled, first, second = maps.split([2, 3, 3])
        assert (labelled == 1).all()
        assert torch.equal(first + second, torch.full_like(first, 2))
        assert (first[1] == 1).all()
        assert set(first[dealt].unique().tolist()) == {0, 2}
        assert not torch.equal(first[0], first[2])


def test_the_contrastive_loss_may_see_the_first_crops_alone(labelled_run):
    """Half of 2 labelled and 3 unlabelled crops are 1 and 2: what the others show changes L_c only where it sees them."""

    def term(share: float, changed: int) -> float:
        semi = semi_recipe(labelled_run / "tiny_world", contrast={"share": share, "teacher": "self", "confidence": 0}).semi
        model = Segmenter.from_pretrained(labelled_run / "run" / "student" / "model")
        torch.manual_seed(0)
        objective = SemiObjective(model, semi).eval()  # in training the statistics of the batch would tie the crops together
        generator = torch.Generator().manual_seed(0)
        frames = torch.randint(256, (5, 3, 32, 48), dtype=torch.uint8, generator=generator)
        labels = torch.randint(len(model.label_set), (5, 32, 48), dtype=torch.uint8, generator=generator)
        doubt = torch.rand(3, 32, 48, generator=generator)
        frames[changed] = 0
        targets = Targets(frames[None, 2:], labels[2:], doubt, 0.5, None)
        contrast = Contrast(semi.contrast, model.label_set, model.rule, 500, torch.device("cpu"))
        return float(objective(frames[:2], labels[:2], targets, contrast, generator)["contrast"].detach())

    whole, part = ([term(share, changed) for changed in range(5)] for share in (1.0, 0.5))
    assert len(set(whole)) == 5
    assert part[1] == part[4]  # neither of the two is seen
    assert len(set(part)) == 4


def test_the_control_sees_no_unlabelled_frame(labelled_run, tmp_path):
    rows = retrain(labelled_run, tmp_path / "out", mode="supervised")
    assert "loss_cross_entropy" in rows[0]
    assert not {"loss_unlabelled_cross_entropy", "loss_contrast", "reliable"} & rows[0].keys()


def test_the_first_steps_may_be_supervised_alone(labelled_run, tmp_path):
    rows = retrain(labelled_run, tmp_path / "out", supervised_steps=4)
    assert [row["loss_unlabelled_cross_entropy"] != "" for row in rows] == [False, False, True, True]


def test_the_linear_schedule_ends_with_all_pixels(labelled_run, tmp_path):
    rows = retrain(labelled_run, tmp_path / "out", threshold={"alpha": 40}, train={"log_every": 1})
    shares = [float(row["reliable"]) for row in rows]
    assert [float(row["alpha"]) for row in rows] == pytest.approx([40 * (1 - step / STEPS) for step in range(STEPS)])
    assert abs(shares[0] - 0.6) < 0.1
    assert abs(shares[-1] - (1 - 0.4 / STEPS)) < 0.03


@contextlib.contextmanager
def power_cut(step: int) -> Iterator[list[object]]:
    """A death in training step `step`; gives what the steps before it returned."""
    original, done = loop.train_step, []

    def dying(*arguments):
        done.append(original(*arguments))
        if len(done) == step:
            raise RuntimeError("power cut")
        return done[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", dying)
        with pytest.raises(RuntimeError, match="power cut"):
            yield done


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_interrupted_anywhere_it_ends_bitwise_equal(labelled_run, tmp_path, mode):
    settings = {"mode": mode, "contrast": {"prototypes": True}} | (
        {"previous": 2, "previous_every": 2, "align": 1.0} if mode == "online" else {}
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    retrain(labelled_run, whole, **settings)
    with power_cut(5) as done:
        retrain(labelled_run, broken, **settings)
    retrain(labelled_run, broken, **settings)
    assert len(done) == 5
    assert_same(whole, broken)
    kept = torch.load(whole / "last.ckpt", weights_only=True)["method"]
    assert kept["bank"]["rows"].any()
    assert kept["prototypes"]["rows"].any()


def test_classes_that_the_contrastive_loss_passes_by_are_told(labelled_run, tmp_path, capsys):
    retrain(labelled_run, tmp_path / "out", contrast={"confidence": 1.0})
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("contrastive loss:")]
    assert told
    assert all("nothing for 2 batches from" in line for line in told)  # a quarter of the steps
    assert all(any(name in line for line in told) for name in ("red (0)", "green (1)", "blue (2)"))
    assert any("no anchor, mostly" in line for line in told)


def test_ddp_a_class_that_takes_part_on_any_process_is_not_passed_by(tmp_path):
    port = free_port()
    ranks = [start(run_anywhere, rank, 2, port, tmp_path) for rank in range(2)]
    assert [wait(one) for one in ranks] == [0, 0]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [["", "", "empty queue"]] * 2


def test_corrected_labels_alone_may_be_learnt(labelled_run, tmp_path):
    pseudo = Path(shutil.copytree(labelled_run / "run" / "pseudo", tmp_path / "pseudo"))
    for path in sorted(pseudo.glob("a/*.png")):
        mask = Image.open(path)
        mask.putpixel((0, 0), (mask.getpixel((0, 0)) + 1) % 3)
        mask.save(path)
    threshold = {"alpha": 100, "schedule": "constant"}
    recipe = retraining_recipe(semi_recipe(labelled_run / "tiny_world", threshold=threshold))
    given = Given(labelled_run / "run" / "student" / "model", [open_pseudo(pseudo, accept_edited=True)])
    train(recipe, tmp_path / "out", given=given)
    assert (tmp_path / "out" / "model").is_dir()


def test_an_interruption_does_not_forget_what_was_in_vain(labelled_run, tmp_path):
    without_anchors = {"contrast": {"confidence": 1.0}}
    with power_cut(5):
        retrain(labelled_run, tmp_path / "anchors", **without_anchors)
    retrain(labelled_run, tmp_path / "anchors", **without_anchors)
    watch = torch.load(tmp_path / "anchors" / "last.ckpt", weights_only=True)["method"]["watch"]
    assert max(sum(reasons.values()) for reasons in watch["reasons"]) == STEPS
    unsure = {"mode": "online", "threshold": {"kind": "absolute", "gamma": 0.0}}
    with power_cut(5):
        retrain(labelled_run, tmp_path / "unsure", **unsure)
    with pytest.raises(SemivssError, match=f"no pixel was reliable in {STEPS} batches in a row"):
        retrain(labelled_run, tmp_path / "unsure", **unsure)


@pytest.mark.parametrize("workers", [0, 1])
def test_labels_that_change_while_they_are_learnt_from_are_not_used(labelled_run, tmp_path, monkeypatch, workers):
    shutil.copytree(labelled_run / "run" / "pseudo", tmp_path / "pseudo")
    recipe = retraining_recipe(semi_recipe(labelled_run / "tiny_world"))
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"workers": workers})})
    given = Given(labelled_run / "run" / "student" / "model", [open_pseudo(tmp_path / "pseudo")])
    original = loop.train_step

    def corrected_meanwhile(*arguments):
        for path in (tmp_path / "pseudo").glob("*/*.png"):
            os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
        return original(*arguments)

    monkeypatch.setattr(loop, "train_step", corrected_meanwhile)
    with pytest.raises(SemivssError, match=r"0\d+.png: changed while it was in use.*--accept-edited"):
        train(recipe, tmp_path / "out", given=given)


def test_the_saved_model_holds_no_representation_head(labelled_run, tmp_path):
    from safetensors import safe_open

    retrain(labelled_run, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model" / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "representation" in name]  # noqa: SIM118 -- no mapping


def test_retraining_starts_from_the_students_weights(labelled_run, tmp_path):
    from semivss.models.segmenter import Segmenter

    retrain(labelled_run, tmp_path / "out", train={"lr": 1e-12, "ema": 0.5})
    before, after = (Segmenter.from_pretrained(f / "model") for f in (labelled_run / "run" / "student", tmp_path / "out"))
    moved = dict(after.named_parameters())  # running statistics go on
    assert all(torch.allclose(value, moved[name], atol=1e-6) for name, value in before.named_parameters())


def test_weights_from_outside_are_needed_by_what_begins_with_them_alone(labelled_run, tmp_path):
    outside = Path(shutil.copytree(labelled_run / "run" / "student" / "model", tmp_path / "outside"))
    world = Path(shutil.copytree(labelled_run / "tiny_world", tmp_path / "world"))
    (world / "label_num_dic_final.json").write_text(json.dumps({"others": "0", "red": "1", "blue": "2", "green": "3"}))
    recipe = semi_recipe(world)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"weights": str(outside)})})
    scratch = recipe.model_copy(update={"semi": recipe.semi.model_copy(update={"start": "scratch"})})
    run(recipe, tmp_path / "run", until="student")
    outside.rename(tmp_path / "gone")
    with pytest.raises(WeightsError, match="outside: cannot read the weight file"):
        run(scratch, tmp_path / "run", until="retrain")
    assert not (tmp_path / "run" / "pseudo").exists()
    run(recipe, tmp_path / "run", until="retrain")
    student, retrained = (Segmenter.from_pretrained(tmp_path / "run" / name / "model") for name in ("student", "retrained"))
    assert retrained.settings.class_rows == student.settings.class_rows == (0, 2, 1)
    with pytest.raises(WeightsError, match="outside: cannot read the weight file"):
        run(recipe, tmp_path / "run", start="student")
    assert (tmp_path / "run" / "retrained" / "model").exists()


def test_weights_of_other_classes_or_another_architecture_are_refused(labelled_run, tmp_path):
    recipe = semi_recipe(labelled_run / "tiny_world", mode="online")
    given = Given(labelled_run / "run" / "student" / "model")
    fetched = recipe.model_copy(update={"model": recipe.model.model_copy(update={"backbone": "timm/resnet18", "pretrained": True})})
    with pytest.raises(WeightsError, match="architecture"):  # and nothing is fetched for that
        train(fetched, tmp_path / "f", given=given)
    other = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"pixel": recipe.model.pixel.model_copy(update={"channels": 8})})}
    )
    with pytest.raises(WeightsError, match="architecture"):
        train(other, tmp_path / "a", given=given)
    with pytest.raises(SemivssError, match="needs the pseudo labels"):
        train(semi_recipe(labelled_run / "tiny_world"), tmp_path / "b", given=given)
    renamed = Path(shutil.copytree(labelled_run / "tiny_world", tmp_path / "world"))
    (renamed / "label_num_dic_final.json").write_text(json.dumps({"others": "0", "red": "1", "blue": "2", "green": "3"}))
    with pytest.raises(WeightsError, match="classes"):
        train(semi_recipe(renamed, mode="online"), tmp_path / "d", given=given)
    stored = Given(None, [open_pseudo(labelled_run / "run" / "pseudo")])
    with pytest.raises(DataError, match="the same classes in another order: id 1 is 'green' there and 'blue'"):
        train(semi_recipe(renamed, start="scratch"), tmp_path / "e", given=stored)
    bare = recipe.model_copy(update={"data": recipe.data.model_copy(update={"unlabelled": ()})})
    with pytest.raises(SemivssError, match=r"\[\[data.unlabelled\]\]"):
        train(bare, tmp_path / "c", given=given)


def test_nothing_reliable_in_a_short_training_is_told_at_its_end(labelled_run, tmp_path):
    with pytest.raises(SemivssError, match=rf"no pixel was reliable in {STEPS} batches"):
        retrain(labelled_run, tmp_path / "out", threshold={"alpha": 100, "schedule": "constant"})


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_ddp_two_processes_retrain_as_one_and_go_on_after_a_kill(labelled_run, tmp_path, mode):
    """Weights, averages and the bank are the same on both, and the same again when both were killed in between."""
    settings = {"mode": mode, "unlabelled_batch": 4, "threshold": {"alpha": 40}, "contrast": {"share": 0.5, "confidence": 0}}
    more = {"supervised_steps": 1, "train": {"checkpoint_every": 2, "accumulate": 2, "steps": 5}}  # L_c begins after the first step
    recipe = retraining_recipe(semi_recipe(labelled_run / "tiny_world", **settings, **more))
    ended = train_ddp(recipe, tmp_path / "whole", before=labelled_run / "run")
    train_ddp(recipe, tmp_path / "broken", last_step=4, before=labelled_run / "run")
    resumed = train_ddp(recipe, tmp_path / "broken", before=labelled_run / "run")
    banks = [one["method"].pop("bank") for one in (*ended, *resumed)]
    assert all(one["method"]["watch"] == ended[0]["method"]["watch"] for one in (*ended, *resumed))
    assert int(banks[0]["lengths"].min()) > 0
    for one, bank in zip((*ended, *resumed), banks, strict=True):
        for kind in ("model", "best"):
            assert equal(one[kind], ended[0][kind])
        assert equal(bank, banks[0])


def test_shards_two_processes_share_out_a_retraining(labelled_run, tmp_path):
    """Representation head, averaged teacher and bank as well; what is saved is whole."""
    settings = {"unlabelled_batch": 4, "threshold": {"alpha": 40}, "contrast": {"confidence": 0}}
    recipe = retraining_recipe(semi_recipe(labelled_run / "tiny_world", **settings, train={"sharding": "full", "steps": 3}))
    first, second = train_ddp(recipe, tmp_path, before=labelled_run / "run")
    assert equal(first["model"], second["model"])
    assert equal(first["best"], second["best"])
    bank = first["method"]["bank"]
    assert int(bank["lengths"].min()) > 0
    assert equal(bank, second["method"]["bank"])
    begun = Segmenter.from_pretrained(labelled_run / "run" / "student" / "model").state_dict()
    saved = Segmenter.from_pretrained(tmp_path / "model").state_dict()
    assert equal(saved, first["best"])
    assert not equal(saved, begun)
    # a single process reads the checkpoint, which is at its end
    alone = retraining_recipe(semi_recipe(labelled_run / "tiny_world", **settings, train={"steps": 3}))
    train(alone, tmp_path, given=Given(labelled_run / "run" / "student" / "model", [open_pseudo(labelled_run / "run" / "pseudo")]))


def test_averaged_prototypes_are_refused_with_several_processes(labelled_run, tmp_path, monkeypatch):
    monkeypatch.setattr(Fabric, "world_size", 2)
    with pytest.raises(SemivssError, match="prototypes works in one process"):
        retrain(labelled_run, tmp_path / "out", contrast={"prototypes": True})


def test_nothing_reliable_stops_with_a_line(labelled_run, tmp_path, monkeypatch):
    from semivss.train import semi

    monkeypatch.setattr(semi, "IN_VAIN", 3)
    with pytest.raises(SemivssError, match=r"no pixel was reliable in 3 batches in a row.*semi.threshold.gamma"):
        retrain(labelled_run, tmp_path / "out", mode="online", threshold={"kind": "absolute", "gamma": 0.0})


def test_a_teacher_with_a_damaged_weight_does_not_label(labelled_run):
    from semivss.data.loader import unlabelled_batches
    from semivss.train.semi import label

    recipe = retraining_recipe(semi_recipe(labelled_run / "tiny_world", mode="online"))
    batch = next(iter(unlabelled_batches(recipe.data, recipe.train, recipe.semi)))
    sound, broken = (Segmenter.from_pretrained(labelled_run / "run" / "student" / "model").eval() for _ in range(2))
    torch.nn.init.constant_(next(broken.head.parameters()), float("nan"))
    assert label(batch, [sound]).doubt.isfinite().all()
    with pytest.raises(NonFiniteCost, match="not finite"):
        label(batch, [sound, broken])


def test_a_teacher_that_is_not_finite_stops_with_a_line(labelled_run, tmp_path, monkeypatch):
    from semivss.train import semi

    def broken(*arguments):
        raise semi.NonFiniteCost("the teacher's output is not finite")

    monkeypatch.setattr(semi, "label", broken)
    with pytest.raises(SemivssError, match="10 steps in a row"):
        retrain(labelled_run, tmp_path / "out", mode="online", train={"steps": 12})


def test_ddp_a_process_without_reliable_pixels_does_not_stop_alone(labelled_run, tmp_path):
    """Two processes of which one never has a reliable pixel: the batch as a whole has some, so they go on; and none at all stops both."""
    settings = {"mode": "online", "unlabelled_batch": 4, "contrast": {"weight": 0}, "train": {"steps": 3}}
    recipe = retraining_recipe(semi_recipe(labelled_run / "tiny_world", **settings))
    ended = train_ddp(recipe, tmp_path / "one", before=labelled_run / "run", unsure_rank=1)
    assert [one["method"]["in_vain"] for one in ended] == [0, 0]
    assert equal(ended[0]["model"], ended[1]["model"])


def test_videos_without_pseudo_labels_are_refused(labelled_run, tmp_path):
    world = Path(shutil.copytree(labelled_run / "tiny_world", tmp_path / "world"))
    frame = world / "data" / "b" / "origin" / "00000002.png"
    frame = next(frame.parent.iterdir())
    shutil.copy(frame, frame.with_stem("00000099"))
    stored = Given(labelled_run / "run" / "student" / "model", [open_pseudo(labelled_run / "run" / "pseudo")])
    with pytest.raises(DataError, match=r"incomplete, no pseudo label of b/00000099"):
        train(retraining_recipe(semi_recipe(world)), tmp_path / "out", given=stored)


THRESHOLD = Threshold(alpha=25, schedule="constant")


def test_thresholds():
    labels = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, IGNORE]]], dtype=torch.uint8)
    doubt = torch.tensor([[[1.0, 2, 3, 4, 10, 20, 30, 1000]]])
    assert cut(THRESHOLD, 50.0, labels, doubt, 2, None) == 4
    assert cut(THRESHOLD, 0.0, labels, doubt, 2, None) == float("inf")
    per_class = THRESHOLD.model_copy(update={"per_class": True})
    assert cut(per_class, 50.0, labels, doubt, 3, None).tolist() == [2.5, 20, float("inf")]
    assert cut(THRESHOLD.model_copy(update={"kind": "absolute", "gamma": 0.3}), 50.0, labels, doubt, 2, None) == 0.3
    assert alpha_at(THRESHOLD, 5, 10) == 25


def test_thresholds_of_stored_codes_are_those_of_all_folders_together(labelled_run):
    """Ten pixels of class 0 in the first folder, thirty of class 1 in the second, each at a code of its own."""
    first, second = np.zeros((2, BINS), np.int64), np.zeros((2, BINS), np.int64)
    first[0, 100:110], second[1, 200:230] = 1, 1
    stored = [dataclasses.replace(open_pseudo(labelled_run / "run" / "pseudo"), histogram=counts) for counts in (first, second)]
    labels, doubt = torch.zeros(1, 1, 1, dtype=torch.uint8), torch.zeros(1, 1, 1)
    whole = THRESHOLD.model_copy(update={"kind": "dataset_percentile"})
    for alpha, bins in ((50.0, 209), (90.0, 103)):
        assert cut(whole, alpha, labels, doubt, 2, stored).tolist() == [bins * BIN_WIDTH] * 2
    per_class = whole.model_copy(update={"per_class": True})
    assert cut(per_class, 50.0, labels, doubt, 2, stored).tolist() == [104 * BIN_WIDTH, 214 * BIN_WIDTH]
    absolute = THRESHOLD.model_copy(update={"kind": "absolute", "gamma": math.log(2) / 4})
    assert cut(absolute, 50.0, labels, doubt, 2, stored) == pytest.approx(HIGHEST / 2, abs=1)
    assert cut(absolute.model_copy(update={"gamma": 0.0}), 50.0, labels, doubt, 2, stored) > 0  # corrected by hand: code 0


def test_frames_corrected_by_hand_are_reliable_and_move_no_threshold(labelled_run):
    stored = [open_pseudo(labelled_run / "run" / "pseudo")]
    labels = torch.tensor([[[0, 0, 0, 0, 1, 1]]], dtype=torch.uint8)
    doubt = torch.tensor([[[0.0, 0, 0, 0, 10, 20]]])
    gamma = cut(THRESHOLD, 50.0, labels, doubt, 2, stored)
    assert gamma == 15
    assert cut(THRESHOLD, 90.0, labels[..., :4], doubt[..., :4], 2, stored) > 0
    per_class = cut(THRESHOLD.model_copy(update={"per_class": True}), 50.0, labels, doubt, 2, stored)
    assert per_class[0] > 0
    assert per_class[1] == 15
    assert surest(50.0, labels, doubt, stored) == 15  # code 0 would be the median otherwise


def test_the_linear_schedule_falls():
    assert alpha_at(THRESHOLD.model_copy(update={"schedule": "linear"}), 5, 10) == 12.5
