"""What does a copy with smaller frames save? Decoding a frame and its mask, 1080p against the 480p of `semivss data cache`.

    OMP_NUM_THREADS=1 python benchmarks/cache_read.py          30 frames, 7 rounds
    OMP_NUM_THREADS=1 python benchmarks/cache_read.py --quick  6 frames, 3 rounds

Frames are of the toy world, enlarged and with some noise (JPEG of quality 95); masks are enlarged by nearest neighbour. Rows: CPU
milliseconds for a frame with its mask, and the bytes of both files.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from machine import machine
from semivss.data.cache import cache_copies
from semivss.data.clips import Clip
from semivss.data.labels import label_set
from semivss.data.remap import write_mask
from semivss.data.source import open_source
from semivss.data.vspw import read_vspw
from semivss.settings import Source, Toy

LARGE, SHORT_SIDE = (1080, 1920), 480


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    frames, rounds = (6, 3) if options.quick else (30, 7)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "large", Path(folder) / "small"
        write(large, frames)
        cache_copies(large, small, SHORT_SIDE)
        clips = {name: read_vspw(root, "train").clips[0] for name, root in (("1080p", large), ("480p", small))}
        times: dict[str, list[float]] = {name: [] for name in clips}
        for _ in range(rounds + 1):
            for name, clip in clips.items():
                times[name].append(read(clip))
        weighs = {
            name: sum(path.stat().st_size for path in root.rglob("0*.*")) / frames for name, root in (("1080p", large), ("480p", small))
        }
    ratios = sorted(before / after for before, after in zip(times["1080p"][1:], times["480p"][1:], strict=True))
    row = {
        "what": "decoding a frame and its mask from the copy of data cache, 480p",
        "value": round(1000 * statistics.median(times["480p"][1:]), 2),
        "unit": "CPU ms a frame",
        "ratio": round(statistics.median(ratios), 2),
        "spread": [round(ratios[0], 2), round(ratios[-1], 2)],
        "against": "the data set's 1080p",
        "against_value": round(1000 * statistics.median(times["1080p"][1:]), 2),
        "rounds": rounds,
        "kilobytes": {name: round(size / 1000) for name, size in weighs.items()},
    }
    print(json.dumps(row | {"machine": f"{machine()}, 1 thread"}))


def write(root: Path, frames: int) -> None:
    """One video in the VSPW layout."""
    labels = label_set("camvid11")
    toy = open_source(Source.model_validate({"kind": "toy", "toy": Toy(clips=1, frames=frames).model_dump()}), "strict").clips[0]
    random = np.random.default_rng(0)
    video = root / "data" / "video"
    for kind in ("origin", "mask"):
        (video / kind).mkdir(parents=True)
    names = {"others": "0"} | {name: str(number) for number, name in enumerate(labels.names, 1)}
    (root / "label_num_dic_final.json").write_text(json.dumps(names))
    for index in range(frames):
        frame = cv2.resize(toy.frame(index), LARGE[::-1], interpolation=cv2.INTER_CUBIC) + random.normal(0, 3, (*LARGE, 3))
        Image.fromarray(np.clip(frame, 0, 255).astype(np.uint8)).save(video / "origin" / f"{index:08d}.jpg", quality=95)
        mask = cv2.resize(toy.labels(index), LARGE[::-1], interpolation=cv2.INTER_NEAREST)
        write_mask(video / "mask" / f"{index:08d}.png", np.where(mask < len(labels), mask, 255).astype(np.uint8), labels, "vspw")


def read(clip: Clip) -> float:
    """CPU seconds a frame."""
    start = time.process_time()
    for index in range(len(clip.stems)):
        clip.frame(index)
        clip.labels(index)
    return (time.process_time() - start) / len(clip.stems)


if __name__ == "__main__":
    main()
