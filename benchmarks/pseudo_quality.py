"""How right are the pseudo labels of a run, and what does the temporal window change? Files on disk, masks, thresholds as in training.

    python benchmarks/pseudo_quality.py RUN             RUN: a folder of `semivss run` on CamVid, up to its pseudo labels
    python benchmarks/pseudo_quality.py RUN --windows 0 1 2 3
    python benchmarks/pseudo_quality.py RUN --windows 1 --cells 4   the window over cells of 4 x 4 pixels, not in the package
    python benchmarks/pseudo_quality.py --quick         a run of a few steps on the toy world, made for it

RUN/pseudo is compared with the masks of the training split, which training never opened. Then the validation video, CamVid's only one
at 15 Hz, is labelled by the same models and views once for each window; every row carries its scores.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from semivss.data.pseudo import open_pseudo
from semivss.data.source import open_source
from semivss.infer import job
from semivss.infer.pseudo import pseudo_label
from semivss.layout import supervised
from semivss.metrics.score import score_folder
from semivss.models.segmenter import Segmenter
from semivss.pipeline import demo_recipe, run
from semivss.recipe import Recipe, load_recipe
from semivss.report.pseudo import inspect_pseudo
from semivss.settings import Score
from semivss.temporal.flow import dis_flow, warp
from semivss.temporal.window import Labelled

QUICK = [
    "train.steps=4",
    "train.evaluate_every=100",
    "data.train.0.toy={clips=2, frames=2}",
    "data.unlabelled.0.toy={clips=2, frames=2, first_clip=4}",
    "data.val.toy={clips=1, frames=10, first_clip=1000}",
    'data.absent_classes="allow"',
]


def main() -> None:
    """Inspect the labels of the unlabelled video, then label the validation video with every window."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--windows", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", type=int, default=1, help="pixels along a cell of the maps that are warped")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.run
        if options.quick:
            folder, options.windows = Path(scratch) / "run", [0, 1]
            run(demo_recipe(QUICK), folder, until="pseudo-label")
        if folder is None:
            parser.error("name a run folder, or say --quick")
        recipe = load_recipe(folder / "recipe.toml")
        if options.cells > 1:
            job.window_mean = partial(coarse_mean, cells=options.cells)
        else:
            unlabelled(recipe, folder, Path(scratch))
        for window in options.windows:
            windowed(recipe, folder, Path(scratch), window, options.cells)


def unlabelled(recipe: Recipe, run_folder: Path, scratch: Path) -> None:
    """Accuracy of what each alpha keeps, by one threshold and by class."""
    source = recipe.data.unlabelled[0]
    truth = open_source(source, "strict")  # opened as a labelled set: its masks are there to compare with
    for per_class in (False, True):
        found = inspect_pseudo(open_pseudo(run_folder / "pseudo"), scratch / f"inspect-{per_class}", per_class=per_class, dataset=truth)
        for entry in found.table:
            row = {key: percent(entry[key]) for key in ("kept", "accuracy", "accuracy_rest")}
            emit("accuracy of reliable pixels", row["accuracy"], row | {"alpha": entry["alpha"], "per_class": per_class})


@torch.inference_mode()
def coarse_mean(items: Iterable[Labelled], reach: int, cells: int) -> Iterator[Labelled]:
    """As `window_mean`, over means of cells, brought back to full size in the end. Holds the whole video."""
    video = list(items)
    pooled = [F.avg_pool2d(item.p[None], cells, ceil_mode=True, count_include_pad=False) for item in video]
    for place, item in enumerate(video):
        total, count = pooled[place].clone(), torch.ones_like(pooled[place][:, :1])
        for other in range(max(0, place - reach), min(len(video), place + reach + 1)):
            if other != place:
                flow = F.avg_pool2d(dis_flow(item.frame, video[other].frame)[None], cells, ceil_mode=True, count_include_pad=False) / cells
                warped, inside = warp(pooled[other], flow)
                total += warped * inside
                count += inside
        size = (item.p.shape[1], item.p.shape[2])
        yield item._replace(p=F.interpolate(total / count, size, mode="bilinear", align_corners=False)[0])


def windowed(recipe: Recipe, run_folder: Path, scratch: Path, window: int, cells: int) -> None:
    """Accuracy and consistency of the validation video's labels."""
    assert recipe.data.val is not None
    dataset, out = open_source(recipe.data.val, "strict"), scratch / f"window-{window}"
    models = [Segmenter.from_pretrained(run_folder / folder / "model") for folder in supervised(recipe).values()]
    began = time.process_time()
    pseudo_label(models, dataset, out, recipe.pseudo.model_copy(update={"window": window, "align": 0.0}))
    seconds = time.process_time() - began
    found = inspect_pseudo(open_pseudo(out), scratch / f"inspect-{window}", dataset=dataset)
    scores = score_folder(out, dataset, Score())
    overall = {key: percent(found.overall[key]) for key in ("accuracy_all", "accuracy_at_80", "auroc")}
    row = overall | {"miou": percent(scores.overall.miou)} | {f"vc{part.n}": percent(part.vc) for part in scores.vc}
    emit("accuracy of the surest 80 %", row["accuracy_at_80"], row | {"window": window, "cells": cells, "cpu_seconds": round(seconds, 1)})


def percent(value: float | None) -> float | None:
    """Rounded to hundredths."""
    return None if value is None else round(100 * value, 2)


def emit(what: str, value: float | None, more: dict[str, Any]) -> None:
    """One JSON row."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}"
    print(json.dumps({"what": what, "value": value, "unit": "percent", "ratio": None} | more | {"machine": machine}), flush=True)


if __name__ == "__main__":
    main()
