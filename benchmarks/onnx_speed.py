"""How fast is an exported file beside the PyTorch model that it was made from, and how near is it? One frame, one thread, rounds in turn.

    OMP_NUM_THREADS=1 python benchmarks/onnx_speed.py          five models up to 480x853
    OMP_NUM_THREADS=1 python benchmarks/onnx_speed.py --quick  two small ones

Both sides go from a uint8 frame to the class distribution of every pixel. Values are random: neither time depends on them. One JSON row a
model: CPU seconds of onnxruntime and, as `ratio`, the median over rounds of PyTorch's time over its own (above 1: the file is faster);
`load` is the CPU time in which onnxruntime opens the file, `scores` and `labels` are the parity in the file's metadata.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from machine import machine
from semivss.data.labels import LabelSet, distinct_colors
from semivss.infer.export import PACKAGES, export_onnx
from semivss.infer.onnx_model import OnnxModel
from semivss.models.zoo import build_segmenter
from semivss.posterior import class_distribution
from semivss.settings import Mask2FormerHead, Model

SMALL = Mask2FormerHead(channels=64, queries=20, encoder_layers=2, decoder_layers=3, heads=4, encoder_feedforward=256, feedforward=256)
AGAINST = "PyTorch, the same frame"


@dataclass(frozen=True)
class Case:
    """A model and the size of its frames."""

    backbone: str
    head: str
    classes: int
    size: tuple[int, int]
    mask2former: Mask2FormerHead = SMALL

    def __str__(self) -> str:
        head = "per-pixel head" if self.head == "pixel" else f"Mask2Former of {self.mask2former.channels} channels"
        return f"{self.backbone}, {head}, {self.classes} classes, frame {self.size[0]}x{self.size[1]}"


QUICK = (
    Case("tiny", "pixel", 12, (120, 160)),
    Case("timm/tf_efficientnet_lite0", "mask2former", 11, (120, 160)),
)
FULL = (
    Case("tiny", "pixel", 12, (240, 320)),
    Case("timm/tf_efficientnet_lite0", "pixel", 11, (360, 480)),
    Case("timm/tf_efficientnet_lite0", "mask2former", 11, (360, 480)),
    Case("swin_t", "mask2former", 124, (480, 853), Mask2FormerHead()),
    Case("vit_adapter_b", "mask2former", 124, (480, 853), Mask2FormerHead()),
)


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", help="the cases of one backbone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    for case in QUICK if options.quick else FULL:
        if options.only not in (None, case.backbone):
            continue
        if missing:
            emit(case, value=None, ratio=None, reason=f"{', '.join(missing)} not installed")
        else:
            measure(case, 5 if options.quick else 9)


@torch.inference_mode()
def measure(case: Case, rounds: int) -> None:
    """One row. The file is written and compared first; the first round of each side warms it."""
    torch.manual_seed(0)
    labels = LabelSet("benchmark", tuple(map(str, range(case.classes))), distinct_colors(case.classes), (False,) * case.classes)
    settings = Model(backbone=case.backbone, head=case.head, mask2former=case.mask2former)
    with torch.inference_mode(False):
        segmenter = build_segmenter(settings, labels).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with torch.inference_mode(False):
            parity = export_onnx(segmenter, path, case.size).parity
        start = time.process_time()
        exported = OnnxModel(path)
        load = time.process_time() - start
        size = path.stat().st_size
        frame = torch.randint(0, 256, (1, 3, *case.size), dtype=torch.uint8)
        times: dict[str, list[float]] = {"pytorch": [], "onnxruntime": []}
        for _ in range(rounds + 1):
            times["pytorch"].append(seconds(lambda: class_distribution(segmenter(frame), case.size, segmenter.rule)))
            times["onnxruntime"].append(seconds(lambda: exported(frame)))
    theirs, ours = (values[1:] for values in times.values())
    ratios = sorted(before / after for before, after in zip(theirs, ours, strict=True))
    emit(
        case,
        value=float(f"{statistics.median(ours):.3g}"),
        ratio=round(statistics.median(ratios), 2),
        spread=[round(ratios[0], 2), round(ratios[-1], 2)],
        against_value=float(f"{statistics.median(theirs):.3g}"),
        rounds=rounds,
        load=round(load, 2),
        mebibytes=round(size / 2**20, 1),
        scores={name: found.scores and float(f"{found.scores:.2g}") for name, found in parity.items()},
        labels={name: found.labels for name, found in parity.items()},
        versions=exported.description.versions,
    )


def seconds(work: Callable[[], object]) -> float:
    """CPU time of the process in one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def emit(case: Case, **row: Any) -> None:
    """One JSON row."""
    row = {"what": f"exported model, {case}", "unit": "CPU s a frame", "against": AGAINST} | row
    print(json.dumps(row | {"machine": f"{machine()}, {torch.get_num_threads()} thread"}), flush=True)


if __name__ == "__main__":
    main()
