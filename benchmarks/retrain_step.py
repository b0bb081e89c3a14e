"""What does the contrastive loss add to a step of retraining? The demo's student, with and without L_c, rounds in turn in one process.

    python benchmarks/retrain_step.py            24 rounds of 4 steps of the demo's mode
    python benchmarks/retrain_step.py --quick    2 rounds

The student has random weights, so every reliable pixel may be an anchor here (confidence 0): at least as many as in training. Every
measured step must have contrasted some classes.

One JSON row a case: CPU seconds a step and, as `ratio`, the median over rounds of the time with L_c over the time without.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from semivss.data.pseudo import open_pseudo
from semivss.data.shares import class_shares
from semivss.data.source import open_source
from semivss.infer.pseudo import pseudo_label
from semivss.models.zoo import build_segmenter
from semivss.pipeline import demo_recipe
from semivss.plan import retraining_recipe
from semivss.recipe import Recipe
from semivss.train import contrast
from semivss.train.interrupt import Interrupt
from semivss.train.loop import Run
from semivss.train.method import Given
from semivss.train.processes import start_fabric
from semivss.train.steps import train_step

WHOLE = ["semi.contrast.share=1", "semi.contrast.anchors=256"]
CAMVID = [  # the model and crops of recipes/camvid/semi_1_32.toml, on toy frames
    "model={backbone='timm/tf_efficientnet_lite0', weights='lite0', head='pixel', pixel={channels=96}}",
    "data.augment.crop=[192, 256]",
    "semi.train.batch=4",
    "semi.unlabelled_batch=4",
    "semi.contrast.channels=96",
    "semi.contrast.anchors=256",
]
CASES: dict[str, list[str]] = {
    "as in the demo": [],
    "all crops, 256 anchors": WHOLE,
    "all crops, 256 anchors, its teacher the student itself": [*WHOLE, 'semi.contrast.teacher="self"'],
    "EfficientNet-Lite0, half of the crops, stride 8": [*CAMVID, "semi.contrast.share=0.5"],
    "EfficientNet-Lite0, all crops, stride 4": [*CAMVID, "semi.contrast.share=1", "semi.contrast.stride=4"],
}
SETTING = ["data.unlabelled.0.toy={clips=4, first_clip=4}", "semi.contrast.confidence=0"]
STEPS = 4  # a round


def main() -> None:
    """Measure the demo's setting and its neighbours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rounds = 2 if options.quick else 24
    for name, overrides in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            plain, whole = (
                steps(Path(folder) / str(weight), [*SETTING, f"semi.contrast.weight={weight}", *overrides], rounds) for weight in (0, 0.1)
            )
            pairs = [(next(plain), next(whole)) for _ in range(rounds + 1)][1:]  # the first round fills caches
        report(name, pairs)


def steps(folder: Path, overrides: list[str], rounds: int) -> Iterator[float]:
    """CPU seconds a step, round after round, of a training that starts from a fresh student and its pseudo labels."""
    recipe: Recipe = retraining_recipe(demo_recipe([*overrides, f"semi.train.steps={STEPS * (rounds + 1)}"]))
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"val": None})})
    processed: list[int] = []
    contrast.contrastive_loss = counted(contrast.contrastive_loss, processed)
    with Interrupt() as interrupt:
        run = Run(recipe, folder / "run", start_fabric(recipe), interrupt, given(recipe, folder))
    stream = iter(run.method.batches(0, 0, 1))
    batches = [next(stream) for _ in range(STEPS)]  # reading is the same on both sides and left out
    for number in range(rounds + 1):
        before = time.process_time()
        for step in range(STEPS):
            train_step(run.fabric, run.training, iter(batches[step:]), recipe.train, number * STEPS + step)
        seconds = (time.process_time() - before) / STEPS
        assert not recipe.semi.contrast.weight or min(processed[-STEPS:]) >= 2, "nothing was contrasted"
        yield seconds


def counted(loss: Callable[..., Any], processed: list[int]) -> Callable[..., Any]:
    """The same, which notes how many classes each call contrasted."""

    def contrasted(*arguments: Any, **more: Any) -> Any:
        result = loss(*arguments, **more)
        processed.append(int(result.processed.sum()))
        return result

    return contrasted


def given(recipe: Recipe, folder: Path) -> Given:
    """A saved model with random weights, and what it takes the unlabelled video for."""
    student = build_segmenter(recipe.model, open_source(recipe.data.train[0], "strict").label_set)
    student.save_pretrained(folder / "student")
    video, wanted = open_source(recipe.data.unlabelled[0], "strict"), class_shares([open_source(recipe.data.train[0], "strict")])
    pseudo_label([student.eval()], video, folder / "pseudo", recipe.pseudo, wanted=wanted)
    return Given(folder / "student", [open_pseudo(folder / "pseudo")])


def report(name: str, pairs: list[tuple[float, float]]) -> None:
    """One row."""
    ratios = sorted(with_it / without for without, with_it in pairs)
    row: dict[str, Any] = {
        "what": f"retraining step with L_c {name}",
        "value": round(statistics.median(pair[1] for pair in pairs), 4),
        "unit": "CPU s",
        "ratio": round(statistics.median(ratios), 3),
        "against": "the same step without L_c",
        "without": round(statistics.median(pair[0] for pair in pairs), 4),
        "spread": [round(ratios[0], 3), round(ratios[-1], 3)],
        "rounds": len(pairs),
    }
    machine = f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"
    print(json.dumps(row | {"machine": machine}), flush=True)


if __name__ == "__main__":
    main()
