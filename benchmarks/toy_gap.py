"""Does the toy world leave room for semi-supervised learning? The demo's model on 4 labelled clips against all 48, one JSON row each.

    python benchmarks/toy_gap.py              the demo's recipe as it is, about 5 minutes a row on one core
    python benchmarks/toy_gap.py --quick      a few steps: shows that the script works, the gap means nothing

Both rows are the mIoU of the test clips (one view). The last row's value is the gap in points; `ratio` is full over few.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

from semivss.data.source import open_source
from semivss.infer.stream import stream_distribution
from semivss.metrics.confusion import Confusion
from semivss.models.segmenter import Segmenter
from semivss.pipeline import shipped_recipes
from semivss.recipe import Recipe, load_recipe
from semivss.train.loop import train

FEW = 4
QUICK = ["train.steps=4", "train.warmup=1", "data.train.0.toy.frames=2", "data.test.0.toy={clips=1, frames=2, first_clip=2000}"]


def main() -> None:
    """Train twice, score twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    for seed in options.seeds:
        few, full = (measure(clips, seed, options.quick) for clips in (FEW, None))
        report(
            "toy gap, all labels minus few", full - few, "mIoU points", seed, ratio=round(full / few, 3), against=f"{FEW} labelled clips"
        )


def measure(labelled: int | None, seed: int, quick: bool) -> float:
    """Test mIoU in percent after training with `labelled` clips (none = all)."""
    overrides = [f"train.seed={seed}", "data.val.toy.clips=1", "train.evaluate_every=100000", *(QUICK if quick else [])]
    recipe = load_recipe(
        shipped_recipes() / "toy_labelled.toml", overrides + ([f"data.train.0.toy.labelled_clips={labelled}"] if labelled else [])
    )
    with tempfile.TemporaryDirectory() as folder:
        before = time.process_time()
        train(recipe, Path(folder))
        seconds = time.process_time() - before
        miou = score(Segmenter.from_pretrained(Path(folder) / "model"), recipe)
    clips = labelled or recipe.data.train[0].toy.clips
    report(f"toy test, {clips} labelled clips", miou, "mIoU %", seed, cpu_seconds=round(seconds), ratio=None)
    return miou


def score(model: Segmenter, recipe: Recipe) -> float:
    """mIoU of the test clips, one view, in percent."""
    confusion = Confusion(len(model.label_set))
    for clip in open_source(recipe.data.test[0], "strict").clips:
        for index, p in enumerate(stream_distribution([model], None, (frame for _, frame in clip.stream()))):
            confusion.update(clip.labels(index), p.argmax(0).byte().numpy())
    return 100 * (confusion.scores().miou or 0.0)


def report(what: str, value: float, unit: str, seed: int, **more: object) -> None:
    """One row."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"
    print(json.dumps({"what": what, "value": round(value, 2), "unit": unit, "seed": seed, **more, "machine": machine}), flush=True)


if __name__ == "__main__":
    main()
