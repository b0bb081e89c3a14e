"""The stages of a run: everything is written, what is finished is skipped, what changed is said, what is damaged is told."""

import csv
import json
import math
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from semivss.errors import SemivssError
from semivss.pipeline import demo_recipe, run, score_stage, shipped_recipes, train_stage
from semivss.recipe import Recipe, load_recipe
from semivss.stage import Stage
from semivss.verbs import model_folder, models_and_inputs

ROOT = Path(__file__).parents[1]
SMALL = [
    'data.absent_classes="allow"',
    "train.steps=4",
    "train.batch=2",
    "train.warmup=1",
    "train.evaluate_every=2",
    "train.checkpoint_every=2",
    "data.augment.crop=[32, 64]",
    "data.train.0.toy={clips=2, frames=2, size=[60, 80]}",
    "data.val.toy={clips=1, frames=3, size=[60, 80], first_clip=1000}",
    "data.test.0.toy={clips=1, frames=3, size=[60, 80], first_clip=2000}",
]


def small_recipe(overrides: list[str]) -> Recipe:
    """The supervised recipe of the toy world."""
    return load_recipe(shipped_recipes() / "toy_labelled.toml", overrides)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "demo"
    run(small_recipe(SMALL), out)
    return out


def test_run_writes_every_stage(finished):
    for name in ("recipe.toml", "student/model/model.safetensors", "student/metrics.csv", "student/last.ckpt", "report/index.html"):
        assert (finished / name).is_file(), name
    assert len(list((finished / "predictions/val").glob("1000_*/*.png"))) == 3
    assert len(list((finished / "predictions/test").glob("*.mp4"))) == 1


def test_unlabelled_data_that_stays_unread_is_said(tmp_path, capsys):
    recipe = small_recipe(SMALL)
    data = recipe.data.model_copy(update={"unlabelled": recipe.data.train})
    run(recipe.model_copy(update={"data": data}), tmp_path, dry=True)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "data.unlabelled" in line]
    assert "unread" in line


def test_the_demo_goes_through_the_whole_method(tmp_path):
    more = [f"semi.{setting}" for setting in SMALL[1:6]] + [
        "semi.unlabelled_batch=2",
        "data.unlabelled.0.toy={clips=2, frames=2, size=[60, 80]}",
    ]
    run(demo_recipe([*SMALL, *more]), tmp_path)
    assert {"teacher", "student", "retrained", "predictions", "compare", "report"} <= {path.name for path in tmp_path.iterdir()}
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores["comparison"]) == ["teacher", "student", "control", "retrained_no_contrast", "retrained", "ensemble"]
    assert list(scores["provenance"]["models"]) == ["teacher", "retrained"]  # controls are there for comparison alone
    stamps = {
        name: json.loads((tmp_path / name / "stamp.json").read_text())["inputs"]
        for name in ("control", "retrained_no_contrast", "retrained")
    }
    assert stamps["control"]["semi.mode"] == '"supervised"'
    assert not [name for name in stamps["control"] if name.startswith("pseudo")]
    left_out, whole = stamps["retrained_no_contrast"], stamps["retrained"]
    assert {name for name in whole if whole[name] != left_out.get(name)} == {"semi.contrast.weight"}
    assert len({stamp["train.seed"] for stamp in stamps.values()}) == 1  # the same crops
    assert scores["comparison"]["ensemble"]["test"]["miou"] == scores["test"]["miou"]
    page = (tmp_path / "report/index.html").read_text()
    assert "ensemble" in page
    assert "score again" not in page
    picture = runpy.run_path(str(ROOT / "docs" / "demo_picture.py"))
    recipe = load_recipe(tmp_path / "recipe.toml")
    lines = [*picture["pseudo_lines"](recipe, tmp_path), *picture["test_lines"](recipe, tmp_path)]
    assert [[image.shape[:2] for _, image in line] for line in lines] == [[(60, 80)] * 4] * 4
    picture["draw"](lines, tmp_path / "demo.png")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("model.backbone=timm/resnet999", "no such model; did you mean resnet"),
        ("model.weights=nowhere.pth", "nowhere.pth: cannot read the weight file"),
        ("teacher.model.backbone=timm/resnet999", "no such model"),
        ("semi.contrast.low_rank=12", "nothing to contrast among 12 classes"),
    ],
)
def test_models_are_looked_at_before_the_first_training(tmp_path, wrong, message):
    with pytest.raises(SemivssError, match=message):
        run(demo_recipe([*SMALL, wrong]), tmp_path / "run")
    assert not (tmp_path / "run" / "teacher").exists()


def test_scores_carry_what_made_them(finished):
    scores = json.loads((finished / "scores.json").read_text())
    assert {"val", "test", "provenance"} == scores.keys()
    assert 0 <= scores["val"]["miou"] <= 1
    assert scores["val"]["split_hash"] != scores["test"]["split_hash"]
    assert {"recipe", "seed", "models", "versions"} == scores["provenance"].keys()
    assert scores["provenance"]["recipe"] == small_recipe(SMALL).digest()


def test_second_run_skips_training_and_prediction(finished):
    files = [finished / "student/model/model.safetensors", *(finished / "predictions").rglob("*.png")]
    before = [path.stat().st_mtime_ns for path in files]
    run(small_recipe(SMALL), finished)
    assert [path.stat().st_mtime_ns for path in files] == before


def test_other_settings_are_named_and_not_used_silently(finished):
    with pytest.raises(SemivssError, match=r"train\.lr: 0\.\d+ -> 0\.5.*--again") as caught:
        train_stage(small_recipe([*SMALL, "train.lr=0.5"]), finished)
    assert "\n" not in str(caught.value)


def test_settings_that_change_no_weight_keep_the_trained_model(finished):
    before = (finished / "student/model/model.safetensors").stat().st_mtime_ns
    train_stage(small_recipe([*SMALL, "data.workers=1", "data.cache_mb=1", "data.test.0.toy.clips=2"]), finished)
    assert (finished / "student/model/model.safetensors").stat().st_mtime_ns == before


def test_a_stage_that_failed_before_it_wrote_anything_takes_other_settings(tmp_path):
    with pytest.raises(SemivssError, match="nowhere"):
        train_stage(small_recipe([*SMALL, "data.val.kind=vspw", "data.val.path=nowhere"]), tmp_path)
    train_stage(small_recipe(SMALL), tmp_path)
    with pytest.raises(SemivssError, match="--again"):
        train_stage(small_recipe([*SMALL, "train.seed=1"]), tmp_path)
    train_stage(small_recipe([*SMALL, "train.seed=1"]), tmp_path, again=True)


def test_other_views_redo_only_the_prediction_when_asked(finished, tmp_path):
    recipe = small_recipe([*SMALL, "predict.views.scales=[1.0]", "predict.views.flip=false", "predict.overlay=none"])
    weights = (finished / "student/model/model.safetensors").stat().st_mtime_ns
    with pytest.raises(SemivssError, match=r"predict val.*views\.flip"):
        run(recipe, finished, until="predict")
    run(recipe, finished, until="predict", again=True)
    score_stage(recipe, finished)
    assert not list((finished / "predictions/val").glob("*.mp4"))
    assert (finished / "student/model/model.safetensors").stat().st_mtime_ns == weights


def test_a_frame_that_prediction_had_to_leave_out_counts_as_wrong(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    next((tmp_path / "run/predictions/val").glob("1000_*/*1.png")).unlink()
    with pytest.raises(SemivssError, match="1 of 3 predictions are missing"):
        score_stage(small_recipe(SMALL), tmp_path / "run")
    score_stage(small_recipe([*SMALL, "data.policy=skip"]), tmp_path / "run")
    assert len(json.loads((tmp_path / "run/scores.json").read_text())["val"]["missing"]) == 1


def test_damaged_stamp_is_told(tmp_path):
    stage = Stage("train", tmp_path, {"a": "1"})
    assert not stage.is_done(False)
    assert not stage.is_done(False)  # begun, not finished
    stage.finish()
    assert stage.is_done(False)
    (tmp_path / "stamp.json").write_text("{")
    with pytest.raises(SemivssError, match=r"stamp\.json: not readable"):
        stage.is_done(False)


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("rank", ["RANK", "LOCAL_RANK"])
def test_only_the_first_of_several_processes_stamps_and_clears(rank, tmp_path, monkeypatch):
    made = Stage("train", tmp_path / "made", {"a": "1"})
    made.is_done(False)
    (made.folder / "last.ckpt").write_bytes(b"work")
    before = tree(tmp_path)
    monkeypatch.setenv(rank, "1")
    new, other = Stage("train", tmp_path / "new", {"a": "1"}), Stage("train", made.folder, {"a": "2"})
    assert not new.is_done(False)
    assert not other.is_done(True)
    made.finish()
    assert tree(tmp_path) == before
    monkeypatch.setenv(rank, "0")
    assert not other.is_done(True)
    assert not (made.folder / "last.ckpt").exists()


def test_the_other_processes_of_a_run_leave_after_training(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    trained = []
    monkeypatch.setattr("semivss.train.loop.train", lambda recipe, out, **_more: trained.append(out))
    run(small_recipe(SMALL), tmp_path / "run")  # the prediction would miss the model
    assert trained == [tmp_path / "run" / "student"]
    assert not (tmp_path / "run").exists()


def test_model_folder_is_found_in_a_run(finished, tmp_path):
    assert model_folder(finished) == model_folder(finished / "student") == finished / "student" / "model"
    with pytest.raises(SemivssError, match="no model there"):
        model_folder(tmp_path)


def test_leading_model_folders_are_the_ensemble_and_the_rest_is_input(finished, tmp_path):
    model, films = finished / "student" / "model", [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    assert models_and_inputs([finished, *films]) == ([finished], films)
    assert models_and_inputs([finished, model, films[0]]) == ([finished, model], films[:1])
    assert models_and_inputs([model, finished]) == ([model], [finished])
    assert models_and_inputs(films) == (films[:1], films[1:])


def test_commands_work_on_what_a_run_left(finished, tmp_path):
    def semivss(*words: object) -> str:
        done = subprocess.run([sys.executable, "-m", "semivss", *map(str, words)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    world, predictions = tmp_path / "world", tmp_path / "predictions"
    semivss("data", "toy", world, "--clips", 1, "--frames", 2, "--size", "60x80", "--flow")
    semivss(
        "predict", finished, finished, world, "--split", "test", "--out", predictions, "--weights", "2,1", "--flip", "--overlay", "none"
    )
    shown = semivss("score", predictions, world, "--split", "test", "--flow", world, "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert "mIoU" in shown
    assert f"TC {100 * scores['tc']:.2f} over 1 pairs" in shown
    assert 0 <= scores["miou"] <= 1
    semivss("submit", predictions, world, "--out", tmp_path / "s.zip")
    assert (tmp_path / "s.zip").stat().st_size > 0
    semivss("data", "check", world, "--out", tmp_path / "check.png")


@pytest.mark.parametrize("backbone", ["swin_tiny", "beit_tiny", "vit_adapter_tiny", "vit_adapter_plain_tiny", "one_peace_tiny"])
def test_the_papers_backbones_go_through_a_run_at_tiny_size(backbone, tmp_path):
    masks = "{channels=32, queries=8, encoder_layers=1, decoder_layers=2, heads=4, encoder_feedforward=64, feedforward=64, points=256}"
    model = [f"model.backbone={backbone}", "model.head=mask2former", f"model.mask2former={masks}", "train.log_every=1"]
    run(small_recipe([*SMALL, *model]), tmp_path)
    with (tmp_path / "student/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert 0 < float(row["loss"]) < math.inf
        assert 0 < float(row["gradient_norm"]) < math.inf
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert all(0 <= scores[name]["miou"] <= 1 for name in ("val", "test"))


SHIPPED = sorted(path for path in (ROOT / "recipes").rglob("*.toml") if path.parent.name != "paper")  # those: test_paper_recipes.py


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_trains_two_steps_of_each_stage(path, tmp_path):
    overrides = [
        "train.steps=2",
        "train.batch=2",
        "train.warmup=1",
        "data.augment.crop=[64, 64]",
        "train.evaluate_every=5",
        "data.cache_mb=0",
        'data.absent_classes="allow"',
    ]
    toy = {"kind": "toy", "toy": {"clips": 1, "frames": 2, "size": [60, 80]}}
    recipe = load_recipe(path, overrides)
    if recipe.semi is not None:
        more = ("semi.train.steps=2", "semi.train.batch=2", "semi.train.warmup=1", "semi.unlabelled_batch=2")
        recipe = load_recipe(path, [*overrides, *more])
    if recipe.teacher is not None and recipe.teacher.train is not None:
        short = recipe.teacher.train.model_copy(update={"steps": 2, "batch": 2, "warmup": 1})
        recipe = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"train": short})})
    small = {"train": [toy], "unlabelled": [toy] if recipe.semi else [], "val": None, "test": []}
    data = type(recipe.data).model_validate(recipe.data.model_dump() | small)
    last, stage = ("student", "student") if recipe.semi is None else ("retrained", "retrain")
    run(recipe.model_copy(update={"data": data}), tmp_path, until=stage)
    assert (tmp_path / last / "model/config.json").is_file()
