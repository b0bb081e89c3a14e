"""How many frames a second does the toy world give on one core? One JSON row a question.

    python benchmarks/toy_speed.py             16 clips of 24 frames, 320x240
    python benchmarks/toy_speed.py --quick     4 clips of 8 frames

Counted is process time (user + system) on one thread: frame and mask, with and without the building of the scenes; the flow apart.
Each number comes with the slowest and the fastest clip, because scenes differ in what they hold and machines in what else they do.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable

import cv2
import numpy as np

from semivss.data.toy import ToyClip
from semivss.data.toy_world import build_scene

SIZE = (240, 320)
GOAL = 20.0  # frames a second


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    clips, frames = (4, 8) if options.quick else (16, 24)
    seconds = np.array([measure(ToyClip(0, number, frames, SIZE)) for number in range(clips)])
    build, draw, flow = seconds.T
    emit("toy frames and masks, scene ready", frames / draw)
    emit(f"toy frames and masks, scene built for {frames} frames", frames / (build + draw))
    emit("toy frames and masks, scene built for 8 frames", 8 / (build + draw * 8 / frames))
    emit("toy flow and visibility, apart from the frames", (frames - 1) / flow)


def measure(clip: ToyClip) -> tuple[float, float, float]:
    """CPU seconds for the scene, for all frames with masks, and for all flows."""
    build_scene.cache_clear()
    build = cpu_seconds(lambda: build_scene(clip.seed, clip.number))
    draw = cpu_seconds(lambda: [(clip.frame(index), clip.labels(index)) for index in range(clip.length)])
    flow = cpu_seconds(lambda: [(clip.flow(index), clip.visible(index)) for index in range(clip.length - 1)])
    return build, draw, flow


def cpu_seconds(work: Callable[[], object]) -> float:
    """Process time of `work`."""
    start = time.process_time()
    work()
    return time.process_time() - start


def emit(what: str, rate: np.ndarray) -> None:
    """One row: the harmonic mean over the clips, as a long job would see it."""
    row = {
        "what": what,
        "value": round(float(len(rate) / (1 / rate).sum()), 1),
        "unit": "frames/s of one core's time",
        "range": [round(float(rate.min()), 1), round(float(rate.max()), 1)],
        "ratio": round(float(len(rate) / (1 / rate).sum()) / GOAL, 2),
        "against": f"goal of {GOAL:.0f} frames/s",
        "size": f"{SIZE[1]}x{SIZE[0]}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
