"""The verbs that work on folders, outside a run: paths and settings in, what they write out."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from semivss.atomic import atomic_json, demand_folder, newest
from semivss.data.clips import VideoDataset
from semivss.data.policy import DefectCounter, Policy
from semivss.data.pseudo import HISTOGRAMS, KIND, RECORDS
from semivss.data.shares import class_shares
from semivss.data.source import open_source
from semivss.errors import DataError, RecipeError, SemivssError
from semivss.hashes import split_hash
from semivss.layout import final_models, is_of_a_run
from semivss.metrics.score import Missing
from semivss.presets import Budget
from semivss.progress import say, say_once
from semivss.recipe import Recipe, load_recipe
from semivss.settings import Predict, PseudoLabels, Score, Source, Views
from semivss.stage import versions

if TYPE_CHECKING:
    from semivss.infer.inputs import InputVideo
    from semivss.infer.job import Job

Labelling = TypeVar("Labelling", Predict, PseudoLabels)
_PREDICTIONS = "predictions"


def predict_paths(
    models: Sequence[Path],
    source: Path | Sequence[Path],
    out: Path,
    settings: Predict,
    *,
    weights: Sequence[float] | None = None,
    split: str | None = None,
    policy: Policy = "strict",
    budget: Budget | None = None,
) -> None:
    """Segment a data set, a frame folder or videos with model folders or exported files; within a budget with views that are found for it.

    Raises SemivssError for what cannot be read, and for a budget that is too small.
    """
    demand_words(models, source, out, pseudo=False)
    for hint in (ensemble_hint(models), None if budget else views_hint(models, settings.views)):
        if hint:
            say_once(hint)
    from semivss.infer.execution import open_models
    from semivss.infer.inputs import open_inputs
    from semivss.infer.predict import predict, predict_job

    members = open_models([model_path(path) for path in models], settings)
    left_out = DefectCounter()
    inputs = open_inputs(source, split=split, policy=policy, left_out=left_out)
    if budget is not None:
        settings = _within(budget, settings, lambda chosen: predict_job(members, out, chosen, weights, policy=policy), inputs)
    predict(members, inputs, out, settings, weights=weights, policy=policy, left_out=left_out)
    say_once(f"predictions: {out}")


def pseudo_label_paths(
    models: Sequence[Path],
    source: Path | Sequence[Path],
    out: Path,
    settings: PseudoLabels,
    *,
    split: str | None = None,
    policy: Policy = "strict",
    align_to: Path | None = None,
    align_split: str = "train",
    align_list: str | None = None,
    budget: Budget | None = None,
) -> None:
    """Label a data set, a frame folder or videos with model folders or exported files; within a budget with views that are found for it.

    Raises SemivssError for what cannot be read, and for a budget that is too small.
    """
    demand_words(models, source, out, pseudo=True)
    from semivss.infer.execution import open_models
    from semivss.infer.inputs import open_inputs
    from semivss.infer.pseudo import pseudo_job, pseudo_label

    members = open_models([model_path(path) for path in models], settings)
    left_out = DefectCounter()
    wanted = None
    if align_to is not None:
        labelled = open_source(_source(align_to, align_split, "auto", align_list), policy)
        if labelled.label_set.names != members[0].label_set.names:
            raise DataError(
                f"{align_to}: has the classes of {labelled.label_set.name}, the models others; give --align-to masks of their classes"
            )
        wanted = class_shares([labelled], policy)
    inputs = open_inputs(source, split=split, policy=policy, left_out=left_out)
    if budget is not None:
        settings = _within(budget, settings, lambda chosen: pseudo_job(members, out, chosen, policy=policy, wanted=wanted), inputs)
    pseudo_label(members, inputs, out, settings, policy=policy, left_out=left_out, wanted=wanted)
    say_once(f"pseudo labels: {out}; look at them with semivss pseudo inspect {out}")


def _within(budget: Budget, settings: Labelling, job_of: "Callable[[Labelling], Job]", inputs: "Sequence[InputVideo]") -> Labelling:
    """The settings with the largest views that fit the budget."""
    from semivss.infer.budget import choose_views

    def with_views(views: Views) -> Labelling:
        return settings.model_copy(update={"views": views.model_copy(update={"sampling": settings.views.sampling})})

    return with_views(choose_views(budget, lambda views: job_of(with_views(views)), inputs))


def export_paths(
    model: Path, size: tuple[int, int], out: Path | None, kind: Literal["scores", "labels"], *, tolerance: float, force: bool
) -> None:
    """Write the model of a folder as an ONNX file for frames of `size`, and say how near it is to PyTorch.

    Args:
        model: model folder or run folder.
        size: height and width.
        out: ends with .onnx; none = model_<size>.onnx here, with the kind in its name unless it is scores.
        kind: scores | labels, what the file gives.
        tolerance: largest difference of a probability from PyTorch's.
        force: replace an existing file.

    Raises:
        SemivssError: as `infer.export.export_onnx`, or the file is there already.
    """
    folder = model_folder(model)
    if min(size) < 1:
        raise SemivssError(f"--size {size[0]} {size[1]}: not a size; write height and width in pixels such as --size 240 320")
    target = out or Path(f"model_{size[0]}x{size[1]}{'' if kind == 'scores' else f'_{kind}'}.onnx")
    if target.suffix != ".onnx":
        raise SemivssError(f"{target}: not the name of an ONNX file; end it with .onnx")
    if target.is_dir() or (target.exists() and not force):
        raise SemivssError(
            f"{target}: is there already; choose another file with --out" + ("" if target.is_dir() else ", or replace it with --force")
        )
    if hint := ensemble_hint([model]):
        say(hint)
    from semivss.infer.export import PACKAGES, export_onnx
    from semivss.infer.onnx_model import demand_packages
    from semivss.models.segmenter import Segmenter

    demand_packages("export", PACKAGES)  # before a large model is read
    described = export_onnx(Segmenter.from_pretrained(folder), target, size, kind, tolerance=tolerance)
    for name, found in described.parity.items():
        scores = "" if found.scores is None else f"scores differ from PyTorch's by at most {found.scores:.1e}, "
        say(f"{found.frames} {name} frames: {scores}{found.labels:.3%} of the labels are the same")
    say(f"model: {target}; it takes frames of {size[0]}x{size[1]}: semivss predict {target} VIDEO")


def inspect_paths(
    folder: Path,
    out: Path,
    *,
    alpha: float,
    per_class: bool,
    truth: Path | None,
    split: str,
    kind: str,
    accept_edited: bool,
    worst: int,
    policy: Policy = "strict",
) -> None:
    """Print what is known about a folder of pseudo labels, and write its numbers and pictures into `out`."""
    from semivss.data.pseudo import open_pseudo
    from semivss.report.pseudo import inspect_pseudo
    from semivss.report.pseudo_text import render

    opened = open_pseudo(folder, accept_edited=accept_edited)
    dataset = None if truth is None else _unseen(folder, _source(truth, split, kind), policy)
    found = inspect_pseudo(opened, out, alpha=alpha, per_class=per_class, dataset=dataset, policy=policy, worst=worst)
    render(found, f"{folder}" + (f" against {dataset.name}" if dataset is not None else ""))


def _unseen(folder: Path, source: Source, policy: Policy) -> VideoDataset:
    """A data set to compare the pseudo labels in `folder` with, without masks that the models of their run were trained on."""
    from semivss.data.overlap import without_learned

    dataset = open_source(source, policy)
    runs = list(folder.resolve().parents)[:2]  # of RUN/pseudo or RUN/pseudo/0
    path = next((path for run in runs if (path := run / "recipe.toml").is_file()), None)
    if path is None:
        return dataset
    try:
        unseen = without_learned(load_recipe(path).data.train, source, dataset, policy)
    except SemivssError as error:
        say(f"masks that the models were trained on count too, for nobody can tell which they are: {error}")
        return dataset
    if left_out := _masks(dataset) - _masks(unseen):
        say(f"{left_out} of {_masks(dataset)} masks are left out: the models were trained on them")
    return unseen


def _masks(dataset: VideoDataset) -> int:
    return sum(clip.is_labelled(index) for clip in dataset.clips for index in range(len(clip.stems)))


def _source(path: Path, split: str, kind: str, labelled: str | None = None) -> Source:
    """A data set in a folder; kind "auto" finds out what it is, `labelled` as in `Source`."""
    from semivss.data.detect import detect_kind

    found = detect_kind(path) if kind == "auto" else kind
    return Source.model_validate({"kind": found, "path": str(path), "split": split, "labelled": labelled})


def score_paths(
    predictions: Path,
    truth: Path,
    settings: Score,
    *,
    split: str,
    kind: str,
    missing: Missing,
    flow: Path | None = None,
    numbers: Path | None,
    policy: Policy = "strict",
) -> None:
    """Score a folder of predictions against a data set and print the table; with a folder of optical flow also TC.

    The processes that torchrun has started share the videos; the first of them prints and writes.
    """
    from semivss.metrics.flow import score_flow_together
    from semivss.metrics.score import render, score_together
    from semivss.metrics.scores import percent

    dataset = open_source(_source(truth, split, kind), policy)
    scores = score_together(predictions, dataset, settings, policy=policy, missing=missing)
    along = None if flow is None else score_flow_together(predictions, dataset, flow)
    if scores is None:
        return
    render(scores, title=f"{predictions} against {dataset.name}")
    record = scores.to_dict() | {"split_hash": split_hash(dataset), "versions": versions()}
    if along is not None:
        print(f"TC {percent(along.tc)} over {along.pairs} pairs of frames")
        record |= {"tc": along.tc, "tc_pairs": along.pairs}
    if numbers is not None:
        atomic_json(numbers, record)


def submit_paths(predictions: Path, frames: Path, out: Path, *, split: str) -> None:
    """Write and validate the challenge zip."""
    from semivss.infer.submission import submit

    dataset = open_source(Source(kind="vspw", path=str(frames), split=split), "strict")
    submit(predictions, dataset, out)
    say(f"submission: {out}")


def demand_words(models: Sequence[Path], source: Path | Sequence[Path], out: Path, *, pseudo: bool) -> None:
    """Raise SemivssError if a model or input is not there or `out` cannot be written, before torch is loaded for them.

    `pseudo` says what is to lie there: pseudo labels, or predictions.
    """
    for path in models:
        model_path(path)
    for path in [source] if isinstance(source, Path) else source:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; give a data set, a folder of frames or a video")
    if _is_of_a_run(out.resolve()):
        raise SemivssError(f"{out}: belongs to a semivss run, which would no longer know what it holds; choose another folder with --out")
    if (there := _held(out)) not in (None, KIND if pseudo else _PREDICTIONS):
        raise SemivssError(f"{out}: holds {there}, which would be lost; choose another folder with --out")
    demand_folder(out)


def _held(out: Path) -> str | None:
    """What an earlier call has written into `out`, for people: "predictions", "pseudo labels" or a manifest.json of neither; else none."""
    try:
        manifest = json.loads((out / "manifest.json").read_text())
    except ValueError:
        manifest = None
    except OSError:  # unfinished, or nothing that anybody can read or write
        return (KIND if (out / HISTOGRAMS).is_dir() else _PREDICTIONS) if (out / RECORDS).is_dir() else None
    if not isinstance(manifest, dict) or "made_from" not in manifest:
        return "a manifest.json of something else"
    return KIND if manifest.get("kind") == KIND else _PREDICTIONS


def _is_of_a_run(folder: Path) -> bool:
    """Whether a run has made the folder, or would write into it."""
    if (folder / "stamp.json").exists():
        return True
    above = next((path for path in (folder, *folder.parents) if (path / "recipe.toml").exists() and any(path.glob("*/stamp.json"))), None)
    return above is not None and (above == folder or is_of_a_run(folder.relative_to(above).parts[0]))


def ensemble_hint(models: Sequence[Path]) -> str | None:
    """How to get the ensemble that a run predicts with, where a single run folder was named, which stands for its student alone."""
    recipe = _recipe_of(models[0]) if len(models) == 1 else None
    if recipe is None or len(final := final_models(recipe)) < 2:
        return None
    run, student = models[0], model_folder(models[0]).parent.name
    if not all((run / folder / "model").exists() for folder in final):
        return None
    words = " ".join(str(run / folder / "model") for folder in final)
    return f"the model of {run} is its student alone ({student}); the run's own predictions are the ensemble of {words}"


def views_hint(models: Sequence[Path], views: Views) -> str | None:
    """How to get the views of the recipe of the first run folder among `models`, where `views` are the single one of the default."""
    run = next((path for path in models if (path / "recipe.toml").is_file()), None)
    recipe = None if run is None or views != Views() else _recipe_of(run)
    if recipe is None:
        return None
    theirs = recipe.predict.views
    sizes = {name: size for name in ("crop", "stride", "base") if (size := getattr(theirs, name)) is not None}
    words = ["--scales " + ",".join(f"{scale:g}" for scale in theirs.scales), *(["--flip"] if theirs.flip else [])]
    words += [f"--{name} {height}x{width}" for name, (height, width) in sizes.items()]
    words += [] if theirs.short_side is None else [f"--short-side {theirs.short_side}"]
    words += [] if theirs.sampling == "exact" else [f"--sampling {theirs.sampling}"]
    count = len(theirs.scales) * (1 + theirs.flip)
    return f"1 view a frame; the recipe of {run} has {count}: {' '.join(words)}" if theirs != views else None


def _recipe_of(run: Path) -> Recipe | None:
    """The recipe in a run folder; none where there is none, or one of another version: the model is good all the same."""
    try:
        return load_recipe(run / "recipe.toml") if (run / "recipe.toml").is_file() else None
    except RecipeError:
        return None


def models_and_inputs(words: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Cut the words of `predict` behind the leading models. The first word counts as a model and the last as an input anyhow."""
    models = [words[0], *itertools.takewhile(_is_model, words[1:-1])]
    return models, list(words[len(models) :])


def model_path(path: Path) -> Path:
    """What `predict` runs: `path` itself if it is an exported file, else as `model_folder`. Raises SemivssError if there is no model."""
    return path if _is_exported(path) else model_folder(path)


def model_folder(path: Path) -> Path:
    """`path` itself if it is a model folder, or the model of the run folder `path`. Raises SemivssError if it is neither."""
    if _is_exported(path):
        raise SemivssError(f"{path}: an exported model can only predict; give the model folder that it was made from")
    if not path.exists():
        raise SemivssError(f"{path}: no such file or folder; give a folder written by semivss train, such as runs/NAME/student/model")
    found = _model_in(path)
    if found is None:
        raise SemivssError(
            f"{path}: no model there (no config.json); give a folder written by semivss train, such as runs/NAME/student/model"
        )
    return found


def _is_exported(path: Path) -> bool:
    return path.suffix == ".onnx" and path.is_file()


def _is_model(path: Path) -> bool:
    return _is_exported(path) or _model_in(path) is not None


def _model_in(path: Path) -> Path | None:
    later = [folder for folder in path.glob("retrained_*") if folder.name.removeprefix("retrained_").isdecimal()]
    rounds = [folder / "model" for folder in sorted(later, key=lambda folder: -int(folder.name.removeprefix("retrained_")))]
    candidates = (path, path / "model", *rounds, path / "retrained" / "model", path / "student" / "model")
    return next((folder for folder in candidates if newest(folder, "config.json").is_file()), None)
