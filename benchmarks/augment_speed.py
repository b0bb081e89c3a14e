"""What does one training crop cost, from files to tensors? Our augmentation against mmsegmentation's transforms.

    python benchmarks/augment_speed.py --peers FOLDER            25 rounds of 16 images a case; FOLDER: see peers/install.py
    python benchmarks/augment_speed.py --peers FOLDER --quick    2 rounds of 4

Frames (JPEG) and label maps of 124 classes (8-bit PNG) of 480x853 and 1080x1920 pixels are made in a temporary folder. Both sides read a
pair, resize it by a factor of 0.5 to 2, crop, flip with chance one half, change brightness, contrast, saturation and hue, each with
chance one half and in the same ranges, and hand out the frame as an 8-bit tensor (channels first) and the labels:

ours            `read_frame`, `read_mask`, `augment_clip`; the crop is chosen first, and padded to its full size
mmsegmentation  LoadImageFromFile, LoadAnnotations, RandomResize, RandomCrop (cat_max_ratio 0.75), RandomFlip, PhotoMetricDistortion,
                PackSegInputs; what is smaller than the crop is left so, for its model pads later; labels become int64

Files are in the file cache. The factors are the same on both sides: the middles of equal parts of 0.5..2, one after the other; everything
else is drawn. Each side's `decode` is the time of its reading alone, and `ratio_beyond_decoding` the ratio of what is left. Sides take
turns in one process on one thread.
"""

import itertools
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision  # noqa: F401 -- as timm loads it in trainings; `read_frame` then decodes by it
from PIL import Image

from peers.region_maps import region_maps
from peers.side_by_side import alternated, emit, installed, named, options_of, short
from semivss.data.augment import augment_clip
from semivss.data.images import read_frame, read_mask
from semivss.settings import Augment

CLASSES = 124
CASES = (((480, 853), 896, 1.8), ((1080, 1920), 896, 1.4), ((480, 853), 512, 1.4))  # frame, crop, floor
Pair = tuple[Path, Path]  # frame, labels


def main() -> None:
    options = options_of(__doc__, rounds=25)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with_peer = installed("mmseg")
    images, rounds = (4, 2) if options.quick else (16, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        made = {size: make(Path(folder), size) for size in {size for size, _, _ in CASES}}
        for size, crop, floor in CASES:
            measure(list(itertools.islice(itertools.cycle(made[size]), images)), size, crop, rounds, floor, with_peer)


def make(folder: Path, size: tuple[int, int], count: int = 4) -> list[Pair]:
    """Regions, each of its colour, with waves and some noise: about as large as photographs when compressed."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32) * (480 / size[0])
    pairs = []
    for number in range(count):
        labels, _ = region_maps(random, size, CLASSES, 0)
        colours = random.integers(40, 216, (CLASSES, 3))[labels]
        waves = 20 * np.sin(x / 7 + number) + 15 * np.cos(y / 5)
        noise = cv2.GaussianBlur(random.normal(0, 14, (*size, 3)).astype(np.float32), (0, 0), 0.8)
        frame = np.clip(colours + waves[..., None] + noise, 0, 255).astype(np.uint8)
        pair = (folder / f"{size[0]}_{number}.jpg", folder / f"{size[0]}_{number}.png")
        Image.fromarray(frame).save(pair[0], quality=90)
        Image.fromarray(labels).save(pair[1])
        pairs.append(pair)
    return pairs


def measure(pairs: list[Pair], size: tuple[int, int], crop: int, rounds: int, floor: float, with_peer: bool) -> None:
    """One row."""
    factors = 0.5 + 1.5 * (np.arange(len(pairs)) + 0.5) / len(pairs)
    work = [(pair, float(factor)) for pair, factor in zip(pairs, factors, strict=True)]
    sides: dict[str, list[Callable[[], Any]]] = {
        "semivss": our_side(work, crop),
        "decode": [partial(our_reading, pair) for pair in pairs],
    }
    if with_peer:
        sides["mmsegmentation"], sides["their decode"] = mmseg_sides(work, size, crop)
    times = alternated(sides, rounds)
    more: dict[str, Any] = {"floor": floor, "decode": milliseconds(times["decode"], len(pairs))}
    if with_peer:
        more["against_decode"] = milliseconds(times["their decode"], len(pairs))
        rest = [
            [whole - part for whole, part in zip(times[side], times[reading], strict=True)]
            for side, reading in (("semivss", "decode"), ("mmsegmentation", "their decode"))
        ]
        more["ratio_beyond_decoding"] = short(statistics.median(theirs / own for own, theirs in zip(*rest, strict=True)))
    what = f"training crop, decoding included, {size[0]}x{size[1]} -> {crop}x{crop}, resize 0.5..2"
    against = f"{named('mmsegmentation') if with_peer else 'mmsegmentation'} transforms"
    emit(what, times, "semivss", "mmsegmentation", against, unit="an image", per=len(pairs), **more)


def milliseconds(times: list[float], images: int) -> float:
    """Of one image."""
    return short(1000 * statistics.median(times) / images)


def our_reading(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    return read_frame(pair[0]), read_mask(pair[1])


def our_side(work: list[tuple[Pair, float]], crop: int) -> list[Callable[[], Any]]:
    """One call an image; frames and labels as tensors."""
    generator = np.random.default_rng(0)

    def one(pair: Pair, settings: Augment) -> tuple[torch.Tensor, torch.Tensor]:
        frame, labels = our_reading(pair)
        frames, warped = augment_clip([frame], [labels], settings, generator)
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, -3))), torch.from_numpy(warped)

    return [partial(one, pair, Augment(crop=(crop, crop), scale=(factor, factor))) for pair, factor in work]


def mmseg_sides(
    work: list[tuple[Pair, float]], size: tuple[int, int], crop: int
) -> tuple[list[Callable[[], Any]], list[Callable[[], Any]]]:
    """The same of mmsegmentation, and its reading alone."""
    import mmseg.datasets.transforms  # noqa: F401 -- registers the transforms
    from mmcv.transforms import Compose
    from mmseg.registry import TRANSFORMS

    def pipeline(steps: list[dict[str, Any]]) -> Any:
        return Compose([TRANSFORMS.build(step) for step in steps])

    reading = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
    pipelines = {
        factor: pipeline(
            [
                *reading,
                {"type": "RandomResize", "scale": size[::-1], "ratio_range": (factor, factor), "keep_ratio": True},
                {"type": "RandomCrop", "crop_size": (crop, crop), "cat_max_ratio": 0.75},
                {"type": "RandomFlip", "prob": 0.5},
                {"type": "PhotoMetricDistortion"},
                {"type": "PackSegInputs"},
            ]
        )
        for _, factor in work
    }
    read = pipeline(reading)
    np.random.seed(0)  # noqa: NPY002 -- theirs draw from the global state

    def given(pair: Pair) -> dict[str, Any]:
        return {"img_path": str(pair[0]), "seg_map_path": str(pair[1]), "seg_fields": [], "reduce_zero_label": False}

    whole = [lambda pair=pair, factor=factor: pipelines[factor](given(pair)) for pair, factor in work]
    return whole, [lambda pair=pair: read(given(pair)) for pair, _ in work]


if __name__ == "__main__":
    main()
