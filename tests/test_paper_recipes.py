"""The recipes of the paper's tables: they load, say what they cost and what to expect, and have the paper's numbers."""

import json
import re
import shlex
from pathlib import Path

import pytest

from semivss.cost.recipe_cost import VSPW_FRAMES, Machine, recipe_costs
from semivss.pipeline import run
from semivss.plan import retraining_recipe, supervised_recipe
from semivss.recipe import Recipe, load_recipe
from semivss.summary import describe

ROOT = Path(__file__).parents[1]
FILES = {path.stem: path for path in sorted((ROOT / "recipes" / "paper").glob("*.toml"))}
TABLE1 = {"swin_l": 57.09, "beit_l": 58.54, "vit_adapter_l": 61.40, "one_peace_l": 61.96}  # mIoU at one scale, test part 1
TABLE2 = {224: 57.95, 320: 58.90, 640: 61.40, 768: 61.69, 896: 62.03}  # ViT-Adapter-L by crop
TABLE3 = ["62.36  VC8 93.30  VC16 90.97", "62.76      94.32       92.14", "62.94      94.33       92.19"]
TABLE3 += ["63.38      94.34       92.18", "63.71      94.75       92.69"]
SCALES = [512, 640, 768, 896, 1024, 1152, 1280, 1408]
SMALL_HEAD = {"channels": 32, "queries": 8, "encoder_layers": 1, "decoder_layers": 1, "heads": 4, "points": 64}


def header(name: str) -> str:
    lines = FILES[name].read_text().splitlines()
    return "\n".join(line for line in lines[: next(k for k, line in enumerate(lines) if not line.startswith("#"))])


def trainings(recipe: Recipe) -> list[Recipe]:
    own = [supervised_recipe(recipe)] + ([supervised_recipe(recipe, "teacher")] if recipe.teacher else [])
    return own + ([retraining_recipe(recipe), retraining_recipe(recipe, "teacher")] if recipe.semi else [])


@pytest.mark.parametrize("name", FILES)
def test_header_has_command_cost_and_expected_number(name):
    text = header(name)
    assert f"semivss run recipes/paper/{name}.toml --out runs/{name}" in text
    assert re.search(r"show --cost --processes \d+", text)
    assert re.search(r"[\d.]+ GiB a GPU, [\d.,]+ hours", text)
    assert re.search(r"reported\s+(# )?by|no number in the paper|the paper reports", text)


@pytest.mark.parametrize("name", FILES)
def test_optimiser_is_the_papers(name):
    for recipe in trainings(load_recipe(FILES[name])):
        train = recipe.train
        assert (train.lr, train.betas, train.weight_decay, train.steps) == (1e-5, (0.9, 0.999), 0.05, 80_000)
        assert train.warmup > 0
        assert (train.schedule, train.power) == ("poly", 1.0)
        assert recipe.model.head == "mask2former"
        published = recipe.model.mask2former
        assert (published.channels, published.queries, published.heads, published.feedforward) == (1024, 200, 32, 4096)
        assert recipe.data.augment.max_class_share == 0.75
        assert recipe.data.augment.crop == (recipe.data.augment.short_side,) * 2


@pytest.mark.parametrize("backbone", TABLE1)
def test_table_1(backbone):
    recipe, start = load_recipe(FILES[f"table1_{backbone}"]), load_recipe(FILES[f"coco_{backbone}"])
    assert f"{TABLE1[backbone]:.2f} mIoU on" in header(f"table1_{backbone}")
    assert recipe.model.backbone == start.model.backbone == backbone
    assert recipe.model.weights == f"runs/{start.name}/student/model"
    assert recipe.model.drop_path == start.model.drop_path
    assert [(source.kind, source.remap) for source in start.data.train] == [("coco_stuff", None)]
    kinds = [(source.kind, source.split, source.remap) for source in recipe.data.train]
    assert kinds == [
        ("vspw", "train", None),
        ("ade20k", "train", "ade20k150_to_vspw124"),
        ("coco_stuff", "train", "coco_stuff171_to_vspw124"),
    ]
    assert (recipe.predict.views.scales, recipe.predict.views.flip) == ((1.0,), False)


def test_table_2_has_a_command_a_row():
    found = {}
    for line in header("table2").splitlines():
        if (command := re.match(r"#   semivss run (\S+)(.*?) +# ([\d.]+)$", line)) is not None:
            recipe = load_recipe(ROOT / command[1], [word for word in shlex.split(command[2])[2:] if word != "-o"])
            assert "[" not in re.sub(r"'[^']*'", "", command[2])  # unquoted brackets are a pattern to zsh
            found[recipe.data.augment.crop[0]] = float(command[3])
            views, side = recipe.predict.views, recipe.data.augment.short_side
            assert recipe.data.augment.crop == views.crop == (side, side)
            assert views.short_side == side
            assert recipe.model.backbone == "vit_adapter_l"
    assert found == TABLE2


def test_table_3_is_one_run():
    recipe, text = load_recipe(FILES["table3"]), header("table3")
    assert all(row in text for row in TABLE3)
    assert (recipe.model.backbone, recipe.teacher.model.backbone) == ("vit_adapter_l", "one_peace_l")
    assert recipe.semi.mode == "offline"
    assert recipe.semi.retrain_teacher
    assert recipe.semi.contrast.weight == 0.1
    assert (recipe.semi.threshold.alpha, recipe.semi.threshold.schedule) == (20, "linear")
    for views in (recipe.pseudo.views, recipe.predict.views):
        assert [round(scale * 896, 6) for scale in views.scales] == SCALES
        assert (views.flip, views.short_side) == (True, 896)
    assert [(source.split, source.labelled) for source in recipe.data.unlabelled] == [("test", None)]
    assert "val" not in [source.split for source in recipe.data.train]


def test_the_challenge_labels_train_and_val_and_takes_test_as_unlabelled():
    recipe, text = load_recipe(FILES["challenge"]), header("challenge")
    own = {source.split: source.weight for source in recipe.data.train if source.kind == "vspw"}
    frames = {split: VSPW_FRAMES[split] for split in ("train", "val")}
    assert own == {split: pytest.approx(2 * count / sum(frames.values()), abs=0.005) for split, count in frames.items()}
    assert [source.split for source in recipe.data.unlabelled] == ["test"]
    assert [source.split for source in recipe.data.test] == ["test"]
    assert all(number in text for number in ("63.71", "67.83", "77.61", "94.82", "92.90"))
    assert "val is training data here" in text
    assert recipe.model_copy(update={"data": None, "name": ""}) == load_recipe(FILES["table3"]).model_copy(
        update={"data": None, "name": ""}
    )


def test_rates_fall_as_published_with_each_backbone_also_in_retraining():
    published = {"vit_adapter_l": 0.9, "one_peace_l": 0.95, "beit_l": 0.9, "swin_l": None}
    for name in FILES:
        for recipe in trainings(load_recipe(FILES[name])):
            assert recipe.train.layer_decay == published[recipe.model.backbone]


def test_the_large_teacher_is_shared_out():
    assert load_recipe(FILES["table3"]).teacher.train.sharding == "full"
    assert all(load_recipe(FILES[name]).train.sharding == "full" for name in ("coco_one_peace_l", "table1_one_peace_l"))


def tiny(model: dict) -> dict:
    family = model["backbone"].removesuffix("_l")
    return model | {"backbone": f"{family}_tiny", "weights": None, "mask2former": SMALL_HEAD}


def shrunk(name: str) -> Recipe:
    """The same stages on a toy world with the smallest model of each family."""
    recipe = load_recipe(FILES[name])
    tree = recipe.model_dump(exclude_unset=True)
    toy = {"kind": "toy", "toy": {"clips": 1, "frames": 2, "size": (60, 80)}}
    short = {"steps": 2, "batch": 2, "warmup": 1, "evaluate_every": 5}
    tree["data"] |= {"train": [toy], "unlabelled": [toy] if recipe.semi else [], "val": None, "test": [], "workers": 0}
    tree["data"] |= {"absent_classes": "allow", "augment": {"crop": (64, 64)}}
    tree["model"], tree["train"] = tiny(tree["model"]), tree["train"] | short
    if recipe.teacher is not None:
        tree["teacher"] = {"model": tiny(tree["teacher"]["model"]), "train": tree["teacher"]["train"] | short}
        small = {"scales": (1.0, 1.5), "flip": True, "crop": (64, 64), "stride": (64, 64), "short_side": 64}
        tree["pseudo"] |= {"views": small}
        tree["semi"] |= {"unlabelled_batch": 2, "train": tree["semi"]["train"] | short}
    return Recipe.model_validate(tree)


@pytest.mark.parametrize("name", FILES)
def test_text_of_show(name):
    text = describe(shrunk(name))
    assert "# parameters" in text
    assert "# training memory" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_text_of_show_at_full_size(name):
    assert "# training memory" in describe(load_recipe(FILES[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_costs_in_headers_are_those_counted(name):
    trainings, labellings = recipe_costs(load_recipe(FILES[name]), Machine(processes=8))
    told = [(float(size), float(hours)) for size, hours in re.findall(r"([\d.]+) GiB a GPU, ([\d.]+) hours", header(name))]
    assert told == [pytest.approx((cost.peak / 2**30, cost.hours), abs=0.051) for cost in trainings]
    for cost in trainings:
        assert cost.evaluation is None or cost.evaluation.peak <= cost.peak or f"{cost.evaluation.peak / 2**30:.1f} GiB" in header(name)
    amounts = [float(number) * {"P": 1e15, "E": 1e18}[unit] for number, unit in re.findall(r"([\d.]+) ([PE])FLOP", header(name))]
    for cost in labellings:
        if cost.frames is not None and cost.name in ("pseudo labels", "predict test"):
            assert any(amount == pytest.approx(cost.frames * cost.flops, rel=0.006) for amount in amounts), cost.name


def test_the_challenge_runs_to_its_report_and_warns_of_val(tmp_path):
    recipe = shrunk("challenge")
    data = recipe.data.model_copy(update={"val": recipe.data.train[0]})
    views = recipe.predict.views.model_copy(update={"scales": (1.0,), "crop": (64, 64), "stride": (64, 64), "short_side": 64})
    recipe = recipe.model_copy(update={"data": data, "predict": recipe.predict.model_copy(update={"views": views})})
    run(recipe, tmp_path)
    scores = json.loads((tmp_path / "scores.json").read_text())
    told = "1 of its 1 video was among the labelled training videos"
    assert scores["val"]["warning"].startswith(told)
    assert list(scores["comparison"]) == ["teacher", "student", "retrained_teacher", "retrained", "ensemble"]
    assert all(sets["val"]["warning"].startswith(told) for sets in scores["comparison"].values())
    assert (tmp_path / "report" / "index.html").read_text().count(told) == 2  # of the scores and of the comparison


@pytest.mark.parametrize("name", ["table1_swin_l", "table1_beit_l"])
def test_stages_run_at_the_smallest_size(name, tmp_path):
    recipe = shrunk(name)
    run(recipe, tmp_path, until="student")
    assert (tmp_path / "student/model/config.json").is_file()
