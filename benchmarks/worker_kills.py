"""Does labelling with 1, 2 and 3 workers, one of them killed at a random moment, end with the manifest of an undisturbed process?

    python benchmarks/worker_kills.py            10 kills with each number of workers
    python benchmarks/worker_kills.py --quick    2 kills with each

Workers are processes of their own that make pseudo labels of 12 short videos of the toy world with a tiny model, aligned to shares of the
classes; one is killed with SIGKILL. Where it was the only one, the same command is given again. A row a run.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch

from machine import machine
from semivss.data.toy import toy_labels
from semivss.data.toy_files import write_toy
from semivss.infer.inputs import open_inputs
from semivss.infer.pseudo import pseudo_label
from semivss.models.zoo import build_segmenter
from semivss.settings import Model, PixelHead, PseudoLabels, Views

KILLS, QUICK_KILLS = 10, 2
VIDEOS, FRAMES, SIZE = 12, 10, (96, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments, kills = random.Random(options.seed), QUICK_KILLS if options.quick else KILLS
    with tempfile.TemporaryDirectory() as name:
        folder, unequal = Path(name), 0
        write_toy(folder / "toy", clips=VIDEOS, frames=FRAMES, size=SIZE)
        finish(start(folder / "warm"))  # waits for the fork server's imports
        began = time.perf_counter()
        finish(start(folder / "whole"))
        seconds, reference = time.perf_counter() - began, manifest_hash(folder / "whole")
        for workers in (1, 2, 3):
            for number in range(kills):
                out, moment = folder / f"{workers}_{number}", moments.uniform(0, 0.8 * seconds)
                killed, found = run(out, workers, moments.randrange(workers), moment), manifest_hash(out)
                unequal += found != reference
                row = {"what": f"manifest after a kill among {workers} workers", "value": found[:16], "unit": "SHA-256"}
                row |= {"ratio": float(found == reference), "against": reference[:16], "killed_after_s": round(moment, 2)}
                print(json.dumps(row | {"videos_finished_then": killed, "machine": machine()}), flush=True)
    if unequal:
        raise SystemExit(f"{unequal} of {3 * kills} manifests differ")


def run(out: Path, workers: int, victim: int, moment: float) -> int:
    """Kill one of the workers and let the others end; how many videos were finished at that time."""
    crew = [start(out) for _ in range(workers)]
    time.sleep(moment)
    crew[victim].kill()
    crew[victim].join()
    finished = len(list((out / "records").glob("*.jsonl")))
    for process in (*crew[:victim], *crew[victim + 1 :]) if workers > 1 else (start(out),):
        finish(process)
    return finished


def start(out: Path) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["semivss.infer.pseudo", "semivss.models.zoo", "semivss.data.vspw", "cv2"])
    process = context.Process(target=work, args=(out,))
    process.start()
    return process


def finish(process: BaseProcess) -> None:
    process.join()
    if process.exitcode:
        raise SystemExit(f"a worker failed with exit code {process.exitcode}")


def work(out: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    model = build_segmenter(Model(backbone="tiny", pixel=PixelHead(channels=16)), toy_labels())
    classes = len(model.label_set)
    settings = PseudoLabels(views=Views(scales=(1.0, 1.5), flip=True), align=1.0, window=1)
    inputs = open_inputs(out.parent / "toy", split="train")
    pseudo_label([model], inputs, out, settings, wanted=np.full(classes, 1 / classes))


def manifest_hash(out: Path) -> str:
    """Of manifest.json, which holds the hash of every file. Half-written files count as a difference."""
    left = [path.name for path in out.rglob("*.tmp") if ".workers" not in path.parts]
    return hashlib.sha256((out / "manifest.json").read_bytes() + "".join(left).encode()).hexdigest()


if __name__ == "__main__":
    main()
