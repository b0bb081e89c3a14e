"""How much of the wall time do `predict` and `pseudo-label` spend inside the model, and how much faster are two workers than one?

    python benchmarks/pipeline_share.py            10 videos of 40 frames, 3 rounds
    python benchmarks/pipeline_share.py --backbone timm/resnet50
    python benchmarks/pipeline_share.py --quick    10 videos of 8 frames, 1 round

Videos of 480x360 from the toy world, or cut from CamVid where SEMIVSS_CAMVID names it. The model is a ResNet-18 with the per-pixel head,
unless another backbone is named, and random weights: how long a frame takes does not depend on them. Everything is written that is written
by default. One thread of torch a worker; workers are processes of their own, which begin together once all of them have built their model
and run it once. Rounds of one and two workers alternate; values are medians over the rounds. `cpu_s`, of all workers and their threads,
tells what the machine's cores must do at least: other work on them costs wall time alone.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from machine import machine
from semivss.data.labels import LabelSet, vspw124
from semivss.data.toy_files import write_toy
from semivss.infer.inputs import open_inputs
from semivss.infer.predict import predict
from semivss.infer.pseudo import pseudo_label
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.settings import Model, PixelHead, Predict, PseudoLabels

VIDEOS, SIZE = 10, (360, 480)
SHARE_FLOOR, SPEED_FLOOR = 0.85, 1.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--backbone", default="timm/resnet18")
    options = parser.parse_args()
    frames, rounds = (8, 1) if options.quick else (40, 3)
    with FlopCounterMode(display=False) as counter:
        model(options.backbone)(torch.zeros(1, 3, *SIZE, dtype=torch.uint8))
    gflop = counter.get_total_flops() / 1e9
    with tempfile.TemporaryDirectory() as name:
        source = videos(Path(name), frames)
        for verb in ("predict", "pseudo-label"):
            found: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
            for turn in range(rounds):
                for workers in (1, 2):
                    found[workers].append(measure(verb, options.backbone, source, Path(name) / f"{verb}_{workers}_{turn}", workers))
            seconds = {workers: statistics.median(one for one, _, _ in values) for workers, values in found.items()}
            cpu = {workers: round(statistics.median(one for _, _, one in values), 2) for workers, values in found.items()}
            shares = sorted(share for _, share, _ in found[1])
            ratios = sorted(one[0] / two[0] for one, two in zip(found[1], found[2], strict=True))
            common = {
                "backbone": options.backbone,
                "gflop_a_frame": round(gflop, 1),
                "source": source.name,
                "rounds": rounds,
                "machine": machine(),
            }
            row = {"what": f"{verb}: wall time inside the model, 1 worker", "value": statistics.median(shares), "unit": "share"}
            print(
                json.dumps(row | {"spread": [shares[0], shares[-1]], "ratio": None, "floor": SHARE_FLOOR, "cpu_s": cpu[1]} | common),
                flush=True,
            )
            row = {"what": f"{verb}: 2 workers", "value": seconds[2], "unit": "s", "ratio": statistics.median(ratios)}
            row |= {"spread": [ratios[0], ratios[-1]], "against": f"1 worker, {seconds[1]:.2f} s", "floor": SPEED_FLOOR, "cpu_s": cpu[2]}
            print(json.dumps(row | common), flush=True)


def model(backbone: str) -> Segmenter:
    torch.manual_seed(0)
    classes = vspw124()
    labels = LabelSet("eleven", classes.names[:11], classes.colors[:11], classes.things[:11])
    return build_segmenter(Model(backbone=backbone, pixel=PixelHead(channels=64)), labels).eval()


def videos(folder: Path, frames: int) -> Path:
    """A folder with a folder of frames for each video."""
    camvid = os.environ.get("SEMIVSS_CAMVID")
    toy = folder / "toy"
    if not camvid:
        write_toy(toy, clips=VIDEOS, frames=frames, size=SIZE)
    chosen = folder / ("camvid" if camvid else "toy_videos")
    clips = [sorted(video.iterdir()) for video in sorted((Path(camvid) if camvid else toy).glob("data/*/origin"))]
    cuts = [clip[start : start + frames] for clip in clips for start in range(0, len(clip) - frames + 1, frames)]
    for number, cut in enumerate(cuts[:VIDEOS]):
        target = chosen / f"{number:02d}"
        target.mkdir(parents=True)
        for picture in cut:
            (target / picture.name).symlink_to(picture.resolve())
    return chosen


def measure(verb: str, backbone: str, source: Path, out: Path, workers: int) -> tuple[float, float, float]:
    """Seconds until the last worker is done, the first one's share of the time inside the model, and CPU seconds of all."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(workers), context.Queue()
    crew = [context.Process(target=work, args=(verb, backbone, source, out, ready, results)) for _ in range(workers)]
    for process in crew:
        process.start()
    found = [results.get() for _ in crew]
    for process in crew:
        process.join()
    assert sum(frames for frames, _, _, _ in found) == sum(video.count() or 0 for video in open_inputs(source))
    return max(seconds for _, seconds, _, _ in found), found[0][2], sum(cpu for _, _, _, cpu in found)


def work(verb: str, backbone: str, source: Path, out: Path, ready: Barrier, results: "Queue[tuple[int, float, float, float]]") -> None:
    torch.set_num_threads(1)
    own, inputs = model(backbone), open_inputs(source)
    with torch.inference_mode():
        own(torch.zeros(4, 3, *SIZE, dtype=torch.uint8))
    ready.wait()
    before = time.process_time()
    done = predict([own], inputs, out, Predict()) if verb == "predict" else pseudo_label([own], inputs, out, PseudoLabels())
    results.put((done.frames, done.seconds, done.model_seconds / done.seconds, time.process_time() - before))


if __name__ == "__main__":
    main()
