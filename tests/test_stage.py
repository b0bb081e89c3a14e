"""Stamps of stages: what a killed process, a lost stamp and other inputs lead to."""

import json
import shutil
from pathlib import Path

import pytest

from semivss.defaults import defaults
from semivss.errors import SemivssError
from semivss.plan import plan
from semivss.recipe import FREE, parse_recipe
from semivss.stage import Stage, flat


def made(folder: Path, **inputs: str) -> Stage:
    """A finished stage with a model, a checkpoint and a stamp."""
    stage = Stage("train", folder, inputs)
    assert not stage.is_done(again=False)
    (folder / "model").mkdir()
    (folder / "last.ckpt").write_text("old")
    stage.finish()
    return stage


def test_what_was_made_is_put_aside_until_something_takes_its_place(tmp_path):
    first = made(tmp_path / "student", lr="1")
    other = Stage("train", tmp_path / "student", {"lr": "2"})
    assert not other.is_done(again=True)
    assert not (tmp_path / "student" / "last.ckpt").exists()
    assert other.restore()  # its making failed at once
    assert first.is_done(again=False)
    assert not other.is_done(again=True)
    assert first.is_done(again=False)  # it was stopped, and the setting taken back
    assert (tmp_path / "student" / "last.ckpt").read_text() == "old"
    assert not other.is_done(again=True)
    (tmp_path / "student" / "last.ckpt").write_text("new")
    assert not other.restore()
    other.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_kill_while_a_folder_is_put_aside_leaves_no_half_of_it(tmp_path, monkeypatch):
    made(tmp_path / "student", lr="1")
    other = Stage("train", tmp_path / "student", {"lr": "2"})
    rename = Path.rename

    def killed(path: Path, target: Path) -> None:
        rename(path, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            other.is_done(again=True)
    assert not (tmp_path / "student").exists()
    assert other.verdict().kind == "to do"
    assert not other.is_done(again=False)
    (tmp_path / "student" / "last.ckpt").write_text("new")
    other.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_folder_whose_stamp_is_gone_is_of_unknown_making(tmp_path):
    stage = made(tmp_path / "student", lr="1")
    (tmp_path / "student" / "stamp.json").unlink()
    assert stage.verdict().text(again=False) == "its stamp is gone, needs --again"
    with pytest.raises(SemivssError, match=r"its stamp is gone.*--again"):
        stage.is_done(again=False)
    assert (tmp_path / "student" / "last.ckpt").is_file()
    assert not stage.is_done(again=True)
    assert not (tmp_path / "student" / "last.ckpt").exists()


def test_a_guard_is_asked_before_a_stamp_is_changed(tmp_path):
    made(tmp_path / "pseudo", frames="1", views="1")
    asked = []

    def guard(changed):
        asked.append(list(changed))
        raise SemivssError("no")

    stage = Stage("label", tmp_path / "pseudo", {"frames": "1", "views": "2"}, guard)
    with pytest.raises(SemivssError, match="no"):
        stage.is_done(again=True)
    assert asked == [["views"]]
    with pytest.raises(SemivssError, match=r"views: 1 -> 2\); --again will not do: no$"):  # what to take back, and what to fear
        stage.is_done(again=False)
    assert Stage("label", tmp_path / "pseudo", {"frames": "1", "views": "1"}).is_done(again=False)


def test_a_finished_model_is_not_given_up_for_one_that_was_only_begun(tmp_path):
    first = made(tmp_path / "student", lr="1")
    for rate in ("2", "3"):  # two changes in a row, each stopped after it had written something
        other = Stage("train", tmp_path / "student", {"lr": rate})
        assert not other.is_done(again=True)
        (tmp_path / "student" / "last.ckpt").write_text("half")
        assert not other.restore()
    assert first.is_done(again=False)  # the change was taken back
    assert (tmp_path / "student" / "last.ckpt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def labelled(folder: Path) -> Stage:
    """A finished piecewise stage with one file."""
    stage = Stage("label", folder, {"views": "1"}, piecewise=True)
    assert not stage.is_done(again=False)
    (folder / "one.png").write_text("1")
    (folder / "manifest.json").write_text('{"files": [{"path": "one.png"}], "histogram": {"path": "histogram.npz"}}')
    (folder / "histogram.npz").write_text("")
    stage.finish()
    assert stage.verdict().kind == "done"
    return stage


def test_what_another_command_has_made_of_a_folder_is_noticed(tmp_path):
    stage = labelled(tmp_path / "pseudo")
    manifest = tmp_path / "pseudo" / "manifest.json"
    content = manifest.read_text()
    manifest.write_text(content + " ")
    with pytest.raises(SemivssError, match=r"made over by another command.*--again"):
        stage.is_done(again=False)
    manifest.write_text(content)
    assert stage.is_done(again=False)
    for name in ("one.png", "histogram.npz", "manifest.json"):
        (tmp_path / "pseudo" / name).rename(tmp_path / name)
        with pytest.raises(SemivssError, match=rf"{name} is gone.*--again"):
            stage.is_done(again=False)
        (tmp_path / name).rename(tmp_path / "pseudo" / name)
    (tmp_path / "pseudo" / "one.png").unlink()
    assert not stage.is_done(again=True)
    assert manifest.is_file()  # what is there stays: the work goes through it by itself


def test_a_stamp_of_before_a_setting_existed_says_its_default(tmp_path):
    made(tmp_path / "student", lr="1")
    assert Stage("train", tmp_path / "student", {"lr": "1", "new": "0"}, absent={"lr": "3", "new": "0"}).is_done(again=False)
    other = Stage("train", tmp_path / "student", {"lr": "1", "new": "5"}, absent={"new": "0"})
    assert other.verdict().what == "made with other inputs (new: 0 -> 5)"
    same = Stage("train", tmp_path / "student", {"lr": "1", "new": "0"}, absent={"new": "0"})
    same.wait()
    assert not other.is_done(again=True)
    assert same.is_done(again=False)  # what was put aside is taken back


def test_runs_of_a_version_with_fewer_settings_stay_finished(tmp_path):
    views = {"views": {"scales": [1.0, 2.0]}}
    data = {"train": [{"kind": "toy"}], "val": {"kind": "toy"}}
    recipe = parse_recipe({"name": "x", "data": data, "train": {"layer_decay": 0.9}, "predict": views})
    stamped = flat(recipe.model_dump(mode="json", exclude=FREE))
    older = {name: value for name, value in stamped.items() if name not in NEWER}
    assert len(stamped) - len(older) == len(NEWER) == 4
    absent = flat(defaults(recipe))
    made(tmp_path / "student", **older)
    assert Stage("train", tmp_path / "student", stamped, absent=absent).verdict().changed == ("train.layer_decay",)
    plain = stamped | {"train.layer_decay": "null"}
    assert Stage("train", tmp_path / "student", plain, absent=absent).verdict().kind == "done"


NEWER = {"data.augment.short_side", "data.train.0.weight", "train.layer_decay", "model.mask2former.mask_channels"}


def test_a_weight_file_counts_by_its_content_while_it_is_there(tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_text("1")
    recipe = parse_recipe({"name": "x", "data": {"train": [{"kind": "toy"}]}, "model": {"weights": str(weights)}})
    step = plan(recipe, tmp_path / "run")[0]
    stage = step.stage()
    assert not stage.is_done(again=False)
    (step.folder / "last.ckpt").write_text("trained")
    stage.finish()
    (weights / "model.safetensors").write_text("2")
    assert step.stage().verdict().changed == ("file.model.weights",)
    shutil.rmtree(weights)
    assert step.stage().verdict().kind == "done"
    stamp = json.loads((step.folder / "stamp.json").read_text())
    del stamp["inputs"]["file.model.weights"]  # of a version that did not look
    (step.folder / "stamp.json").write_text(json.dumps(stamp))
    weights.write_text("a file")
    assert step.stage().verdict().kind == "done"
