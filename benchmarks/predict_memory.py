"""Does predicting need more memory the longer the video is? Peak resident memory at the end of a stream against that after 600 frames.

    python benchmarks/predict_memory.py            10,000 frames
    python benchmarks/predict_memory.py --frames 54000     an hour at 15 a second
    python benchmarks/predict_memory.py --quick    1,500 frames

A short mp4 is decoded over and over; a tiny model predicts it in two views, and labels, entropy maps and the overlay video are written.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from semivss.data.labels import LabelSet, vspw124
from semivss.data.video import VideoFile, VideoWriter
from semivss.infer.inputs import OnDefect
from semivss.infer.predict import predict
from semivss.models.zoo import build_segmenter
from semivss.settings import Model, PixelHead, Predict, Views

EARLY, LIMIT = 600, 1.02
SIZE = (64, 96)
CLASSES = vspw124()
TEN = LabelSet("ten", CLASSES.names[:10], CLASSES.colors[:10], CLASSES.things[:10])


@dataclass
class LoopedVideo:
    """The same file again and again, as one long video. Notes the peak memory when frame number `EARLY` is asked for."""

    path: Path
    length: int
    early: int = 0
    name: str = "looped"

    def frames(self, on_defect: OnDefect) -> Iterator[tuple[str, np.ndarray]]:
        number = 0
        while True:
            for _, frame in VideoFile(self.path).stream(on_defect=on_defect):
                if number == self.length:
                    return
                if number == EARLY:
                    self.early = peak()
                yield f"{number:08d}", frame
                number += 1

    def count(self) -> int | None:
        return self.length

    def fps(self) -> float | None:
        return 15.0

    def identity(self) -> str:
        return "looped"

    def sources(self) -> Iterable[Path]:
        return [self.path]


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def short_video(path: Path) -> Path:
    """48 frames of moving coloured waves."""
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    with VideoWriter(path, 15) as video:
        for t in range(48):
            waves = [np.sin((x + 3 * t) / 9), np.cos((y - 2 * t) / 13), np.sin((x + y + t) / 17)]
            video.write(np.stack([128 + 100 * wave for wave in waves], 2).astype(np.uint8))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--frames", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = build_segmenter(Model(backbone="tiny", pixel=PixelHead(channels=32)), TEN)
    with tempfile.TemporaryDirectory() as folder:
        video = LoopedVideo(short_video(Path(folder) / "short.mp4"), 1500 if arguments.quick else arguments.frames)
        start = time.perf_counter()
        done = predict([model], [video], Path(folder) / "out", Predict(views=Views(flip=True), batch=2))
        seconds = time.perf_counter() - start
    late = peak()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    ratio = late / video.early
    for what, value, unit, part in (
        (f"peak memory after {EARLY} frames", video.early / 2**20, "MB", None),
        (f"peak memory after {done.frames} frames", late / 2**20, "MB", ratio),
        ("frames predicted and written", done.frames / seconds, "frames/s", None),
    ):
        row = {"what": what, "value": round(value, 2), "unit": unit, "ratio": part and round(part, 4), "machine": machine}
        if part is not None:
            row |= {"against": f"peak after {EARLY} frames", "limit": LIMIT}
        print(json.dumps(row))
    if ratio > LIMIT:
        raise SystemExit(f"memory grew by {100 * (ratio - 1):.1f} %")


if __name__ == "__main__":
    main()
