"""What does the contrastive loss add to a step of retraining? The demo's student, with and without L_c, rounds in turn in one process.

    python benchmarks/retrain_step.py            12 rounds of 4 steps, online mode; the bank is filled first
    python benchmarks/retrain_step.py --quick    2 rounds

One JSON row a mode: CPU seconds a step and, as `ratio`, the median over rounds of the time with L_c over the time without.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semivss.models.zoo import build_segmenter
from semivss.pipeline import demo_recipe
from semivss.plan import retraining_recipe
from semivss.recipe import Recipe
from semivss.train.interrupt import Interrupt
from semivss.train.loop import Run
from semivss.train.method import Given
from semivss.train.processes import start_fabric
from semivss.train.steps import train_step

TEACHERS = {"averaged student": "ema", "the student itself": "self"}
STEPS = 4  # a round


def main() -> None:
    """Measure both choices of the teacher of L_c."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rounds = 2 if options.quick else 12
    for name, teacher in TEACHERS.items():
        with tempfile.TemporaryDirectory() as folder:
            plain, contrast = (
                steps(Path(folder), [f"semi.contrast.weight={weight}", f'semi.contrast.teacher="{teacher}"'], rounds) for weight in (0, 0.1)
            )
            pairs = [(next(plain), next(contrast)) for _ in range(rounds + 1)][1:]  # the first round fills caches and the bank
        report(name, pairs)


def steps(folder: Path, overrides: list[str], rounds: int) -> Iterator[float]:
    """CPU seconds a step, round after round, of a training that starts from a fresh student."""
    recipe: Recipe = retraining_recipe(demo_recipe([*overrides, "semi.mode=online", f"semi.train.steps={STEPS * (rounds + 1)}"]))
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"val": None})})
    with Interrupt() as interrupt:
        run = Run(recipe, folder / overrides[0], start_fabric(recipe), interrupt, Given(fresh_student(recipe, folder)))
    stream = iter(run.method.batches(0, 0, 1))
    batches = [next(stream) for _ in range(STEPS)]  # reading is the same on both sides and left out
    for number in range(rounds + 1):
        before = time.process_time()
        for step in range(STEPS):
            train_step(run.fabric, run.training, iter(batches[step:]), recipe.train, number * STEPS + step)
        yield (time.process_time() - before) / STEPS


def fresh_student(recipe: Recipe, folder: Path) -> Path:
    """A saved model with random weights."""
    from semivss.data.source import open_source

    build_segmenter(recipe.model, open_source(recipe.data.train[0], "strict").label_set).save_pretrained(folder / "student")
    return folder / "student"


def report(name: str, pairs: list[tuple[float, float]]) -> None:
    """One row."""
    ratios = sorted(with_it / without for without, with_it in pairs)
    row: dict[str, Any] = {
        "what": f"retraining step with L_c, its teacher is {name}",
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
