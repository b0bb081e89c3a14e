"""A recipe and a run folder in, the steps of the run in their order out: what each is made from, where it writes, what makes it.

Nothing heavy is imported before a step is made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from semivss.data.source import open_source
from semivss.errors import SemivssError
from semivss.hashes import model_hash, pseudo_hash
from semivss.recipe import FREE, Recipe, evaluation_sets
from semivss.settings import Predict, Source
from semivss.stage import Stage, flat

STAGES = ("teacher", "student", "pseudo-label", "retrain", "predict", "score", "report")


@dataclass(frozen=True)
class Step:
    """A stage with what makes it. `inputs` is asked for when the stages before are done: it holds hashes of what they left."""

    name: str  # one of STAGES
    title: str  # for people
    folder: Path
    inputs: Callable[[], Mapping[str, str]]
    make: Callable[[], None]
    together: bool = False  # whether all processes of a torchrun take part
    guard: Callable[[], None] | None = None  # as `Stage.guard`

    def stage(self) -> Stage:
        """The stage with its present inputs."""
        return Stage(self.title, self.folder, self.inputs(), self.guard)


def plan(recipe: Recipe, out: Path, *, accept_edited: bool = False) -> list[Step]:
    """The steps of a run in their order, up to the predictions."""
    return training(recipe, out, accept_edited) + predictions(recipe, out)


def training(recipe: Recipe, out: Path, accept_edited: bool = False) -> list[Step]:
    """The steps that make models, and the pseudo labels between them."""
    models = _supervised(recipe, out)
    steps = [_training(role, supervised_recipe(recipe, role), folder) for role, folder in models.items()]
    for number in rounds(recipe):
        steps += _round(recipe, out, models, number, accept_edited)
    return steps


def final_models(recipe: Recipe, out: Path) -> list[Path]:
    """The training folders of the models that predict in the end: teacher, where there is one, and student."""
    models = _supervised(recipe, out)
    for number in rounds(recipe):
        models |= _retrained(recipe, out, number)
    return list(models.values())


def compared(recipe: Recipe, out: Path) -> dict[str, list[Path]]:
    """The models to be scored beside the final ones, by name: every one that was trained, where there is something to compare."""
    if recipe.semi is None and recipe.teacher is None:
        return {}
    final = final_models(recipe, out)
    trained = [step.folder for step in training(recipe, out) if step.together]
    return {folder.name: [folder] for folder in trained if [folder] != final}


def rounds(recipe: Recipe) -> range:
    """Numbers of the rounds of labelling and retraining, from 1."""
    return range(1, recipe.semi.rounds + 1 if recipe.semi else 1)


def _supervised(recipe: Recipe, out: Path) -> dict[str, Path]:
    """Training folders of the supervised models by role, the student last."""
    return ({"teacher": out / "teacher"} if recipe.teacher else {}) | {"student": out / "student"}


def supervised_recipe(recipe: Recipe, role: str = "student") -> Recipe:
    """What the supervised stage of a model depends on."""
    data = recipe.data.model_copy(update={"unlabelled": ()}) if recipe.semi else recipe.data
    own = recipe.model_copy(update={"data": data, "teacher": None, "semi": None})
    if role == "student" or recipe.teacher is None:
        return own
    return own.model_copy(update={"model": recipe.teacher.model, "train": recipe.teacher.train or recipe.train})


def retraining_recipe(recipe: Recipe, role: str = "student") -> Recipe:
    """What the retraining of a model depends on: the settings of [semi.train] under the run's seed."""
    assert recipe.semi is not None
    train = recipe.semi.train.model_copy(update={"seed": recipe.train.seed + recipe.semi.train.seed})
    own = recipe.model_copy(update={"train": train, "teacher": None})
    return own.model_copy(update={"model": recipe.teacher.model}) if role == "teacher" and recipe.teacher else own


def _training(role: str, recipe: Recipe, folder: Path) -> Step:
    def make() -> None:
        from semivss.train.loop import train

        train(recipe, folder)

    return Step(
        role,
        "train" if role == "student" else f"train {role}",
        folder,
        lambda: flat(recipe.model_dump(mode="json", exclude=FREE)),
        make,
        True,
    )


def _round(recipe: Recipe, out: Path, models: Mapping[str, Path], number: int, accept_edited: bool) -> Iterator[Step]:
    """Label the unlabelled video with the models of the round before, then retrain."""
    assert recipe.semi is not None
    before = dict(models)
    for earlier in range(1, number):
        before |= _retrained(recipe, out, earlier)
    folders = pseudo_folders(recipe, out, number) if recipe.semi.mode == "offline" else []
    for folder, source in zip(folders, recipe.data.unlabelled if folders else (), strict=True):
        yield _labelling(recipe, list(before.values()), source, folder)
    for role, folder in _retrained(recipe, out, number).items():
        weights = before[role] / "model" if recipe.semi.start == "student" else None
        yield _retraining(retraining_recipe(recipe, role), folder, weights, folders, accept_edited)


def _retrained(recipe: Recipe, out: Path, number: int) -> dict[str, Path]:
    """Folders of the models that round `number` retrains, the student's last."""
    assert recipe.semi is not None
    student = {"student": out / _numbered("retrained", number)}
    both = recipe.teacher is not None and recipe.semi.retrain_teacher
    return ({"teacher": out / _numbered("retrained_teacher", number)} if both else {}) | student


def pseudo_folders(recipe: Recipe, out: Path, number: int) -> list[Path]:
    """One folder an unlabelled source: `pseudo` itself where there is only one."""
    folder = out / _numbered("pseudo", number)
    sources = recipe.data.unlabelled
    return [folder] if len(sources) == 1 else [folder / str(position) for position in range(len(sources))]


def _labelling(recipe: Recipe, models: Sequence[Path], source: Source, folder: Path) -> Step:
    def inputs() -> Mapping[str, str]:
        hashes = {f"model.{number}": model_hash(model / "model") for number, model in enumerate(models)}
        return hashes | flat(recipe.pseudo.model_dump(mode="json", exclude={"batch"})) | flat(source.model_dump(mode="json"), "source")

    def make() -> None:
        from semivss.infer.pseudo import pseudo_label
        from semivss.models.segmenter import Segmenter

        members = [Segmenter.from_pretrained(model / "model") for model in models]
        pseudo_label(members, open_source(source, recipe.data.policy), folder, recipe.pseudo, policy=recipe.data.policy)

    return Step("pseudo-label", f"pseudo-label {folder.name}", folder, inputs, make, guard=lambda: _no_corrections(folder))


def _no_corrections(folder: Path) -> None:
    """Raise SemivssError when labels in the folder were corrected by hand: making them anew would lose that work."""
    from semivss.data.pseudo import open_pseudo

    if not (folder / "manifest.json").is_file():
        return
    if edited := open_pseudo(folder, accept_edited=True).edited:
        raise SemivssError(
            f"{folder}: would be made anew, but holds {len(edited)} labels corrected by hand, the first is {edited[0]}.png; "
            "move the folder away if they are no longer wanted, or use another --out"
        )


def _retraining(recipe: Recipe, folder: Path, weights: Path | None, pseudo: Sequence[Path], accept_edited: bool) -> Step:
    def inputs() -> Mapping[str, str]:
        settings = flat(recipe.model_dump(mode="json", exclude=FREE))
        labels = {f"pseudo.{number}": pseudo_hash(one) for number, one in enumerate(pseudo)}
        return settings | labels | ({"weights": model_hash(weights)} if weights else {})

    def make() -> None:
        from semivss.data.pseudo import open_pseudo
        from semivss.train.loop import train
        from semivss.train.method import Given

        opened = [open_pseudo(one, accept_edited=accept_edited) for one in pseudo]
        train(recipe, folder, given=Given(weights, opened or None))

    return Step("retrain", f"retrain {folder.name}", folder, inputs, make, True)


def predictions(recipe: Recipe, out: Path) -> list[Step]:
    """Final predictions of every set with all that the recipe asks for, and bare ones of the single models for the comparison."""
    bare = recipe.predict.model_copy(update={"overlay": "none", "entropy": False, "probabilities": "none"})
    steps = []
    for name, source in evaluation_sets(recipe).items():
        steps.append(_prediction(f"predict {name}", final_models(recipe, out), source, out / "predictions" / name, recipe.predict, recipe))
        for entry, models in compared(recipe, out).items():
            steps.append(_prediction(f"predict {name} with {entry}", models, source, out / "compare" / entry / name, bare, recipe))
    return steps


def _prediction(title: str, models: Sequence[Path], source: Source, folder: Path, settings: Predict, recipe: Recipe) -> Step:
    def inputs() -> Mapping[str, str]:
        hashes = {"model" if number == 0 else f"model.{number}": model_hash(model / "model") for number, model in enumerate(models)}
        return flat(settings.model_dump(mode="json")) | hashes | flat(source.model_dump(mode="json"))

    def make() -> None:
        from semivss.infer.predict import predict
        from semivss.models.segmenter import Segmenter

        members = [Segmenter.from_pretrained(model / "model") for model in models]
        predict(members, open_source(source, recipe.data.policy), folder, settings, policy=recipe.data.policy)

    return Step("predict", title, folder, inputs, make)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"
