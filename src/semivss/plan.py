"""A recipe and a run folder in, the steps of the run in their order out: what each is made from, where it writes, what makes it.

Nothing heavy is imported before a step is made.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semivss import layout
from semivss.data.pseudo import PseudoFolder, open_pseudo
from semivss.data.shares import class_shares
from semivss.data.source import open_source
from semivss.defaults import defaults
from semivss.digest import path_sha256, weights_hash
from semivss.errors import SemivssError
from semivss.hashes import classes_hash, pseudo_hash, split_hash
from semivss.models.weights.lite0 import LITE0
from semivss.recipe import FREE, Recipe, Sections, evaluation_sets
from semivss.settings import SPEED, Predict, PseudoLabels, Source, Train
from semivss.stage import AUTO, FILES, Stage, flat
from semivss.threads import kept_threads
from semivss.wording import counted

if TYPE_CHECKING:
    pass

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
    guard: Callable[[Sequence[str]], None] | None = None  # as `Stage.guard`
    absent: Mapping[str, str] = field(default_factory=dict)  # as `Stage.absent`
    piecewise: bool = False  # as `Stage.piecewise`
    reads: tuple[Path, ...] = ()  # folders of the run that it is made from
    recipe: Recipe | None = None  # of what it trains
    weights: Path | None = None  # file or folder from outside the run that its training begins with

    def stage(self) -> Stage:
        """The stage with its present inputs."""
        return Stage(self.title, self.folder, self.inputs(), self.guard, self.absent, self.piecewise)

    def ask_about_corrections(self) -> None:
        """Raise SemivssError if other models would label anew what a person corrected."""
        if self.name == "pseudo-label" and self.guard is not None:
            self.guard(["model.0"])


def plan(recipe: Recipe, out: Path, *, accept_edited: bool = False) -> list[Step]:
    """The steps of a run in their order, up to the predictions."""
    return training(recipe, out, accept_edited) + predictions(recipe, out)


def training(recipe: Recipe, out: Path, accept_edited: bool = False) -> list[Step]:
    """The steps that make models, and the pseudo labels between them."""
    models = layout.supervised(recipe)
    steps = [_training(role, supervised_recipe(recipe, role), out / folder, _sections(recipe, role)) for role, folder in models.items()]
    for number in layout.rounds(recipe):
        steps += _round(recipe, out, models, number, accept_edited)
        models = models | layout.retrained(recipe, number)
    return steps


def supervised_recipe(recipe: Recipe, role: str = "student") -> Recipe:
    """What the supervised stage of a model depends on."""
    data = recipe.data.model_copy(update={"unlabelled": ()})
    own = recipe.model_copy(update={"data": data, "teacher": None, "semi": None})
    if role == "student" or recipe.teacher is None:
        return own
    train = _seeded(recipe.teacher.train or recipe.train.model_copy(update={"seed": 0}), recipe, layout.supervised(recipe)[role])
    return own.model_copy(update={"model": recipe.teacher.model, "train": train})


def retraining_recipe(recipe: Recipe, role: str = "student", number: int = 1) -> Recipe:
    """What the retraining of a model in round `number` depends on: the settings of [semi.train] under a seed of its own.

    Rates by layer that [semi.train] is silent about are those of the model's own training: they belong to its backbone.
    """
    assert recipe.semi is not None
    train: Train = recipe.semi.train
    before = supervised_recipe(recipe, role).train
    if train.layer_decay is None:
        train = train.model_copy(update={"layer_decay": before.layer_decay, "compat": before.compat})
    train = _seeded(train, recipe, layout.retrained(recipe, number)[role])
    own = recipe.model_copy(update={"train": train, "teacher": None})
    return own.model_copy(update={"model": recipe.teacher.model}) if role == "teacher" and recipe.teacher else own


def _seeded(train: Train, recipe: Recipe, folder: str) -> Train:
    """The same under a seed made of the run's, its own and the folder's name.

    Under one seed all trainings of a run would see the same crops in the same order: the control would only repeat what the student
    has seen, and the models of an ensemble would err alike.
    """
    seed = f"{recipe.train.seed} {train.seed} {folder}"
    return train.model_copy(update={"seed": int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4])})


def _sections(recipe: Recipe, role: str) -> Sections:
    """Where the supervised training of a model has its settings."""
    if role == "student" or recipe.teacher is None:
        return Sections()
    return Sections("teacher.model", "train" if recipe.teacher.train is None else "teacher.train")


def _training(role: str, recipe: Recipe, folder: Path, sections: Sections) -> Step:
    def make() -> None:
        from semivss.train.loop import train

        train(recipe, folder, sections=sections)

    def inputs() -> Mapping[str, str]:
        return flat(recipe.model_dump(mode="json", exclude=FREE)) | _frames(recipe) | _file(recipe)

    absent = flat(defaults(recipe))
    return Step(role, f"train {role}", folder, inputs, make, True, absent=absent, recipe=recipe, weights=_outside(recipe))


def _frames(recipe: Recipe) -> dict[str, str]:
    """Hashes of each data set that a training opens: of its frames, and of the classes where it reads masks."""
    data = recipe.data
    sets = {f"frames.train.{number}": source for number, source in enumerate(data.train)}
    if recipe.semi is not None and recipe.semi.mode == "online":  # offline the pseudo labels name the frames
        sets |= {f"frames.unlabelled.{number}": source for number, source in enumerate(data.unlabelled)}
    if data.val is not None:
        sets["frames.val"] = data.val
    hashes = {}
    for name, source in sets.items():
        dataset, read = open_source(source, data.policy), "unlabelled" not in name
        hashes[name] = split_hash(dataset, labelled=read)
        if read:
            hashes[name.replace("frames", "classes", 1)] = classes_hash(dataset)
    return hashes


def _outside(recipe: Recipe) -> Path | None:
    """The file or folder that training starts from."""
    weights = recipe.model.weights
    return None if weights is None or weights == LITE0 else Path(weights)


def _file(recipe: Recipe) -> dict[str, str]:
    """Its hash, where it is there."""
    path = _outside(recipe)
    return {f"{FILES}model.weights": path_sha256(path)} if path is not None and path.exists() else {}


def _round(recipe: Recipe, out: Path, models: Mapping[str, str], number: int, accept_edited: bool) -> Iterator[Step]:
    """Label the unlabelled video with `models`, those of the round before, then retrain them."""
    assert recipe.semi is not None
    pseudo = [out / folder for folder in layout.pseudo_folders(recipe, number)]
    labellers = [out / model for model in models.values()]
    for folder, source in zip(pseudo, recipe.data.unlabelled if pseudo else (), strict=True):
        # where the labels lay when there was one source and now are several, or the other way round
        others = [folder.parent] if len(pseudo) > 1 else [path.parent for path in sorted(folder.glob("[0-9]*/manifest.json"))]
        yield _labelling(recipe, labellers, source, folder, f"pseudo-label {folder.relative_to(out)}", others)
    for role, name in layout.retrained(recipe, number).items():
        weights = out / models[role] / "model" if recipe.semi.start == "student" else None
        sections = Sections(_sections(recipe, role).model, "semi.train")
        yield _retraining(retraining_recipe(recipe, role, number), out / name, weights, pseudo, accept_edited, sections)
    if number == 1:
        weights = out / models["student"] / "model" if recipe.semi.start == "student" else None
        for kind, name in layout.controls(recipe).items():
            labels = pseudo if kind == "no_contrast" else []
            yield _retraining(control_recipe(recipe, kind), out / name, weights, labels, accept_edited, Sections(train="semi.train"))


def control_recipe(recipe: Recipe, kind: str) -> Recipe:
    """The first retraining of the student, on the same crops, without the part that the control `kind` leaves out."""
    own = retraining_recipe(recipe)
    assert own.semi is not None
    left_out: dict[str, Any] = {"mode": "supervised"}
    if kind == "no_contrast":
        left_out = {"contrast": own.semi.contrast.model_copy(update={"weight": 0.0})}
    return own.model_copy(update={"semi": own.semi.model_copy(update=left_out | {"controls": ()})})


def _labelling(recipe: Recipe, models: Sequence[Path], source: Source, folder: Path, title: str, others: Sequence[Path]) -> Step:
    def inputs() -> Mapping[str, str]:
        hashes = {f"model.{number}": weights_hash(model / "model") for number, model in enumerate(models)}
        hashes["frames"] = split_hash(open_source(source, recipe.data.policy))
        return hashes | _contents(recipe.pseudo) | flat(source.model_dump(mode="json", exclude={"weight"}), "source")

    def make() -> None:
        from semivss.infer.execution import open_models
        from semivss.infer.pseudo import pseudo_label

        policy, wanted = recipe.data.policy, None
        if recipe.pseudo.align:
            wanted = class_shares([open_source(labelled, policy) for labelled in recipe.data.train], policy)
        with kept_threads():  # a training that follows has its own
            members = open_models([model / "model" for model in models], recipe.pseudo)
            pseudo_label(members, open_source(source, policy), folder, recipe.pseudo, policy=policy, wanted=wanted)

    def guard(changed: Sequence[str]) -> None:
        more_video = all(name == "frames" or name.startswith("source.") for name in changed)
        if recipe.pseudo.align or not more_video:
            _no_corrections(folder)
        if not (folder / "manifest.json").exists():
            for other in others:
                _no_corrections(other)

    return Step(
        "pseudo-label",
        title,
        folder,
        inputs,
        make,
        guard=guard,
        absent=flat(defaults(recipe.pseudo)) | flat(defaults(source), "source"),
        piecewise=True,
        reads=tuple(models),
    )


def _contents(settings: Predict | PseudoLabels) -> dict[str, str]:
    """What the files of a stage depend on."""
    from semivss.infer.precision import with_precision

    contents = flat(with_precision(settings).model_dump(mode="json", exclude=SPEED))
    return contents | ({"precision": AUTO + contents["precision"]} if settings.precision == "auto" else {})


def _no_corrections(folder: Path) -> None:
    """Raise SemivssError when labels in the folder were corrected by hand: making them anew would lose that work."""
    from semivss.infer.finished import corrections

    if edited := corrections(folder):
        raise SemivssError(
            f"{folder}: would be made anew, but holds {counted(len(edited), 'label')} corrected by hand, "
            f"the first is {edited[0]}; move the folder away if they are no longer wanted, or use another --out"
        )


def _retraining(
    recipe: Recipe, folder: Path, weights: Path | None, pseudo: Sequence[Path], accept_edited: bool, sections: Sections
) -> Step:
    def inputs() -> Mapping[str, str]:
        settings = flat(recipe.model_dump(mode="json", exclude=FREE)) | _frames(recipe)
        labels = {f"pseudo.{number}": pseudo_hash(one) for number, one in enumerate(pseudo)}
        return settings | labels | ({"weights": weights_hash(weights)} if weights else _file(recipe))

    def opened() -> list[PseudoFolder]:
        return [open_pseudo(one, accept_edited=accept_edited) for one in pseudo]

    def guard(changed: Sequence[str]) -> None:
        opened()  # labels that are refused must not cost the model made from them before

    def make() -> None:
        from semivss.train.loop import train
        from semivss.train.method import Given

        train(recipe, folder, given=Given(weights, opened() or None), sections=sections)

    reads = (*pseudo, *([weights.parent] if weights else []))
    outside = None if weights else _outside(recipe)
    title, absent = f"retrain {folder.name}", flat(defaults(recipe))
    return Step("retrain", title, folder, inputs, make, True, guard, absent, reads=reads, recipe=recipe, weights=outside)


def retraining(recipe: Recipe, out: Path, weights: Path | None, pseudo: Sequence[Path], accept_edited: bool = False) -> Step:
    """The first retraining of the student alone, from any model and with pseudo labels from any folders."""
    folder = out / layout.retrained(recipe, 1)["student"]
    return _retraining(retraining_recipe(recipe), folder, weights, pseudo, accept_edited, Sections(train="semi.train"))


def predictions(recipe: Recipe, out: Path) -> list[Step]:
    """Final predictions of every set with all that the recipe asks for, and bare ones of the single models for the comparison."""
    bare = recipe.predict.model_copy(update={"overlay": "none", "entropy": False, "probabilities": "none"})
    steps = []
    for name, source in evaluation_sets(recipe).items():
        final = [out / folder for folder in layout.final_models(recipe)]
        steps.append(_prediction(f"predict {name}", final, source, out / "predictions" / name, recipe.predict, recipe))
        for entry in layout.compared(recipe):
            folder = out / "compare" / entry / name
            steps.append(_prediction(f"predict {name} with {entry}", [out / entry], source, folder, bare, recipe))
    return steps


def _prediction(title: str, models: Sequence[Path], source: Source, folder: Path, settings: Predict, recipe: Recipe) -> Step:
    def inputs() -> Mapping[str, str]:
        hashes = {"model" if number == 0 else f"model.{number}": weights_hash(model / "model") for number, model in enumerate(models)}
        hashes["frames"] = split_hash(open_source(source, recipe.data.policy))
        return _contents(settings) | hashes | flat(source.model_dump(mode="json", exclude={"weight"}))

    def make() -> None:
        from semivss.infer.execution import open_models
        from semivss.infer.predict import predict

        with kept_threads():  # a training that follows has its own
            members = open_models([model / "model" for model in models], settings)
            predict(members, open_source(source, recipe.data.policy), folder, settings, policy=recipe.data.policy)

    absent = flat(defaults(settings)) | flat(defaults(source))
    return Step("predict", title, folder, inputs, make, absent=absent, piecewise=True, reads=tuple(models))
