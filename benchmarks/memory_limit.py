"""Does `predict --memory` stay below its limit, and how near does it come to what it expects? Each run in a process of its own.

    python benchmarks/memory_limit.py            every case
    python benchmarks/memory_limit.py --quick    the first two

A Mask2Former of 50 queries on the tiny network with 124 classes, random weights, four frames of 480x853. For each choice of views first
the least that it needs, by the line of a refusal; then runs with that and with more. `value` is the process's peak over the limit;
`expected` is the peak over what the run said that it would take.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from machine import machine
from semivss.data.labels import vspw124
from semivss.models.zoo import build_segmenter
from semivss.settings import Mask2FormerHead, Model

SIZE, FRAMES = (480, 853), 4
HEAD = Mask2FormerHead(channels=128, queries=50, feedforward=512, encoder_feedforward=512)
CASES = (  # what, models, words
    ("single", 1, ("--views", "single")),
    ("fast, two models", 2, ("--views", "fast")),
    ("windows of 384, 3 scales x flip", 1, ("--scales", "0.8,1,1.25", "--flip", "--crop", "384x384")),
    ("released, two models", 2, ("--views", "released")),
)
RUN = """
import sys
from pathlib import Path
from semivss.cli import main
from semivss.infer.memory import peak
try:
    main()
finally:
    Path(sys.argv[0]).with_name("peak").write_text(str(peak()))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        models = [save(root / f"model_{seed}", seed) for seed in (0, 1)]
        (clip := root / "clip").mkdir()
        for index in range(FRAMES):
            Image.fromarray(np.random.default_rng(index).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(clip / f"{index}.png")
        for what, count, words in CASES[: 2 if quick else None]:
            _, said = predict(root, models[:count], words, 1e7)
            least = 1e6 * float(re.search(r"([0-9,]+) MB are needed at least", said)[1].replace(",", ""))  # type: ignore[index]
            for limit in (least, 1.3 * least, 2 * least):
                measure(root, models[:count], what, words, limit)


def save(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    build_segmenter(Model(backbone="tiny", mask2former=HEAD), vspw124()).save_pretrained(folder)
    return folder


def measure(root: Path, models: list[Path], what: str, words: tuple[str, ...], limit: float) -> None:
    peak, said = predict(root, models, words, limit)
    number, how = re.search(r"([0-9,]+) MB expected of .*?; (.*)", said).groups()  # type: ignore[union-attr]
    row = {"what": f"predict --memory, {what}", "value": round(peak / limit, 3), "unit": "of the limit", "limit_gb": round(limit / 1e9, 2)}
    row |= {"expected": round(peak / (1e6 * float(number.replace(",", ""))), 3), "how": how, "machine": machine()}
    print(json.dumps(row), flush=True)


def predict(root: Path, models: list[Path], words: tuple[str, ...], limit: float) -> tuple[int, str]:
    """The process's peak, and what it said."""
    (run := root / "run.py").write_text(RUN)
    out = ("--out", str(root / f"out_{len(list(root.iterdir()))}"), "--memory", f"{limit:.0f}")
    command = [sys.executable, str(run), "predict", *map(str, models), str(root / "clip"), *words, *out]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    return int((root / "peak").read_text()), said


if __name__ == "__main__":
    main()
