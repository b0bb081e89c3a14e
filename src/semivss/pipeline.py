"""The stages of a run, each from folders to a folder: train -> pseudo-label -> retrain -> predict -> score -> report.

Without a [semi] section that is train, predict, score and report. A finished stage is stamped with what it was made from, and skipped.
"""

import contextlib
from collections.abc import Callable, Sequence, Set
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from semivss import layout
from semivss.atomic import atomic_bytes, atomic_json
from semivss.data.clips import VideoDataset
from semivss.data.labels import LabelSet
from semivss.data.overlap import seen_in_training, warning
from semivss.data.source import open_source, open_sources, open_unlabelled, same_classes
from semivss.digest import weights_hash
from semivss.errors import DataError, SemivssError
from semivss.hashes import split_hash
from semivss.lock import locked
from semivss.metrics.score import Missing
from semivss.metrics.scores import Scores
from semivss.plan import STAGES, Step, plan, retraining
from semivss.progress import say
from semivss.ranks import is_main_process
from semivss.recipe import Recipe, dump_recipe, evaluation_sets, load_recipe
from semivss.redo import Redo
from semivss.settings import Model
from semivss.stage import Verdict, versions, was_finished
from semivss.wording import counted


def demo_recipe(overrides: Sequence[str] = ()) -> Recipe:
    """The recipe behind `semivss demo`: the toy world and a tiny model."""
    return load_recipe(shipped_recipes() / "toy.toml", overrides)


def shipped_recipes() -> Path:
    """The folder of recipes: inside an installed package, or at the top of a checkout."""
    inside = Path(str(resources.files("semivss") / "recipes"))
    return inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"


def run(
    recipe: Recipe,
    out: Path,
    *,
    again: bool = False,
    start: str | None = None,
    until: str | None = None,
    accept_edited: bool = False,
    dry: bool = False,
) -> None:
    """All stages of `recipe` into the run folder `out`.

    Args:
        again: redo finished stages whose settings or inputs changed, instead of stopping there.
        start: redo this stage (a name of STAGES) and all after it, whatever their stamps say; repeated after it was stopped, go on.
        until: stop after this stage (a name of STAGES).
        accept_edited: use pseudo labels that were corrected by hand.
        dry: only say what would be done.

    Of several processes (torchrun) all train, and the first does the rest.
    """
    if recipe.data.unlabelled and recipe.semi is None and is_main_process():
        say(f"{recipe.name}: without a section [semi] data.unlabelled stays unread")
    steps = plan(recipe, out, accept_edited=accept_edited)
    for option, stage in (("--from", start), ("--until", until)):
        if stage not in (None, "score", "report", *(step.name for step in steps)):
            raise SemivssError(f"{option} {stage}: {recipe.name} has no such stage; it has {', '.join(_names(steps))}")
    if start and not _is_before_end(start, until):
        raise SemivssError(f"--from {start} --until {until}: {until} comes before {start}; swap them or leave one out")
    steps = [step for step in steps if _is_before_end(step.name, until)]
    stages = {step.name for step in steps}
    if dry:
        check_models(recipe, steps, check_data(recipe, stages), start, again, Redo(out, start, recipe.digest()))
        forecast(steps, start, again)
        return
    with locked(out) if is_main_process() else contextlib.nullcontext():
        redo = Redo(out, start, recipe.digest())
        if is_main_process():
            check_models(recipe, steps, check_data(recipe, stages), start, again, redo)
            clear_leftovers(out)
        for number, step in enumerate(steps if is_main_process() else _up_to_the_last_training(steps)):
            execute(step, out, recipe, steps[number + 1 :], again=again, redo=redo if _is_from(step.name, start) else None)
        if _is_before_end("score", until) or not (out / "recipe.toml").exists():  # else it may be that of a later stage
            _keep_recipe(recipe, out)
        if is_main_process() and _is_before_end("score", until):
            score_stage(recipe, out)
        if is_main_process() and _is_before_end("report", until):
            report_stage(out)
        if is_main_process():
            redo.finish()


def check_data(recipe: Recipe, stages: Set[str]) -> LabelSet | None:
    """Open every data set that these stages read, before the first of them takes its time. Masks and frames are not read.

    Returns:
        The classes of the training data; none where nothing is trained.

    Raises:
        SemivssError: a data set is not there or not of its kind, has other classes than the training data, or no mask to evaluate on.
    """
    data, training = recipe.data, stages & {"teacher", "student", "retrain"}
    first = None
    if training:
        first = open_sources(data.train, data.policy)[0]
    for name, source in evaluation_sets(recipe).items():
        if ("predict" in stages) or (training and name == "val"):
            dataset = open_source(source, data.policy)
            if first is not None and has_masks(dataset):
                same_classes(first, dataset)
            if name == "val" and not has_masks(dataset):
                raise DataError(f"{dataset.name}: data.val has no mask to evaluate on; give a split with masks, or leave data.val out")
    if stages & {"pseudo-label", "retrain"} and recipe.semi is not None and recipe.semi.mode != "supervised":
        open_unlabelled(data.unlabelled, data.policy)
    return None if first is None else first.label_set


def check_models(recipe: Recipe, steps: Sequence[Step], label_set: LabelSet | None, start: str | None, again: bool, redo: Redo) -> None:
    """Build every model that these steps train, without its values, before the first of them takes its time; look for weight files.

    Raises:
        SemivssError: no such backbone, sizes or ranks that do not fit, or a weight file that is not there for a training still to come.
    """
    from semivss.cost.model_cost import build_meta
    from semivss.models.weights.weight_file import demand_weights
    from semivss.train.contrast import rank_window

    built: list[Model] = []
    for step in steps:
        if step.recipe is not None and step.recipe.model not in built and label_set is not None:
            build_meta(step.recipe.model, label_set)
            built.append(step.recipe.model)
    semi = recipe.semi
    contrasts = semi is not None and semi.mode != "supervised" and semi.contrast.weight and any(step.name == "retrain" for step in steps)
    if semi is not None and contrasts and label_set is not None:
        rank_window(semi.contrast, len(label_set))
    for step in steps:
        if step.weights is not None and not step.weights.exists() and _will_train(step, start, again, redo):
            demand_weights(step.weights)


def _will_train(step: Step, start: str | None, again: bool, redo: Redo) -> bool:
    """Whether this run trains here, as far as can be told before the steps in front of it are done."""
    if _is_from(step.name, start) and not redo.is_done(step.folder):
        return True
    return not was_finished(step.folder) if step.reads else will_change(step.stage().verdict(), again)


def has_masks(dataset: VideoDataset) -> bool:
    """Whether any frame is labelled."""
    return any(clip.is_labelled(index) for clip in dataset.clips for index in range(len(clip.stems)))


def clear_leftovers(out: Path) -> None:
    """Delete the temporary files of writers that were killed; none can be alive while the run folder is ours."""
    for pattern in (".*.tmp", "*/.*.tmp", "*/*/.*.tmp"):  # the stages look after what lies deeper
        for rest in out.glob(pattern):
            rest.unlink(missing_ok=True)


def execute(step: Step, out: Path, recipe: Recipe, later: Sequence[Step] = (), *, again: bool = False, redo: Redo | None = None) -> None:
    """Do one step unless it is done; every process must call it. With `redo` what was done is cleared first, and noted there.

    Raises:
        SemivssError: making it, or labelling anew what one of the steps `later` has labelled, would cost corrections by hand; or as the
            step's work does.
    """
    if redo is not None and not is_main_process():
        redo.wait(step.folder)
    if not (step.together or is_main_process()):
        step.stage().wait()  # what comes next is made of it
        return
    stage = step.stage()
    clear = redo is not None and not redo.is_done(step.folder) and is_main_process()
    if clear or will_change(stage.verdict(), again):
        for other in later:
            other.ask_about_corrections()
    if redo is not None and clear:
        stage.ask(list(stage.inputs))
        stage.clear()
        redo.note(step.folder)
    if stage.is_done(again, anew=redo is not None):
        return
    _keep_recipe(recipe, out)
    if step.recipe is not None and is_main_process():
        from semivss.cost.before_training import memory_line

        with contextlib.suppress(SemivssError):  # of what cannot be trained, training itself tells
            say(memory_line(step.recipe, step.title))
    try:
        step.make()
    except SemivssError:
        if stage.restore() and redo is not None:
            redo.forget(step.folder)
        raise
    stage.finish()


def will_change(verdict: Verdict, again: bool) -> bool:
    """Whether a run would make the stage, now or in part."""
    return verdict.kind != "done" and (verdict.kind != "other" or again)


def _up_to_the_last_training(steps: Sequence[Step]) -> Sequence[Step]:
    """What the processes beside the first have to see."""
    return steps[: max((number for number, step in enumerate(steps, 1) if step.together), default=0)]


def forecast(steps: Sequence[Step], start: str | None, again: bool = False) -> None:
    """Say of each step whether it would be done, skipped or refused. What is made of something that is still to be made is not known."""
    changing: set[Path] = set()
    for step in steps:
        if changing.intersection(step.reads):
            changing.add(step.folder)
            state = _refusal(step.ask_about_corrections) or "to do, after what comes before it"
        else:
            stage, redo = step.stage(), _is_from(step.name, start)
            verdict = stage.verdict()
            state = "will be made anew" if redo else verdict.text(again)
            if redo or verdict.kind != "done":
                changing.add(step.folder)
                state = _refusal(partial(stage.ask, list(stage.inputs) if redo else verdict.changed)) or state
        say(f"{step.title}: {state} ({step.folder})")
    say("score and report are always made anew")


def _refusal(question: Callable[[], None]) -> str:
    """Why a step would stop, as far as its guard can tell; empty if it would not."""
    try:
        question()
    except SemivssError as error:
        return f"will stop: {error}"
    return ""


def _names(steps: Sequence[Step]) -> list[str]:
    """Stages in their order, each once."""
    return [*dict.fromkeys(step.name for step in steps), "score", "report"]


def train_stage(recipe: Recipe, out: Path, *, again: bool = False) -> None:
    """Supervised training into `out`/student (and `out`/teacher), or go on where an earlier call was stopped."""
    run(recipe, out, again=again, until="student")


def retrain_stage(
    recipe: Recipe, out: Path, pseudo: Sequence[Path], weights: Path | None, *, again: bool = False, accept_edited: bool = False
) -> None:
    """Retrain the recipe's student into `out`/retrained, or go on where an earlier call was stopped.

    Args:
        recipe: with a section [semi].
        out: run folder.
        pseudo: folders of pseudo labels, one an unlabelled source, whoever made them; mode offline needs them, the others take none.
        weights: model folder to start from; none: the student of `out`, or random values with semi.start = "scratch".
        again: redo it if settings or inputs changed.
        accept_edited: use pseudo labels that were corrected by hand.

    Raises:
        SemivssError: nothing to start from or to learn from, or as `run` does.
    """
    if recipe.semi is None:
        raise SemivssError(f"{recipe.name}: has no section [semi], which says how to retrain; add it")
    if pseudo and recipe.semi.mode != "offline":
        raise SemivssError(
            f'{recipe.name}: mode {recipe.semi.mode} reads no pseudo labels; leave --pseudo out, or set semi.mode = "offline"'
        )
    if len(pseudo) != len(recipe.data.unlabelled) and recipe.semi.mode == "offline":
        wanted, given = counted(len(recipe.data.unlabelled), "unlabelled source"), counted(len(pseudo), "folder")
        raise SemivssError(f"{recipe.name}: {wanted}, but {given} of pseudo labels; give --pseudo once for each, in the recipe's order")
    if weights is not None and recipe.semi.start == "scratch":
        raise SemivssError(f'{recipe.name}: semi.start = "scratch" takes no model; leave --start out, or set semi.start = "student"')
    if weights is None and recipe.semi.start == "student":
        weights = out / layout.supervised(recipe)["student"] / "model"
        if not weights.exists():
            raise SemivssError(f'{weights}: no student to retrain; train one there, give --start MODEL, or set semi.start = "scratch"')
    step = retraining(recipe, out, weights, pseudo, accept_edited)
    if weights is not None and weights.resolve().is_relative_to(step.folder.resolve()):
        raise SemivssError(f"{weights}: is what this retraining makes; start from another model, or choose another --out")
    with locked(out) if is_main_process() else contextlib.nullcontext():
        if is_main_process():
            check_models(recipe, [step], check_data(recipe, {step.name}), None, again, Redo(out, None, recipe.digest()))
            clear_leftovers(out)
        execute(step, out, recipe, again=again)
    if is_main_process():
        say(f"model: {step.folder / 'model'}")


def score_stage(recipe: Recipe, out: Path) -> None:
    """Score the predictions of every evaluation set into `out`/scores.json, and those of the single models beside them.

    A set with videos that the training has seen labelled carries a `warning`, beside every model's scores, and in `trained_on` their names.

    Under the policies skip and ignore a frame that could not be read has no prediction: its pixels count as wrong, and that is said.
    """
    from semivss.metrics.score import render, score_folder

    policy = recipe.data.policy
    missing: Missing = "error" if policy == "strict" else "wrong"
    results: dict[str, Any] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, source in evaluation_sets(recipe).items():
        dataset = open_source(source, policy)
        if not has_masks(dataset):
            say(f"{name}: no masks, so its predictions are not scored ({out / 'predictions' / name})")
            continue
        for entry in layout.compared(recipe):
            rows.setdefault(entry, {})[name] = _scored(
                score_folder(out / "compare" / entry / name, dataset, recipe.score, policy=policy, missing=missing)
            )
        scores = score_folder(out / "predictions" / name, dataset, recipe.score, policy=policy, missing=missing)
        render(scores, title=f"{recipe.name}: {name}")
        results[name] = scores.to_dict() | {"split_hash": split_hash(dataset)}
        seen = seen_in_training(recipe.data.train, source, dataset, policy)
        told = warning(seen, len(dataset.clips))
        if seen:
            say(f"{name}: {told}")
            results[name] |= {"warning": told, "trained_on": seen}
            for row in rows.values():
                row[name]["warning"] = told
        if rows:
            rows.setdefault(layout.final_name(recipe), {})[name] = _scored(scores) | ({"warning": told} if seen else {})
    comparison = {"comparison": rows} if rows else {}
    atomic_json(out / "scores.json", results | comparison | {"provenance": provenance(recipe, out)})


def report_stage(out: Path) -> None:
    """Write `out`/report/index.html."""
    from semivss.report.html import write_report

    say(f"report: {write_report(out)}")


def provenance(recipe: Recipe, out: Path) -> dict[str, Any]:
    """What every result carries: seed, versions, hashes."""
    models = {folder: weights_hash(out / folder / "model") for folder in layout.final_models(recipe)}
    edited = _edited(recipe, out)
    found = {"recipe": recipe.digest(), "seed": recipe.train.seed, "models": models, "versions": versions()}
    return found | ({"edited_pseudo_labels": edited} if edited else {})


def _keep_recipe(recipe: Recipe, out: Path) -> None:
    """What made, or is about to make, the folders beside it."""
    if is_main_process():
        atomic_bytes(out / "recipe.toml", dump_recipe(recipe).encode())


def _is_from(name: str, start: str | None) -> bool:
    """Whether the stage `name` is `start` or comes after it."""
    return start is not None and STAGES.index(name) >= STAGES.index(start)


def _is_before_end(name: str, until: str | None) -> bool:
    """Whether the stage `name` belongs to a run that ends with `until`."""
    return until is None or STAGES.index(name) <= STAGES.index(until)


def _scored(scores: Scores) -> dict[str, Any]:
    """What the comparison shows of one set."""
    overall = {"miou": scores.overall.miou, "weighted_iou": scores.overall.weighted_iou}
    return overall | {f"vc{part.n}": part.vc for part in scores.vc}


def _edited(recipe: Recipe, out: Path) -> list[str]:
    """Frames whose pseudo labels were corrected by hand, `<folder>/<video>/<stem>`."""
    from semivss.data.pseudo import open_pseudo

    folders = [folder for number in layout.rounds(recipe) for folder in layout.pseudo_folders(recipe, number)]
    made = [folder for folder in folders if (out / folder / "manifest.json").is_file()]
    return [f"{folder}/{name}" for folder in made for name in open_pseudo(out / folder, accept_edited=True).edited]
