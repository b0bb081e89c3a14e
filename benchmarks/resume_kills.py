"""Does training killed at random moments end with the bytes of an undisturbed run? Kills processes with SIGKILL and compares.

    python benchmarks/resume_kills.py            10 kills with 0 and 10 with 2 loader workers
    python benchmarks/resume_kills.py --quick    2 and 2

A small model trains 40 steps on the toy world. Each kill falls on a random moment of a process that otherwise would finish; the next
process goes on from the checkpoint. $TMPDIR lies on /dev/shm, another file system than the run's, where that exists.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import tempfile
import time
from pathlib import Path

import torch

from semivss.recipe import Recipe, parse_recipe

KILLS, QUICK_KILLS = 10, 2
BOOT = 0.2  # seconds in which a process does nothing worth killing


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if os.access("/dev/shm", os.W_OK):
            os.environ["TMPDIR"] = "/dev/shm"
        for workers in (0, 2):
            print(json.dumps(measure(Path(folder), workers, QUICK_KILLS if options.quick else KILLS, options.seed)), flush=True)


def measure(folder: Path, workers: int, wanted: int, seed: int) -> dict[str, object]:
    """Kill until `wanted` processes were killed before their end; every finished run is compared."""
    recipe, reference = small_recipe(workers), folder / f"whole{workers}"
    for out in (folder / f"warm{workers}", reference):  # the first process waits for the fork server's imports
        started = time.perf_counter()
        process = start(recipe, out)
        process.join()
        seconds = time.perf_counter() - started
    moments, kills, runs, equal, unreadable = random.Random(seed), 0, 0, 0, 0
    while kills < wanted:
        out = folder / f"broken{workers}_{runs}"
        while True:
            process = start(recipe, out)
            process.join(moments.uniform(BOOT, seconds) if kills < wanted else None)
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
        runs += 1
        unreadable += process.exitcode != 0
        equal += process.exitcode == 0 and same(reference, out)
        shutil.rmtree(out)
    return {
        "what": f"training killed and resumed, {workers} workers",
        "value": equal,
        "unit": f"of {runs} runs bitwise equal after {kills} kills, {unreadable} failed",
        "ratio": equal / runs,
        "against": "an undisturbed run",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }


def start(recipe: Recipe, out: Path) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["semivss.train.loop", "torch.utils.tensorboard"])
    process = context.Process(target=run, args=(recipe, out))
    process.start()
    return process


def run(recipe: Recipe, out: Path) -> None:
    from semivss.train.loop import train

    train(recipe, out)


def same(left: Path, right: Path) -> bool:
    """Weights, averaged weights and optimiser state, and the file of the best model."""
    states = [torch.load(out / "last.ckpt", weights_only=True) for out in (left, right)]
    flat = [dict(leaves({key: state[key] for key in ("model", "ema", "optimizer")})) for state in states]
    tensors = flat[0].keys() == flat[1].keys() and all(
        torch.equal(value, flat[1][key]) if isinstance(value, torch.Tensor) else value == flat[1][key] for key, value in flat[0].items()
    )
    name = Path("model") / "model.safetensors"
    return tensors and (left / name).read_bytes() == (right / name).read_bytes()


def leaves(tree, key=""):
    if isinstance(tree, dict | list):
        for name, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(branch, f"{key}.{name}")
    else:
        yield key, tree


def small_recipe(workers: int) -> Recipe:
    toy = {"clips": 4, "frames": 4, "size": [48, 64]}
    return parse_recipe(
        {
            "name": "resume",
            "data": {
                "train": [{"kind": "toy", "toy": toy}],
                "val": {"kind": "toy", "toy": toy | {"clips": 1, "first_clip": 100}},
                "augment": {"crop": [32, 48]},
                "workers": workers,
            },
            "model": {"pixel": {"channels": 16}},
            "train": {"steps": 40, "batch": 2, "ema": 0.9, "threads": 1, "evaluate_every": 20, "checkpoint_every": 4, "log_every": 5},
        }
    )


if __name__ == "__main__":
    main()
