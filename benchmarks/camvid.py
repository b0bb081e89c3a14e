"""How good does each CamVid recipe get, and at what cost? One JSON row a run; a run that is in the results file is not repeated.

    python benchmarks/camvid.py recipes/camvid/pixel_full.toml --seeds 0 1 2 --runs runs/camvid --results results.jsonl

Every run is scored with one view and with the recipe's views (scales and flip), on the validation video and on the test videos, pooled
and apart. `cpu_minutes` is the process time (user + system) of the whole training process, imports and its one evaluation included.
`--quick` trains a few steps.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

QUICK = ("-o", "train.steps=2", "-o", "train.batch=2", "-o", "train.warmup=1", "-o", "data.augment.crop=[96, 128]")


def main() -> None:
    """Parse, then run what is missing in the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path, default=[Path(__file__).parents[1] / "recipes" / "camvid" / "pixel_full.toml"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/camvid"))
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("-o", "--override", action="append", default=[], help="as semivss train -o; named in the row")
    parser.add_argument("--holdout", default=None, help="training video to score instead of val and test, for choosing settings")
    options = parser.parse_args()
    if "SEMIVSS_CAMVID" not in os.environ:
        emit({"what": "camvid mIoU", "value": None, "unit": "mIoU", "ratio": None, "reason": "SEMIVSS_CAMVID is not set"}, None)
        return
    results = options.results or options.runs / "results.jsonl"
    for recipe in options.recipes:
        for seed in options.seeds:
            one_run(recipe, seed, options, None if options.quick else results)


def one_run(recipe: Path, seed: int, options: argparse.Namespace, results: Path | None) -> None:
    """Train, score, append a row."""
    overrides = [f"train.seed={seed}", *options.override]
    key = {"recipe": recipe.stem, "seed": seed, "overrides": options.override, "holdout": options.holdout}
    if results and results.exists() and any(key.items() <= json.loads(line).items() for line in results.read_text().splitlines()):
        return
    name = "_".join([recipe.stem, f"seed{seed}", *(text.replace("/", "-").replace(" ", "") for text in options.override)])
    out = options.runs / (name + (f"_holdout_{options.holdout}" if options.holdout else "") + ("_quick" if options.quick else ""))
    if options.holdout:
        overrides.append(f"data.train.0.split={holdout_list(options.runs, options.holdout)}")
    command = [sys.executable, "-m", "semivss", "train", str(recipe), "--out", str(out)]
    for override in overrides:
        command += ["-o", override]
    minutes = cpu_minutes(command + list(QUICK if options.quick else ()), out)
    row = key | {"what": "camvid mIoU", "unit": "percent", "ratio": None, "cpu_minutes": round(minutes, 1)} | scores(out, options)
    emit(
        row | {"machine": f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"},
        results,
    )


def cpu_minutes(command: list[str], out: Path) -> float:
    """Run to the end; process time of this and of earlier, interrupted calls."""
    ledger = out / "cpu_seconds.json"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = subprocess.run(command, check=False).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if ledger.exists():
        seconds += json.loads(ledger.read_text())
    out.mkdir(parents=True, exist_ok=True)
    ledger.write_text(json.dumps(seconds))
    if code:
        sys.exit(code)
    return seconds / 60


def holdout_list(runs: Path, video: str) -> str:
    """A list of the training videos without `video`, as a path."""
    videos = (Path(os.environ["SEMIVSS_CAMVID"]) / "train.txt").read_text().split()
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / f"train_without_{video}.txt"
    path.write_text("\n".join(name for name in videos if name != video) + "\n")
    return str(path.resolve())


def scores(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """mIoU of one view and of the recipe's views on each set."""
    from semivss.data.source import open_source
    from semivss.infer.views import View, views_from
    from semivss.models.segmenter import Segmenter
    from semivss.recipe import load_recipe

    recipe = load_recipe(run / "recipe.toml")
    model = Segmenter.from_pretrained(run / "student" / "model")
    parameters = sum(p.numel() for p in model.parameters())
    views = {"single": (View(base=recipe.predict.views.base),), "tta": views_from(recipe.predict.views)}
    row: dict[str, Any] = {"parameters": parameters, "settings": recipe.digest(), "tta": recipe.predict.views.model_dump(mode="json")}
    if options.holdout:
        sets = {"holdout": recipe.data.train[0].model_copy(update={"split": "train", "labelled": None})}
    else:
        assert recipe.data.val is not None
        sets = {"val": recipe.data.val, "test": recipe.data.test[0]}
    for name, source in sets.items():
        clips = [clip for clip in open_source(source, "strict").clips if options.holdout in (None, clip.name)]
        for kind, chosen in views.items():
            row |= evaluate(model, clips, chosen, f"{name}_{kind}", 3 if options.quick else None)
    return row


def evaluate(model: Any, clips: list[Any], views: Any, prefix: str, most: int | None) -> dict[str, Any]:
    """Pooled mIoU (and by video, by class) in percent, VC8 and VC16 of the validation video."""
    from semivss.infer.predict import stream_distribution
    from semivss.metrics.confusion import Confusion

    pooled = Confusion(len(model.label_set))
    row: dict[str, Any] = {}
    for clip in clips:
        own = Confusion(len(model.label_set))
        indices = range(len(clip.stems))[:most]
        for index, p in zip(indices, stream_distribution([model], None, (clip.frame(i) for i in indices), views), strict=True):
            own.update(clip.labels(index), p.argmax(0).byte().numpy())
        row[f"{prefix}_{clip.name}"] = percent(own.scores().miou)
        pooled = pooled + own
    result = pooled.scores()
    iou = dict(zip(model.label_set.names, map(percent, result.iou), strict=True))
    return {prefix: percent(result.miou), **row, f"{prefix}_iou": iou}


def percent(value: float | None) -> float | None:
    """Rounded to a tenth of a point."""
    return None if value is None else round(100 * value, 1)


def emit(row: dict[str, Any], results: Path | None) -> None:
    """Print, and append where results are kept."""
    print(json.dumps(row), flush=True)
    if results:
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
