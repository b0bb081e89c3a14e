from pathlib import Path

import pytest

from semivss import plan
from semivss.layout import final_models, plain_name, pseudo_folders, rounds, trained
from semivss.recipe import Recipe, parse_recipe

TOY = {"kind": "toy"}
DATA = {"train": [TOY], "unlabelled": [TOY]}
BOTH = {"data": {"train": [TOY], "unlabelled": [TOY, TOY]}, "teacher": {}, "semi": {"rounds": 2, "retrain_teacher": True}}
RECIPES = [  # with the folders of their final models
    ({"data": DATA}, ["student"]),
    ({"data": DATA, "teacher": {}}, ["teacher", "student"]),
    ({"data": DATA, "semi": {}}, ["retrained"]),
    ({"data": DATA, "semi": {"mode": "online"}}, ["retrained"]),
    ({"data": DATA, "teacher": {}, "semi": {"rounds": 3}}, ["teacher", "retrained_3"]),
    (BOTH, ["retrained_teacher_2", "retrained_2"]),
]


def _recipe(tree: dict) -> Recipe:
    return parse_recipe({"name": "run"} | tree)


@pytest.mark.parametrize(("tree", "final"), RECIPES)
def test_folders_are_those_of_the_plan(tree: dict, final: list[str], tmp_path: Path) -> None:
    recipe = _recipe(tree)
    steps = plan.training(recipe, tmp_path)
    assert [tmp_path / name for name in trained(recipe)] == [step.folder for step in steps if step.name != "pseudo-label"]
    labelled = [tmp_path / name for number in rounds(recipe) for name in pseudo_folders(recipe, number)]
    assert labelled == [step.folder for step in steps if step.name == "pseudo-label"]
    assert final_models(recipe) == final


def test_names_for_people_tell_the_models_apart() -> None:
    recipe = _recipe(BOTH)
    assert {folder: plain_name(recipe, folder) for folder in [*trained(recipe), "ensemble"]} == {
        "teacher": "teacher, labelled frames only",
        "student": "student, labelled frames only",
        "retrained_teacher": "teacher, retrained, round 1",
        "retrained": "student, retrained, round 1",
        "retrained_teacher_2": "teacher, retrained, round 2",
        "retrained_2": "student, retrained, round 2",
        "ensemble": "ensemble",
    }
    assert pseudo_folders(recipe, 2) == ["pseudo_2/0", "pseudo_2/1"]


def test_the_control_is_not_called_semi_supervised() -> None:
    assert plain_name(_recipe({"data": DATA, "semi": {"mode": "supervised"}}), "retrained") == "student, trained on without pseudo labels"
