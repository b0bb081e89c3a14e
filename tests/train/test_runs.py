"""Runs with retraining: what a stage is made from, what is made anew, what a person corrected, what a kill leaves."""

import json
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from children import run_cli, start, wait
from PIL import Image
from same import assert_same
from semi_world import semi_recipe

from semivss.cli import main
from semivss.data.pseudo import open_pseudo
from semivss.digest import weights_hash
from semivss.errors import SemivssError
from semivss.lock import locked
from semivss.models.segmenter import Segmenter
from semivss.pipeline import retrain_stage, run
from semivss.recipe import dump_recipe
from semivss.settings import Mask2FormerHead, Teacher

SMALL = Mask2FormerHead(
    channels=32, queries=6, encoder_layers=1, decoder_layers=1, heads=2, encoder_feedforward=32, feedforward=32, points=64
)


def copied_world(labelled_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled_run / "tiny_world", tmp_path / "world"))


def copied_run(labelled_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled_run / "run", tmp_path / "run"))


def correct(path: Path, mode: str = "L") -> None:
    """As a person with a paint program would: one class all over the picture."""
    image = Image.open(path)
    Image.fromarray(np.full((image.height, image.width), 2, np.uint8)).convert(mode).save(path)


def test_corrected_pseudo_labels_need_consent_and_are_used(labelled_run, tmp_path):
    recipe, out = semi_recipe(labelled_run / "tiny_world"), tmp_path / "run"
    shutil.copytree(labelled_run / "run", out)
    run(recipe, out, until="retrain")
    before = (out / "retrained" / "model" / "model.safetensors").read_bytes()
    path = out / "pseudo" / "a" / "00000000.png"
    image = Image.open(path)
    corrected = Image.fromarray(np.full((image.height, image.width), 2, np.uint8))
    corrected.save(path)
    for again in (False, True):
        with pytest.raises(SemivssError, match=r"a/00000000.png: edited by hand.*--accept-edited"):
            run(recipe, out, until="retrain", again=again)
    with pytest.raises(SemivssError, match=r"other inputs \(pseudo.0.*--again"):
        run(recipe, out, until="retrain", accept_edited=True)
    with pytest.raises(SemivssError, match=r"edited by hand"):
        run(recipe, out, start="retrain")
    assert (out / "retrained" / "model" / "model.safetensors").read_bytes() == before
    with pytest.raises(SemivssError, match=r"corrected by hand, the first is a/00000000.png"):
        run(recipe, out, start="pseudo-label")
    assert path.is_file()
    run(recipe, out, again=True, accept_edited=True)
    assert (out / "retrained" / "model" / "model.safetensors").read_bytes() != before
    assert "edited_pseudo_labels" in (out / "scores.json").read_text()


def test_labels_and_weights_of_other_folders_retrain_as_those_of_the_run(labelled_run, tmp_path, capsys):
    recipe, out = semi_recipe(labelled_run / "tiny_world"), copied_run(labelled_run, tmp_path)
    run(recipe, out, until="retrain")
    pseudo = Path(shutil.copytree(labelled_run / "run" / "pseudo", tmp_path / "labels"))
    student = Path(shutil.copytree(labelled_run / "run" / "student" / "model", tmp_path / "student"))
    other = tmp_path / "other"
    retrain_stage(recipe, other, [pseudo], student)
    assert_same(out / "retrained", other / "retrained")
    retrain_stage(recipe, other, [pseudo], student)
    assert "done before" in capsys.readouterr().err
    with pytest.raises(SemivssError, match="is what this retraining makes"):
        retrain_stage(recipe, other, [pseudo], other / "retrained" / "model")
    correct(pseudo / "a" / "00000000.png")
    with pytest.raises(SemivssError, match=r"a/00000000.png: edited by hand.*--accept-edited"):
        retrain_stage(recipe, other, [pseudo], student, again=True)


def test_the_verb_retrain_takes_the_student_of_its_run_and_can_be_repeated(labelled_run, tmp_path, monkeypatch, capsys):
    def semivss(*more) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["semivss", "retrain", str(tmp_path / "recipe.toml"), "--out", str(out), *map(str, more)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), capsys.readouterr().err.replace("\n", "")

    out = copied_run(labelled_run, tmp_path)
    (tmp_path / "recipe.toml").write_text(dump_recipe(semi_recipe(labelled_run / "tiny_world")))
    words = ["--pseudo", out / "pseudo", "--start", out]
    for more, said in (
        ([], f"model: {out / 'retrained' / 'model'}"),
        ([], "done before"),
        (["-o", "teacher.model.backbone=timm/resnet999"], "done before"),  # no teacher is trained
    ):
        code, told = semivss(*words, *more)
        assert code == 0
        assert said in told
    code, told = semivss("--pseudo", out)
    assert code == 2
    assert f"no finished pseudo labels there (no manifest.json); give {out / 'pseudo'}" in told


def test_a_retraining_that_cannot_begin_says_what_it_lacks(labelled_run, tmp_path):
    world = labelled_run / "tiny_world"
    recipe, pseudo, student = semi_recipe(world), labelled_run / "run" / "pseudo", labelled_run / "run" / "student" / "model"
    for settings, labels, weights, message in (
        (recipe, [], student, "1 unlabelled source, but 0 folders of pseudo labels; give --pseudo once for each"),
        (recipe, [pseudo], None, "no student to retrain; train one there, give --start MODEL"),
        (semi_recipe(world, mode="online"), [pseudo], student, "mode online reads no pseudo labels; leave --pseudo out"),
        (semi_recipe(world, start="scratch"), [pseudo], student, "takes no model; leave --start out"),
        (recipe.model_copy(update={"semi": None}), [pseudo], student, r"has no section \[semi\]"),
        (recipe, [tmp_path], student, "no finished pseudo labels there"),
    ):
        with pytest.raises(SemivssError, match=message):
            retrain_stage(settings, tmp_path / "out", labels, weights)
    assert not (tmp_path / "out" / "retrained" / "model").exists()


def test_another_alpha_relabels_nothing_and_takes_effect(labelled_run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(labelled_run / "run", out)
    run(semi_recipe(labelled_run / "tiny_world"), out, until="retrain")
    labels = {path: path.stat().st_mtime_ns for path in (out / "pseudo").rglob("*.png")}
    before = (out / "retrained" / "model" / "model.safetensors").read_bytes()
    run(semi_recipe(labelled_run / "tiny_world", threshold={"alpha": 60}), out, until="retrain", again=True)
    assert {path: path.stat().st_mtime_ns for path in (out / "pseudo").rglob("*.png")} == labels
    assert (out / "retrained" / "model" / "model.safetensors").read_bytes() != before


def test_more_video_is_labelled_beside_what_is_labelled(labelled_run, tmp_path, capsys):
    world, out = tmp_path / "world", tmp_path / "run"
    shutil.copytree(labelled_run / "tiny_world", world)
    (world / "one.txt").write_text("a\n")
    recipe = semi_recipe(world)
    one = recipe.data.unlabelled[0].model_copy(update={"split": "one"})
    run(recipe.model_copy(update={"data": recipe.data.model_copy(update={"unlabelled": (one,)})}), out, until="pseudo-label")
    path = out / "pseudo" / "a" / "00000000.png"
    Image.fromarray(np.full(np.asarray(Image.open(path)).shape, 2, np.uint8)).save(path)
    labels = {path: path.stat().st_mtime_ns for path in (out / "pseudo" / "a").rglob("*.png")}
    with pytest.raises(SemivssError, match=r'source.split: "one" -> "train".*--again'):
        run(recipe, out, until="pseudo-label")
    run(recipe, out, until="pseudo-label", again=True)
    assert "pseudo-label pseudo: brought up to date" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (out / "pseudo" / "a").rglob("*.png")} == labels
    opened = open_pseudo(out / "pseudo", accept_edited=True)
    assert set(opened.stems) == {"a", "b"}
    assert opened.edited == ("a/00000000",)


def test_a_run_aligns_its_labels_with_the_labelled_frames(labelled_run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(labelled_run / "run", out)
    recipe = semi_recipe(labelled_run / "tiny_world")
    recipe = recipe.model_copy(update={"pseudo": recipe.pseudo.model_copy(update={"align": 1.0})})
    with pytest.raises(SemivssError, match=r"align: 0.0 -> 1.0"):
        run(recipe, out, until="pseudo-label")
    run(recipe, out, until="pseudo-label", again=True)
    assert max(open_pseudo(out / "pseudo").made_from["factors"]) > 1.1


def test_other_data_under_the_same_recipe_is_noticed(labelled_run, tmp_path):
    world, out = tmp_path / "world", tmp_path / "run"
    shutil.copytree(labelled_run / "tiny_world", world)
    (world / "train.txt").write_text("a\n")
    recipe = semi_recipe(world, mode="supervised")
    run(recipe, out, until="predict")
    with (world / "val.txt").open("a") as file:
        file.write("b\n")
    with pytest.raises(SemivssError, match=r"predictions/test: stage predict test: made with other inputs \(frames"):
        run(recipe, out, until="predict")
    run(recipe, out, until="score", again=True)
    assert (out / "predictions" / "test" / "b").is_dir()
    (world / "train.txt").write_text("a\nb\n")
    with pytest.raises(SemivssError, match=r"stage train student: made with other inputs \(frames.train.0"):
        run(recipe, out, until="student")


def test_classes_without_a_labelled_pixel_are_refused_or_allowed(labelled_run, tmp_path):
    world = copied_world(labelled_run, tmp_path)
    masks = list((world / "data").rglob("mask/*.png"))
    recipe = semi_recipe(world)
    allowed = recipe.model_copy(update={"data": recipe.data.model_copy(update={"absent_classes": "allow"})})
    for value in (1, 0):
        for path in masks:
            Image.fromarray(np.full(np.asarray(Image.open(path)).shape, value, np.uint8)).save(path)
        with pytest.raises(SemivssError, match="no labelled pixel of green, blue: " if value else "no labelled pixel in 8 masks"):
            run(recipe, tmp_path / "run", until="student")
        if value:
            run(allowed, tmp_path / "allowed", until="student")
    with pytest.raises(SemivssError, match="no labelled pixel in 8 masks"):  # that much is never allowed
        run(allowed, tmp_path / "nothing", until="student")


def test_a_wrong_path_costs_no_finished_model(labelled_run, tmp_path):
    from semivss.pipeline import train_stage

    out = tmp_path / "run"
    shutil.copytree(labelled_run / "run", out)
    recipe = semi_recipe(labelled_run / "tiny_world")
    val = recipe.data.test[0].model_copy(update={"path": str(tmp_path / "nowhere")})
    wrong = recipe.model_copy(update={"data": recipe.data.model_copy(update={"val": val})})
    for more in ({"again": True}, {"start": "student"}):
        with pytest.raises(SemivssError, match="nowhere"):
            run(wrong, out, until="student", **more)
    assert (out / "student" / "model" / "model.safetensors").is_file()
    with pytest.raises(SemivssError, match="nowhere"):
        train_stage(wrong, out, again=True)


def test_unlabelled_video_needs_no_classes(labelled_run, tmp_path):
    world = labelled_run / "tiny_world"
    shutil.copytree(world, tmp_path / "bare")
    (tmp_path / "bare" / "label_num_dic_final.json").write_text('{"others": "0", "something": "1", "else": "2"}')
    shutil.rmtree(tmp_path / "bare" / "data" / "a" / "mask")
    recipe = semi_recipe(world)
    source = recipe.data.unlabelled[0].model_copy(update={"path": str(tmp_path / "bare")})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"unlabelled": (source,)})})
    run(recipe, tmp_path / "run", until="retrain")
    assert (tmp_path / "run" / "retrained" / "model" / "config.json").is_file()


def test_labels_of_other_weights_are_refused_in_a_run(labelled_run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(labelled_run / "run", out)
    other = semi_recipe(labelled_run / "tiny_world")
    other = other.model_copy(update={"train": other.train.model_copy(update={"lr": 1e-3})})
    run(other, out, until="student", again=True)
    with pytest.raises(SemivssError, match=r"stage pseudo-label pseudo: made with other inputs \(model.0"):
        run(other, out, until="retrain")


def test_dry_run_and_from(labelled_run, capsys):
    recipe, out = semi_recipe(labelled_run / "tiny_world"), labelled_run / "run"
    run(recipe, out, dry=True)
    said = capsys.readouterr().err.splitlines()
    assert "train student: done before" in said[0]
    assert "pseudo-label pseudo: done before" in said[1]
    assert "retrain retrained: to do" in said[2]
    run(recipe, out, dry=True, start="pseudo-label")
    assert "pseudo-label pseudo: will be made anew" in capsys.readouterr().err.splitlines()[1]
    assert not (out / "retrained").exists()


def test_a_run_can_be_killed_in_any_stage(labelled_run, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(dump_recipe(semi_recipe(labelled_run / "tiny_world")))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    shutil.copytree(labelled_run / "run", whole)
    assert wait(start(run_cli, ["run", str(recipe), "--out", str(whole)], tmp_path / "errors")) == 0
    for name in ("student/last.ckpt", "pseudo/records/a.jsonl", "retrained/last.ckpt", "predictions/test/records", "scores.json"):
        process = start(run_cli, ["run", str(recipe), "--out", str(broken)], tmp_path / "errors")
        while process.is_alive() and not (broken / name).exists():
            time.sleep(0.002)
        assert process.is_alive(), f"ended before {name} was there"
        process.kill()
        process.join()
    assert wait(start(run_cli, ["run", str(recipe), "--out", str(broken)], tmp_path / "errors")) == 0
    for name in ("predictions/test/manifest.json", "compare/student/test/manifest.json", "pseudo/manifest.json", "scores.json"):
        first, second = (json.loads((out / name).read_text()) for out in (whole, broken))
        assert first == second


def test_a_correction_in_colours_is_refused_and_kept(labelled_run, tmp_path):
    recipe, out = semi_recipe(labelled_run / "tiny_world"), copied_run(labelled_run, tmp_path)
    path = out / "pseudo" / "a" / "00000000.png"
    correct(path, "RGB")
    before = path.read_bytes()
    for more in ({"accept_edited": True}, {"start": "pseudo-label"}, {"start": "student"}):
        with pytest.raises(SemivssError, match=r"a/00000000.png"):
            run(recipe, out, until="retrain", **more)
    assert path.read_bytes() == before


def test_a_damaged_record_costs_no_correction(labelled_run, tmp_path):
    recipe, out = semi_recipe(labelled_run / "tiny_world"), copied_run(labelled_run, tmp_path)
    path = out / "pseudo" / "a" / "00000000.png"
    correct(path)
    before = path.read_bytes()
    with (out / "pseudo" / "records" / "a.jsonl").open("a") as file:
        file.write('{"path": ')
    with pytest.raises(SemivssError, match=r"a.jsonl: not readable"):
        run(recipe, out, start="pseudo-label")
    assert path.read_bytes() == before


def test_a_pseudo_label_that_is_gone_is_made_again(labelled_run, tmp_path):
    recipe, out = semi_recipe(labelled_run / "tiny_world"), copied_run(labelled_run, tmp_path)
    path = out / "pseudo" / "entropy" / "b" / "00000001.png"
    before = path.read_bytes()
    path.unlink()
    with pytest.raises(SemivssError, match=r"entropy/b/00000001.png is gone; add --again"):
        run(recipe, out, until="retrain")
    run(recipe, out, until="pseudo-label", again=True)
    assert path.read_bytes() == before


def test_a_stopped_from_goes_on_and_a_finished_one_begins_anew(labelled_run, tmp_path, monkeypatch, capsys):
    from semivss.train import loop

    recipe, out = semi_recipe(labelled_run / "tiny_world"), copied_run(labelled_run, tmp_path)
    run(recipe, out, until="retrain")
    whole = (out / "retrained" / "model" / "model.safetensors").read_bytes()
    step, calls = loop.train_step, []

    def stopped(*arguments):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(arguments)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, out, start="retrain", until="retrain")
    capsys.readouterr()
    run(recipe, out, start="retrain", until="retrain")
    assert "going on after step 4" in capsys.readouterr().err
    assert (out / "retrained" / "model" / "model.safetensors").read_bytes() == whole
    run(recipe, out, start="retrain", until="retrain")
    assert "going on" not in capsys.readouterr().err


def test_a_wrong_weight_file_costs_no_finished_model(labelled_run, tmp_path):
    recipe, out = semi_recipe(labelled_run / "tiny_world"), copied_run(labelled_run, tmp_path)
    wrong = recipe.model_copy(update={"model": recipe.model.model_copy(update={"weights": str(tmp_path / "nope.pth")})})
    before = (out / "student" / "model" / "model.safetensors").read_bytes()
    for more in ({"again": True}, {"start": "student"}):
        with pytest.raises(SemivssError, match=r"nope.pth"):
            run(wrong, out, until="student", **more)
        assert (out / "student" / "model" / "model.safetensors").read_bytes() == before
    run(recipe, out, until="student")
    labels = (out / "student" / "stamp.json").stat().st_mtime_ns
    run(recipe, out, until="student", start="student")  # the first one made nothing, so this one begins
    assert (out / "student" / "stamp.json").stat().st_mtime_ns != labels


def test_another_class_table_is_another_training(labelled_run, tmp_path):
    world, out = copied_world(labelled_run, tmp_path), tmp_path / "run"
    recipe = semi_recipe(world, mode="supervised")
    run(recipe, out, until="student")
    classes = json.dumps({"others": "0", "red": "1", "blue": "2", "green": "3"})
    (world / "label_num_dic_final.json").write_text(classes)
    with pytest.raises(SemivssError, match=r"made with other inputs \(classes.train.0"):
        run(recipe, out, until="student")
    stamp = json.loads((out / "student" / "stamp.json").read_text())
    (out / "student" / "stamp.json").write_text(json.dumps(stamp | {"finished": False}))  # as if it had been killed
    with pytest.raises(SemivssError, match=r"classes.train.0"):
        run(recipe, out, until="student")


def test_video_without_masks_retrains_no_supervised_model(labelled_run, tmp_path):
    world, out = copied_world(labelled_run, tmp_path), tmp_path / "run"
    recipe = semi_recipe(world, mode="supervised")
    run(recipe, out, until="student")
    shutil.copytree(world / "data" / "a" / "origin", world / "data" / "d" / "origin")
    (world / "train.txt").write_text("a\nb\nd\n")
    run(recipe, out, until="student")


def test_dry_run_says_what_would_stop(labelled_run, tmp_path, capsys):
    recipe, out = semi_recipe(labelled_run / "tiny_world"), copied_run(labelled_run, tmp_path)
    correct(out / "pseudo" / "a" / "00000000.png")
    run(recipe, out, dry=True)
    assert "retrain retrained: will stop:" in capsys.readouterr().err
    run(recipe, out, dry=True, accept_edited=True)
    assert "retrain retrained: to do" in capsys.readouterr().err
    run(recipe, out, dry=True, start="pseudo-label")
    assert "pseudo-label pseudo: will stop:" in capsys.readouterr().err
    changed = recipe.model_copy(update={"train": recipe.train.model_copy(update={"lr": 1e-4})})
    run(changed, out, dry=True, again=True)
    said = capsys.readouterr().err
    assert re.search(r"train student: made with other inputs \(train.lr: .*\), will be made anew", said)
    assert "pseudo-label pseudo: will stop:" in said  # other models would label anew what was corrected
    assert "predict test: to do, after what comes before it" in said
    for option in ("start", "until"):
        with pytest.raises(SemivssError, match=r"has no such stage; it has student, pseudo-label, retrain"):
            run(recipe, out, dry=True, **{option: "teacher"})


def test_nothing_is_cleared_under_another_process(labelled_run, tmp_path):
    recipe, out = semi_recipe(labelled_run / "tiny_world"), copied_run(labelled_run, tmp_path)
    with locked(out / "pseudo"), pytest.raises(SemivssError, match=r"pseudo: process .* is writing there"):
        run(recipe, out, start="pseudo-label")
    assert (out / "pseudo" / "manifest.json").is_file()
    with locked(out), pytest.raises(SemivssError, match="is writing there"):
        run(recipe, out)


def test_a_training_that_was_begun_goes_on_with_other_frames_and_says_so(labelled_run, tmp_path, monkeypatch, capsys):
    from semivss.train import loop

    world, out = copied_world(labelled_run, tmp_path), tmp_path / "run"
    (world / "train.txt").write_text("a\n")
    recipe = semi_recipe(world, mode="supervised")

    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, out, until="student")
    (world / "train.txt").write_text("a\nb\n")
    run(recipe, out, until="student")
    assert "train student: begun with other frames or masks (frames.train.0), goes on" in capsys.readouterr().err


def test_frames_of_another_size_than_their_labels_are_refused(labelled_run, tmp_path):
    world = copied_world(labelled_run, tmp_path)
    recipe = semi_recipe(world)
    run(recipe, tmp_path / "own", until="pseudo-label")
    for path in (world / "data" / "b" / "origin").iterdir():
        image = Image.open(path)
        image.resize((2 * image.width, 2 * image.height)).save(path)
    for path in (world / "data" / "b" / "mask").iterdir():
        image = Image.open(path)
        image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(path)
    with pytest.raises(SemivssError, match=r"/b/.*the frame has 96x128 pixels, its pseudo label 48x64.*--from pseudo-label"):
        run(recipe, tmp_path / "own", until="retrain")


def test_masks_beside_unlabelled_frames_change_nothing(labelled_run, tmp_path):
    world, out = copied_world(labelled_run, tmp_path), tmp_path / "run"
    recipe = semi_recipe(world, mode="online")
    labelled = recipe.data.train[0].model_copy(update={"path": str(labelled_run / "tiny_world")})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": (labelled,)})})
    mask = world / "data" / "b" / "mask" / "00000002.png"
    kept = mask.read_bytes()
    mask.unlink()
    run(recipe, out, until="retrain")
    mask.write_bytes(kept)
    run(recipe, out, until="retrain")


def test_two_rounds_of_both_models_on_two_sources(labelled_run, tmp_path):
    """Everything at once: a Mask2Former retrained with a teacher of another head, relabelled, ensembled."""
    recipe = semi_recipe(labelled_run / "tiny_world", rounds=2, retrain_teacher=True, train={"steps": 2}, min_area=1)
    source = recipe.data.unlabelled[0]
    masks = recipe.model.model_copy(update={"head": "mask2former", "mask2former": SMALL})
    recipe = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"unlabelled": (source, source.model_copy(update={"weight": 2.0}))}),
            "teacher": Teacher(model=recipe.model),
            "model": masks,
            "train": recipe.train.model_copy(update={"steps": 2}),
        }
    )
    out = tmp_path / "run"
    run(recipe, out)
    assert (out / "pseudo_2" / "1" / "manifest.json").is_file()
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores["provenance"]["models"]) == ["retrained_teacher_2", "retrained_2"]
    assert set(scores["comparison"]) >= {"student", "teacher", "retrained", "retrained_teacher", "ensemble"}
    models = [weights_hash(out / name / "model") for name in ("retrained_teacher", "retrained")]
    stamp = json.loads((out / "pseudo_2" / "0" / "stamp.json").read_text())["inputs"]
    assert [stamp["model.0"], stamp["model.1"]] == models


def with_data(recipe, **values):
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=values)})


def test_a_second_source_of_video_does_not_drop_corrections(labelled_run, tmp_path):
    recipe, out = semi_recipe(labelled_run / "tiny_world"), copied_run(labelled_run, tmp_path)
    correct(out / "pseudo" / "a" / "00000000.png")
    source = recipe.data.unlabelled[0]
    two = with_data(recipe, unlabelled=(source, source.model_copy(update={"weight": 2.0})))
    with pytest.raises(SemivssError, match=r"pseudo: .*corrected by hand, the first is a/00000000.png"):
        run(two, out, until="pseudo-label", again=True, accept_edited=True)
    (out / "pseudo").rename(tmp_path / "elsewhere")
    run(two, out, until="pseudo-label")
    correct(out / "pseudo" / "1" / "b" / "00000000.png")
    with pytest.raises(SemivssError, match=r"corrected by hand, the first is b/00000000.png"):
        run(recipe, out, until="pseudo-label", again=True)


def test_evaluation_sets_are_looked_at_before_anything_is_trained(labelled_run, tmp_path, capsys):
    world, out = copied_world(labelled_run, tmp_path), tmp_path / "run"
    recipe = semi_recipe(labelled_run / "tiny_world", mode="supervised")
    bare = recipe.data.test[0].model_copy(update={"path": str(world)})
    other = Path(shutil.copytree(world, tmp_path / "other"))
    (other / "label_num_dic_final.json").write_text(json.dumps({"others": "0", "red": "1", "else": "2"}))
    foreign = bare.model_copy(update={"path": str(other)})
    for path in world.glob("data/*/mask"):
        shutil.rmtree(path)
    for wrong, message in (
        (with_data(recipe, val=bare), "data.val has no mask"),
        (with_data(recipe, test=(foreign,)), "has the classes of"),
        (with_data(recipe, test=(bare.model_copy(update={"split": "vall"}),)), r"vall.txt: no such list"),
    ):
        for more in ({}, {"dry": True}):
            with pytest.raises(SemivssError, match=message):
                run(wrong, out, **more)
    assert not (out / "student").exists()
    run(with_data(recipe, test=(bare,)), out)  # as a challenge's test set
    assert "test: no masks, so its predictions are not scored" in capsys.readouterr().err
    assert list((out / "predictions" / "test").rglob("*.png"))
    assert json.loads((out / "scores.json").read_text()).keys() == {"provenance"}


def test_a_teacher_that_is_not_finite_costs_no_labels(labelled_run, tmp_path):
    recipe, out = semi_recipe(labelled_run / "tiny_world"), copied_run(labelled_run, tmp_path)
    folder, labels = out / "student" / "model", {path: path.stat().st_mtime_ns for path in (out / "pseudo").rglob("*.png")}
    broken = Segmenter.from_pretrained(folder)
    torch.nn.init.constant_(next(broken.head.parameters()), float("nan"))
    shutil.copytree(folder, tmp_path / "sound")
    broken.save_pretrained(folder)
    with pytest.raises(SemivssError, match="gives values that are not finite"):
        run(recipe, out, until="pseudo-label", again=True)
    shutil.rmtree(folder)
    (tmp_path / "sound").rename(folder)
    run(recipe, out, until="pseudo-label", again=True)
    assert {path: path.stat().st_mtime_ns for path in (out / "pseudo").rglob("*.png")} == labels


def test_corrections_of_a_later_round_stop_a_run_before_it_makes_anything(labelled_run, tmp_path, capsys):
    recipe, out = semi_recipe(labelled_run / "tiny_world", rounds=2, train={"steps": 2}), copied_run(labelled_run, tmp_path)
    run(recipe, out, until="retrain")
    correct(out / "pseudo_2" / "a" / "00000000.png")
    before = (out / "retrained" / "model" / "model.safetensors").read_bytes()
    other = semi_recipe(labelled_run / "tiny_world", rounds=2, train={"steps": 2}, threshold={"alpha": 60})
    with pytest.raises(SemivssError, match=r"pseudo_2: would be made anew, but holds 1 label corrected by hand"):
        run(other, out, until="retrain", again=True, accept_edited=True)
    assert (out / "retrained" / "model" / "model.safetensors").read_bytes() == before
    run(other, out, dry=True, again=True, accept_edited=True)
    assert re.search(r"pseudo-label pseudo_2: will stop: .*corrected by hand", capsys.readouterr().err)


def test_a_dry_run_knows_what_is_made_from_what(labelled_run, tmp_path, capsys):
    recipe, out = semi_recipe(labelled_run / "tiny_world", train={"steps": 2}), copied_run(labelled_run, tmp_path)
    run(recipe, out)
    correct(out / "pseudo" / "a" / "00000000.png")
    capsys.readouterr()
    run(recipe, out, dry=True, again=True, accept_edited=True)
    foreseen = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("train", "pseudo-label", "retrain", "predict"))]
    kept = {line.split(":")[0] for line in foreseen if "done before" in line}
    assert kept == {"train student", "pseudo-label pseudo", "predict test with student"}
    assert {line.split(":")[0] for line in foreseen} - kept == {"retrain retrained", "predict test"}
    run(recipe, out, again=True, accept_edited=True)
    assert kept == {line.split(":")[0] for line in capsys.readouterr().err.splitlines() if "done before, skipped" in line}


def test_a_stopped_from_takes_other_settings(labelled_run, tmp_path, monkeypatch):
    from semivss.train import loop

    recipe, out = semi_recipe(labelled_run / "tiny_world"), copied_run(labelled_run, tmp_path)
    run(recipe, out, until="retrain")

    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, out, start="retrain", until="retrain")
    run(semi_recipe(labelled_run / "tiny_world", threshold={"alpha": 60}), out, start="retrain", until="retrain")
    with pytest.raises(SemivssError, match="student comes before retrain"):
        run(recipe, out, start="retrain", until="student")


def test_a_run_folder_is_no_place_for_other_predictions_and_keeps_its_recipe(labelled_run, tmp_path):
    from semivss.recipe import load_recipe
    from semivss.settings import Predict
    from semivss.verbs import predict_paths

    recipe, out = semi_recipe(labelled_run / "tiny_world", threshold={"alpha": 60}), copied_run(labelled_run, tmp_path)
    run(recipe, out, until="retrain")
    run(semi_recipe(labelled_run / "tiny_world"), out, until="student")  # skipped: nothing is made by the other recipe
    assert load_recipe(out / "recipe.toml").semi.threshold.alpha == 60
    with pytest.raises(SemivssError, match=r"pseudo: belongs to a semivss run.*--out"):
        predict_paths([out / "student" / "model"], labelled_run / "tiny_world", out / "pseudo", Predict())
