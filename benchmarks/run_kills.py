"""Does `semivss run`, killed at random moments of every stage, end with the results of an undisturbed run? Uses SIGKILL and compares.

    python benchmarks/run_kills.py            5 kills in each of the 7 stages
    python benchmarks/run_kills.py --quick    1 kill in each

A teacher and a student learn on a small toy world, label video, are both retrained in mode offline beside two controls, predict, are
scored and reported. For each
stage a run that is finished up to it is copied and killed in that stage; the next process goes on. In the end all manifests, scores.json
and the hashes of all models in it must be those of the undisturbed run.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import random
import shutil
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from semivss.plan import STAGES
from semivss.recipe import Recipe, parse_recipe

KILLS, QUICK_KILLS = 5, 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder, recipe = Path(name), small_recipe()
        start(recipe, folder / "warm", STAGES[0]).join()  # waits for the fork server's imports
        reference, seconds = undisturbed(recipe, folder)
        for stage in STAGES:
            row = measure(recipe, folder, stage, QUICK_KILLS if options.quick else KILLS, seconds[stage], moments)
            print(json.dumps(row | compared(reference, folder / f"killed_{stage}")), flush=True)
            shutil.rmtree(folder / f"killed_{stage}")


def undisturbed(recipe: Recipe, folder: Path) -> tuple[Path, dict[str, float]]:
    """The run of reference, with a copy of its folder before each stage, and the seconds of each stage."""
    out, seconds = folder / "whole", {}
    out.mkdir()
    for stage in STAGES:
        shutil.copytree(out, folder / f"before_{stage}")
        started = time.perf_counter()
        finish(start(recipe, out, stage))
        seconds[stage] = time.perf_counter() - started
    return out, seconds


def measure(recipe: Recipe, folder: Path, stage: str, wanted: int, seconds: float, moments: random.Random) -> dict[str, Any]:
    """Kill the stage `wanted` times, the next process going on each time; if it ends before, begin anew with the stage."""
    out, kills, begun = folder / f"killed_{stage}", 0, 0
    while kills < wanted:
        if begun:
            shutil.rmtree(out)
        shutil.copytree(folder / f"before_{stage}", out)
        begun += 1
        while kills < wanted:
            process = start(recipe, out, stage)
            process.join(moments.uniform(0, seconds))
            if process.exitcode is not None:
                finish(process)
                break
            process.kill()
            process.join()
            kills += 1
    finish(start(recipe, out, None))
    return {"what": f"run killed in stage {stage} and resumed", "unit": f"results equal after {kills} kills"}


def compared(reference: Path, out: Path) -> dict[str, Any]:
    """How many of the results are equal."""
    names = sorted(path.relative_to(reference) for path in [*reference.rglob("manifest.json"), reference / "scores.json"])
    others = sorted(path.relative_to(out) for path in [*out.rglob("manifest.json"), out / "scores.json"])
    equal = [name for name in names if name in others and timeless(reference / name, reference) == timeless(out / name, out)]
    there = (out / "report" / "index.html").is_file()
    return {
        "value": len(equal),
        "ratio": len(equal) / len(names) if names == others and there else 0.0,
        "of": len(names),
        "different": [str(name) for name in {*names, *others} - set(equal)],
        "against": "an undisturbed run",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }


def timeless(path: Path, out: Path) -> Any:
    """The content without the time it took; the run's own folder is the same everywhere."""
    return without_time(json.loads(path.read_text().replace(str(out), "RUN")))


def without_time(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: without_time(value) for key, value in tree.items() if "seconds" not in key and "time" not in key}
    return [without_time(value) for value in tree] if isinstance(tree, list) else tree


def start(recipe: Recipe, out: Path, until: str | None) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["semivss.train.loop", "semivss.infer.predict", "semivss.report.html", "torch.utils.tensorboard"])
    process = context.Process(target=run_until, args=(recipe, out, until))
    process.start()
    return process


def run_until(recipe: Recipe, out: Path, until: str | None) -> None:
    from semivss.pipeline import run

    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):  # the tables of scores
        run(recipe, out, until=until)


def finish(process: BaseProcess) -> None:
    process.join()
    if process.exitcode:
        raise SystemExit(f"a run failed with exit code {process.exitcode}")


def small_recipe() -> Recipe:
    toy = {"clips": 3, "frames": 4, "size": [48, 64]}
    train = {
        "steps": 60,
        "batch": 2,
        "lr": 5e-3,
        "warmup": 5,
        "ema": 0.9,
        "threads": 1,
        "evaluate_every": 30,
        "checkpoint_every": 4,
        "log_every": 5,
    }
    return parse_recipe(
        {
            "name": "kills",
            "data": {
                "train": [{"kind": "toy", "toy": toy}],
                "unlabelled": [{"kind": "toy", "toy": toy | {"clips": 6, "first_clip": 3}}],
                "val": {"kind": "toy", "toy": toy | {"clips": 1, "first_clip": 100}},
                "test": [{"kind": "toy", "toy": toy | {"clips": 4, "frames": 20, "first_clip": 200}}],
                "augment": {"crop": [32, 48]},
            },
            "model": {"pixel": {"channels": 16}},
            "train": train,
            "teacher": {"model": {"pixel": {"channels": 24}}},
            "pseudo": {"views": {"scales": [1.0, 1.5], "flip": True}},
            "semi": {
                "unlabelled_batch": 2,
                "retrain_teacher": True,
                "controls": ["supervised", "no_contrast"],
                "train": train | {"steps": 30},
                "contrast": {"channels": 16, "bank": 64, "anchors": 16, "negatives": 8},
            },
            "predict": {"views": {"scales": [1.0, 1.5], "flip": True}},
        }
    )


if __name__ == "__main__":
    main()
