"""Which way of compressing label and entropy PNGs costs the least time and space?

    python benchmarks/map_compression.py             48 frames of 480x360
    python benchmarks/map_compression.py --quick     6 frames
    python benchmarks/map_compression.py FOLDER      the maps of pseudo labels or predictions

Without FOLDER the maps come from a tiny model with random weights on the toy world: their edges are rougher than a trained model's. Times
are process CPU time; every file is read back and compared.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from machine import machine
from semivss.data.codes import code_of_entropy
from semivss.data.source import open_source
from semivss.data.toy import toy_labels
from semivss.infer.predict import stream_distribution
from semivss.infer.writer import grey_png, index_png
from semivss.models.zoo import build_segmenter
from semivss.posterior import entropy
from semivss.settings import Model, PixelHead, Source

FRAMES, QUICK_FRAMES, SIZE = 48, 6, (360, 480)
DEFAULT, RUNS = 0, 3  # strategies of zlib
WAYS = [(1, DEFAULT), (3, DEFAULT), (6, DEFAULT), (9, DEFAULT), (1, 2), (1, RUNS)]
NAMES = {DEFAULT: "matches", 2: "Huffman codes alone", RUNS: "runs alone"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    frames = QUICK_FRAMES if options.quick else FRAMES
    pairs = list(stored(options.folder, frames) if options.folder else computed(frames))
    for kind, maps in (("labels", [labels for labels, _ in pairs]), ("entropies", [codes for _, codes in pairs])):
        own = partial(index_png, label_set=toy_labels()) if kind == "labels" else grey_png
        for level, strategy in WAYS:
            show(f"{kind}: Pillow, level {level}, {NAMES[strategy]}", maps, partial(pillow, level=level, strategy=strategy), own)
        show(f"{kind}: what semivss writes", maps, own, own)


def show(what: str, maps: list[np.ndarray], encode: Callable[[np.ndarray], bytes], own: Callable[[np.ndarray], bytes]) -> None:
    """Milliseconds and bytes of one way, and its bytes as a multiple of those of semivss."""
    seconds, sizes = [], []
    for values in maps:
        began = time.process_time()
        data = encode(values)
        seconds.append(time.process_time() - began)
        sizes.append(len(data))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), values)
    ratio = sum(sizes) / sum(len(own(values)) for values in maps)
    row = {"what": what, "value": round(1000 * statistics.median(seconds), 2), "unit": "ms", "ratio": round(ratio, 3)}
    row |= {"against": "bytes of what semivss writes", "bytes": round(statistics.mean(sizes)), "frames": len(maps)}
    print(json.dumps(row | {"machine": machine()}), flush=True)


def pillow(values: np.ndarray, level: int, strategy: int) -> bytes:
    image, buffer = Image.fromarray(values), io.BytesIO()
    if values.dtype == np.uint8:
        image.putpalette(toy_labels().palette())
    image.save(buffer, "PNG", compress_level=level, compress_type=strategy)
    return buffer.getvalue()


def stored(folder: Path, frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Evenly spread labels and entropy codes of a folder of pseudo labels or predictions."""
    paths = sorted((folder / "entropy").rglob("*.png"))
    for path in paths[:: max(1, len(paths) // frames)][:frames]:
        yield np.asarray(Image.open(folder / path.relative_to(folder / "entropy"))), np.asarray(Image.open(path))


def computed(frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    torch.manual_seed(0)
    model = build_segmenter(Model(backbone="tiny", pixel=PixelHead(channels=16)), toy_labels()).eval()
    toy = {"clips": max(1, frames // 6), "frames": 6, "size": list(SIZE)}
    clips = open_source(Source.model_validate({"kind": "toy", "toy": toy}), "strict").clips
    pictures = (clip.frame(index) for clip in clips for index in range(len(clip.stems)))
    for p in stream_distribution([model], None, pictures):
        yield p.argmax(0).to(torch.uint8).numpy(), code_of_entropy(entropy(p[None])[0].numpy(), len(p))


if __name__ == "__main__":
    main()
