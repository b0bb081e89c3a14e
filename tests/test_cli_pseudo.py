"""`semivss pseudo-label` and `semivss pseudo inspect` from their words to their files, and one line for what goes wrong."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semivss.cli import main
from semivss.data.labels import LabelSet
from semivss.data.pseudo import open_pseudo
from semivss.data.toy_files import write_toy
from semivss.data.vspw import read_vspw
from semivss.models.zoo import build_segmenter
from semivss.settings import Model, PixelHead


def semivss(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["semivss", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set and two models of its classes."""
    root = tmp_path_factory.mktemp("world")
    write_toy(root / "set", clips=4, frames=2, size=(48, 64), seed=0, flow=False)
    classes = read_vspw(root / "set", "val").label_set
    for seed in range(2):
        torch.manual_seed(seed)
        build_segmenter(Model(backbone="tiny", pixel=PixelHead(channels=8)), classes).save_pretrained(root / f"model{seed}")
    return root


def test_label_and_inspect(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pseudo"
    words = [world / "model0", world / "model1", world / "set", "--split", "val", "--out", out, "--weights", "3,1", "--flip"]
    assert semivss(monkeypatch, "pseudo-label", *words, "--window", "1", "--confidence", "--top-classes", "4") == 0
    folder = open_pseudo(out)
    folder.check(read_vspw(world / "set", "val"))
    assert folder.made_from["weights"] == [0.75, 0.25]
    assert (folder.made_from["window"], folder.made_from["views"]["flip"]) == (1, True)
    video = next(iter(folder.stems))
    top = folder.top_classes(video, next(iter(folder.stems[video])))
    assert top is not None
    assert top.shape == (4, 6, 8)
    assert (out / "confidence" / video).is_dir()
    capsys.readouterr()
    seen = ["pseudo", "inspect", out, "--truth", world / "set", "--split", "val", "--alpha", "40", "--out", tmp_path / "seen"]
    assert semivss(monkeypatch, *seen) == 0
    assert "2 frames, 2 with a mask; alpha 40 %" in capsys.readouterr().out
    assert json.loads((tmp_path / "seen" / "pseudo.json").read_text())["alpha"] == 40
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {"pseudo.json", "histogram.png", "worst.png"}
    edited = next((out / video).glob("*.png"))
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(edited)
    assert semivss(monkeypatch, *seen) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--accept-edited" in error
    assert semivss(monkeypatch, *seen, "--accept-edited") == 0
    assert f"corrected by hand, and taken as certain: {video}/{edited.stem}" in capsys.readouterr().out


def test_masks_that_the_models_of_a_run_learned_from_do_not_count(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run" / "pseudo"
    assert semivss(monkeypatch, "pseudo-label", world / "model0", world / "set", "--split", "train", "--out", out) == 0
    stems = [(clip.name, stem) for clip in read_vspw(world / "set", "train").clips for stem in clip.stems]
    (tmp_path / "few.txt").write_text(f"{stems[0][0]}/{stems[0][1]}\n")
    data = f'''name = "x"
    [[data.train]]
    kind = "vspw"
    path = "{world / "set"}"
    split = "train"
    labelled = "{tmp_path / "few.txt"}"
    '''
    seen = ["pseudo", "inspect", out, "--truth", world / "set", "--out", tmp_path / "seen"]
    cases = {
        None: (8, ""),
        data: (7, "1 of 8 masks are left out"),
        data.replace("few", "gone"): (8, "count too"),
        data.replace(str(world / "set"), "set"): (8, "count too"),  # as from another working directory
        data + "of_another_version = 1\n": (8, "count too"),
    }
    for recipe, (masks, said) in cases.items():
        if recipe is not None:
            (tmp_path / "run" / "recipe.toml").write_text(recipe)
        capsys.readouterr()
        assert semivss(monkeypatch, *seen) == 0
        captured = capsys.readouterr()
        assert f"8 frames, {masks} with a mask" in captured.out
        assert said in captured.out + captured.err


def test_predictions_and_pseudo_labels_do_not_replace_each_other_or_anything_of_a_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [world / "model0", world / "set", "--split", "val", "--out"]
    for verb, other, held in (("predict", "pseudo-label", "predictions"), ("pseudo-label", "predict", "pseudo labels")):
        assert semivss(monkeypatch, verb, *words, tmp_path / verb) == 0
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / verb).rglob("*")}
        capsys.readouterr()
        assert semivss(monkeypatch, other, *words, tmp_path / verb) == 2
        assert f"holds {held}, which would be lost" in capsys.readouterr().err
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / verb).rglob("*")} == before
        (tmp_path / verb / "manifest.json").unlink()  # as while it goes on
        assert semivss(monkeypatch, other, *words, tmp_path / verb) == 2
        assert f"holds {held}, which would be lost" in capsys.readouterr().err
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "manifest.json").write_text("[1]")
    assert semivss(monkeypatch, "predict", *words, tmp_path / "foreign") == 2
    assert "holds a manifest.json of something else" in capsys.readouterr().err
    run = tmp_path / "run"
    (run / "student").mkdir(parents=True)
    (run / "recipe.toml").write_text("")
    assert semivss(monkeypatch, "predict", *words, run) == 0  # a recipe alone makes no run
    (run / "student" / "stamp.json").write_text("{}")
    for folder in (run, run / "student", run / "predictions", run / "predictions" / "test", run / "pseudo" / "0"):
        for verb in ("predict", "pseudo-label"):
            assert semivss(monkeypatch, verb, *words, folder) == 2
            assert "belongs to a semivss run" in capsys.readouterr().err
    assert semivss(monkeypatch, "predict", *words, run / "of_today") == 0


def test_labels_are_aligned_with_a_labelled_set(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [world / "model0", world / "set", "--split", "val", "--out", tmp_path / "pseudo", "--align-to", world / "set"]
    assert semivss(monkeypatch, "pseudo-label", *words) == 0
    known = json.loads((tmp_path / "pseudo" / "alignment.json").read_text())
    truth = read_vspw(world / "set", "train")
    labels = np.concatenate([clip.labels(index).ravel() for clip in truth.clips for index in range(len(clip.stems))])
    counts = np.bincount(labels[labels != 255], minlength=12)
    assert known["wanted"] == pytest.approx(counts / counts.sum())
    assert open_pseudo(tmp_path / "pseudo").made_from["factors"] == known["factors"]
    first = truth.clips[0]
    (world / "set" / "few.txt").write_text(f"{first.name}\n")
    assert semivss(monkeypatch, "pseudo-label", *words, "--align-list", "few.txt") == 0
    labels = np.concatenate([first.labels(index).ravel() for index in range(len(first.stems))])
    counts = np.bincount(labels[labels != 255], minlength=12)
    assert json.loads((tmp_path / "pseudo" / "alignment.json").read_text())["wanted"] == pytest.approx(counts / counts.sum())


def test_alignment_with_other_classes_is_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two = LabelSet("two", ("cow", "grass"), ((255, 0, 0), (0, 255, 0)), (False,) * 2)
    build_segmenter(Model(backbone="tiny", pixel=PixelHead(channels=8)), two).save_pretrained(tmp_path / "cows")
    words = [tmp_path / "cows", world / "set", "--out", tmp_path / "pseudo", "--align-to", world / "set"]
    assert semivss(monkeypatch, "pseudo-label", *words) == 2
    assert "give --align-to masks of their classes" in capsys.readouterr().err
    assert not (tmp_path / "pseudo").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pseudo-label", "model0"], "at least one model"),
        (["pseudo-label", "set", "set"], "no model there"),
        (["pseudo-label", "model0", "set", "--window", "-1"], "window"),
        (["pseudo-label", "model0", "set", "--weights", "1,2"], "2 weights for 1 model;"),
        (["pseudo-label", "model0", "nothing"], "no such file"),
        (["pseudo-label", "model0", "set", "--align-to", "nothing"], "nothing"),
        (["pseudo", "inspect", "set"], "no finished pseudo labels"),
    ],
)
def test_mistakes_are_one_line(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    monkeypatch.chdir(world)
    assert semivss(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
