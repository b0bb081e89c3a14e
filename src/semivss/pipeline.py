"""The stages of a run, each from folders to a folder: train -> predict -> score -> report. A finished stage is stamped and skipped."""

import hashlib
import itertools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from semivss.atomic import atomic_bytes, atomic_json, newest
from semivss.data.clips import VideoDataset
from semivss.data.policy import DefectCounter, Policy
from semivss.data.source import open_source
from semivss.digest import file_sha256
from semivss.errors import SemivssError
from semivss.metrics.score import Missing
from semivss.progress import say
from semivss.recipe import Recipe, dump_recipe, evaluation_sets, load_recipe
from semivss.settings import Predict, Score, Source
from semivss.stage import Stage, flat, is_main_process, versions


def demo_recipe(overrides: Sequence[str] = ()) -> Recipe:
    """The recipe behind `semivss demo`: the toy world and a tiny model."""
    return load_recipe(shipped_recipes() / "toy.toml", overrides)


def shipped_recipes() -> Path:
    """The folder of recipes: inside an installed package, or at the top of a checkout."""
    inside = Path(str(resources.files("semivss") / "recipes"))
    return inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"


def run(recipe: Recipe, out: Path, *, again: bool = False) -> None:
    """All stages of `recipe` into the run folder `out`. `again` redoes finished stages whose settings or inputs changed.

    Of several processes (torchrun) all train, and the first does the rest.
    """
    train_stage(recipe, out, again=again)
    if not is_main_process():
        return
    predict_stage(recipe, out, again=again)
    score_stage(recipe, out)
    report_stage(out)


def train_stage(recipe: Recipe, out: Path, *, again: bool = False) -> None:
    """Train into `out`/student, or go on where an earlier call was stopped."""
    from semivss.train.checkpoint import FREE
    from semivss.train.loop import train

    stage = Stage("train", out / "student", flat(recipe.model_dump(mode="json", exclude=FREE)))
    if stage.is_done(again):
        return
    if is_main_process():
        atomic_bytes(out / "recipe.toml", dump_recipe(recipe).encode())
    train(recipe, out / "student")
    stage.finish()


def predict_stage(recipe: Recipe, out: Path, *, again: bool = False) -> None:
    """Predict every evaluation set of the recipe with the trained model."""
    from semivss.infer.predict import predict
    from semivss.models.segmenter import Segmenter

    model_folder = out / "student" / "model"
    sets = evaluation_sets(recipe)
    stages = [
        Stage(
            f"predict {name}",
            out / "predictions" / name,
            flat(recipe.predict.model_dump(mode="json")) | {"model": model_hash(model_folder), **flat(source.model_dump(mode="json"))},
        )
        for name, source in sets.items()
    ]
    for stage, source in zip(stages, sets.values(), strict=True):
        if stage.is_done(again):
            continue
        model = Segmenter.from_pretrained(model_folder)
        predict([model], open_source(source, recipe.data.policy), stage.folder, recipe.predict, policy=recipe.data.policy)
        stage.finish()


def score_stage(recipe: Recipe, out: Path) -> None:
    """Score the predictions of every evaluation set into `out`/scores.json.

    Under the policies skip and ignore a frame that could not be read has no prediction: its pixels count as wrong, and that is said.
    """
    from semivss.metrics.score import render, score_folder

    results: dict[str, Any] = {}
    policy = recipe.data.policy
    missing: Missing = "error" if policy == "strict" else "wrong"
    for name, source in evaluation_sets(recipe).items():
        dataset = open_source(source, policy)
        scores = score_folder(out / "predictions" / name, dataset, recipe.score, policy=policy, missing=missing)
        render(scores, title=f"{recipe.name}: {name}")
        results[name] = scores.to_dict() | {"split_hash": split_hash(dataset)}
    atomic_json(out / "scores.json", results | {"provenance": provenance(recipe, out)})


def report_stage(out: Path) -> None:
    """Write `out`/report/index.html."""
    from semivss.report.html import write_report

    say(f"report: {write_report(out)}")


def predict_paths(
    models: Sequence[Path],
    source: Path | Sequence[Path],
    out: Path,
    settings: Predict,
    *,
    weights: Sequence[float] | None = None,
    split: str | None = None,
    policy: Policy = "strict",
) -> None:
    """Segment a data set, a frame folder or videos with models from folders. Raises SemivssError for what cannot be read."""
    from semivss.infer.inputs import open_inputs
    from semivss.infer.predict import predict
    from semivss.models.segmenter import Segmenter

    members = [Segmenter.from_pretrained(model_folder(path)) for path in models]
    left_out = DefectCounter()
    inputs = open_inputs(source, split=split, policy=policy, left_out=left_out)
    predict(members, inputs, out, settings, weights=weights, policy=policy, left_out=left_out)
    say(f"predictions: {out}")


def score_paths(
    predictions: Path,
    truth: Path,
    settings: Score,
    *,
    split: str,
    kind: str,
    missing: Missing,
    flow: Path | None = None,
    json: Path | None,
    policy: Policy = "strict",
) -> None:
    """Score a folder of predictions against a data set and print the table; with a folder of optical flow also TC."""
    from semivss.data.detect import detect_kind
    from semivss.metrics.flow import score_flow
    from semivss.metrics.score import render, score_folder
    from semivss.metrics.scores import percent

    resolved = detect_kind(truth) if kind == "auto" else kind
    dataset = open_source(Source.model_validate({"kind": resolved, "path": str(truth), "split": split}), policy)
    scores = score_folder(predictions, dataset, settings, policy=policy, missing=missing)
    render(scores, title=f"{predictions} against {dataset.name}")
    record = scores.to_dict() | {"split_hash": split_hash(dataset), "versions": versions()}
    if flow is not None:
        along = score_flow(predictions, dataset, flow)
        print(f"TC {percent(along.tc)} over {along.pairs} pairs of frames")
        record |= {"tc": along.tc, "tc_pairs": along.pairs}
    if json is not None:
        atomic_json(json, record)


def submit_paths(predictions: Path, frames: Path, out: Path, *, split: str) -> None:
    """Write and validate the challenge zip."""
    from semivss.infer.submission import submit

    dataset = open_source(Source(kind="vspw", path=str(frames), split=split), "strict")
    submit(predictions, dataset, out)
    say(f"submission: {out}")


def models_and_inputs(words: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Cut the words of `predict` behind the leading model folders. The first word counts as a model and the last as an input anyhow."""
    models = [words[0], *itertools.takewhile(_model_in, words[1:-1])]
    return models, list(words[len(models) :])


def model_folder(path: Path) -> Path:
    """`path` itself if it is a model folder, or the model of the run folder `path`. Raises SemivssError if it is neither."""
    found = _model_in(path)
    if found is None:
        raise SemivssError(
            f"{path}: no model there (no config.json); give a folder written by semivss train, such as runs/NAME/student/model"
        )
    return found


def _model_in(path: Path) -> Path | None:
    candidates = (path, path / "model", path / "student" / "model")
    return next((folder for folder in candidates if newest(folder, "config.json").is_file()), None)


def model_hash(folder: Path) -> str:
    """SHA-256 of a model folder's weights."""
    weights = newest(folder, "model.safetensors")
    if not weights.is_file():
        raise SemivssError(f"{weights}: missing; train the model first with semivss train")
    return file_sha256(weights)


def split_hash(dataset: VideoDataset) -> str:
    """Short hash over the names of all clips and frames: two results with the same hash were measured on the same frames."""
    digest = hashlib.sha256()
    for clip in dataset.clips:
        digest.update("\n".join((clip.name, *clip.stems, "")).encode())
    return digest.hexdigest()[:12]


def provenance(recipe: Recipe, out: Path) -> dict[str, Any]:
    """What every result carries: seed, versions, hashes."""
    return {"recipe": recipe.digest(), "seed": recipe.train.seed, "model": model_hash(out / "student" / "model"), "versions": versions()}
