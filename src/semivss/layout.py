"""A recipe in, the folders of its run by name out: what is trained, what holds pseudo labels, which models predict in the end."""

import re

from semivss.recipe import Recipe

ENSEMBLE = "ensemble"  # name of the final predictions where several models make them


def rounds(recipe: Recipe) -> range:
    """Numbers of the rounds of labelling and retraining, from 1."""
    return range(1, recipe.semi.rounds + 1 if recipe.semi else 1)


def supervised(recipe: Recipe) -> dict[str, str]:
    """Training folders of the supervised models by role, the student's last."""
    return ({"teacher": "teacher"} if recipe.teacher else {}) | {"student": "student"}


def retrained(recipe: Recipe, number: int) -> dict[str, str]:
    """Training folders of the models that round `number` retrains by role, the student's last."""
    both = recipe.semi is not None and recipe.teacher is not None and recipe.semi.retrain_teacher
    return ({"teacher": _numbered("retrained_teacher", number)} if both else {}) | {"student": _numbered("retrained", number)}


def controls(recipe: Recipe) -> dict[str, str]:
    """Training folders of the students that are there for comparison, by what `semi.controls` calls them."""
    folders = {"supervised": "control", "no_contrast": "retrained_no_contrast"}
    return {name: folders[name] for name in recipe.semi.controls} if recipe.semi and recipe.semi.mode != "supervised" else {}


def trained(recipe: Recipe) -> list[str]:
    """All training folders, for people: the supervised models, the controls, what retraining made of the models."""
    later = (folder for number in rounds(recipe) for folder in retrained(recipe, number).values())
    return [*supervised(recipe).values(), *controls(recipe).values(), *later]


def final_models(recipe: Recipe) -> list[str]:
    """Training folders of the models that predict in the end: teacher, where there is one, and student."""
    models = supervised(recipe)
    for number in rounds(recipe):
        models |= retrained(recipe, number)
    return list(models.values())


def compared(recipe: Recipe) -> list[str]:
    """Training folders whose models are scored beside the final predictions; none where there is nothing to compare."""
    if recipe.semi is None and recipe.teacher is None:
        return []
    return [folder for folder in trained(recipe) if [folder] != final_models(recipe)]


def final_name(recipe: Recipe) -> str:
    """Name of the final predictions in a comparison."""
    final = final_models(recipe)
    return final[0] if len(final) == 1 else ENSEMBLE


def is_of_a_run(name: str) -> bool:
    """Whether the run of some recipe writes into a folder of that name."""
    return (
        re.fullmatch(
            r"(teacher|student|control|retrained_no_contrast|predictions|compare|report|(retrained(_teacher)?|pseudo)(_\d+)?)", name
        )
        is not None
    )


def pseudo_folders(recipe: Recipe, number: int) -> list[str]:
    """Folders that round `number` labels, one an unlabelled source: `pseudo` itself where there is only one. Empty unless offline."""
    if recipe.semi is None or recipe.semi.mode != "offline":
        return []
    folder, sources = _numbered("pseudo", number), recipe.data.unlabelled
    return [folder] if len(sources) == 1 else [f"{folder}/{position}" for position in range(len(sources))]


def plain_name(recipe: Recipe, folder: str) -> str:
    """What a training folder's model is, for people; another name (such as the ensemble's) stays as it is."""
    role = "teacher" if "teacher" in folder else "student"
    if folder in supervised(recipe).values():
        return f"{role}, labelled frames only"
    if folder in controls(recipe).values():
        how = "as many steps again on labelled frames" if folder == controls(recipe).get("supervised") else "retrained without L_c"
        return f"student, {how}"
    for number in rounds(recipe):
        if folder in retrained(recipe, number).values():
            how = "trained on without pseudo labels" if recipe.semi and recipe.semi.mode == "supervised" else "retrained"
            return f"{role}, {how}" + (f", round {number}" if len(rounds(recipe)) > 1 else "")
    return folder


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"
