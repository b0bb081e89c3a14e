"""What does `semivss score` cost beside only decoding the same PNGs, and does its memory stay constant?

    OMP_NUM_THREADS=1 python benchmarks/score_speed.py          10 videos x 60 frames of 480x853; --quick: 2 x 12

Scoring (mIoU, VC8, VC16) and bare Pillow decoding of the same masks and predictions take turns in one process; the numbers are process
CPU seconds, median of the rounds. One JSON row a line.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semivss.data.source import open_source
from semivss.metrics.score import score_folder
from semivss.settings import Score, Source

SIZE = (480, 853)
REGIONS, CLASSES = 40, 124


def main() -> None:
    """Make the data, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--videos", type=int, default=10)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    videos, frames, rounds = (2, 12, 3) if options.quick else (options.videos, options.frames, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_set(root, videos, frames)
        decode, score = (lambda: decode_all(root)), (lambda: score_all(root))
        spent: dict[str, list[float]] = {"decode": [], "score": []}
        for _ in range(rounds + 1):
            spent["decode"].append(cpu_seconds(decode))
            spent["score"].append(cpu_seconds(score))
        peak = tuple(peak_bytes(root, part) for part in (f"{name}.txt" for name in ("one", "val")))
    only, whole = (sorted(values[1:]) for values in (spent["decode"], spent["score"]))  # the first round warms the file cache
    ratio = statistics.median(whole) / statistics.median(only)
    size = f"{videos} x {frames} frames of {SIZE[0]}x{SIZE[1]}"
    spread = {"rounds": rounds, "lowest": round(whole[0], 3), "highest": round(whole[-1], 3)}
    emit(
        what=f"score {size}",
        value=statistics.median(whole),
        unit="CPU s",
        ratio=ratio,
        against="only decoding the same PNGs (Pillow)",
        **spread,
    )
    emit(what=f"peak memory of scoring {size}", value=peak[1] / 2**20, unit="MiB", ratio=peak[1] / peak[0], against="scoring one video")


def write_set(root: Path, videos: int, frames: int) -> None:
    """Masks in the VSPW layout and predictions: regions that drift, with predicted borders that wobble."""
    random = np.random.default_rng(0)
    names = [f"{k}_video" for k in range(videos)]
    for name in names:
        classes = random.integers(1, CLASSES + 1, REGIONS).astype(np.uint8)
        centres, speed = random.random((REGIONS, 2)) * SIZE, random.normal(0, 1.5, (REGIONS, 2))
        for t in range(frames):
            mask = classes[nearest(centres + speed * t)]
            guess = classes[nearest(centres + speed * t + random.normal(0, 2, centres.shape))] - 1
            mask[:3] = 255
            for path, labels in ((root / "data" / name / "mask", mask), (root / "pred" / name, guess)):
                path.mkdir(parents=True, exist_ok=True)
                Image.fromarray(labels).save(path / f"{t:08d}.png")
            origin = root / "data" / name / "origin"
            origin.mkdir(exist_ok=True)
            (origin / f"{t:08d}.jpg").touch()  # scoring lists the frames and never opens them
    (root / "val.txt").write_text("\n".join(names) + "\n")
    (root / "one.txt").write_text(names[0] + "\n")


def nearest(centres: np.ndarray) -> np.ndarray:
    """Index of the nearest centre at each pixel, at half resolution and doubled, which keeps the borders simple."""
    y, x = np.mgrid[0 : SIZE[0] : 2, 0 : SIZE[1] + 1 : 2].astype(np.float32)
    distance = np.stack([(y - cy) ** 2 + (x - cx) ** 2 for cy, cx in centres])
    return distance.argmin(0).repeat(2, 0).repeat(2, 1)[: SIZE[0], : SIZE[1]]


def pngs(root: Path) -> Iterator[Path]:
    """Every mask and every prediction."""
    yield from sorted(root.glob("data/*/mask/*.png"))
    yield from sorted(root.glob("pred/*/*.png"))


def decode_all(root: Path) -> None:
    """Read each PNG into an array."""
    for path in pngs(root):
        with Image.open(path) as image:
            np.asarray(image)


def score_all(root: Path, split: str = "val") -> None:
    """What `semivss score` does."""
    score_folder(root / "pred", open_source(Source(kind="vspw", path=str(root), split=split)), Score())


def cpu_seconds(work: Callable[[], None]) -> float:
    """Process time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def peak_bytes(root: Path, split: str) -> int:
    """Highest traced memory while scoring `split`."""
    tracemalloc.start()
    score_all(root, split)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def emit(**row: Any) -> None:
    """One JSON row; floats to four digits."""
    row = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}
    row["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"
    print(json.dumps(row))


if __name__ == "__main__":
    main()
