"""How fast is an exported file beside the PyTorch model that it was made from, and how near is it? One frame, one thread, rounds in turn.

    OMP_NUM_THREADS=1 python benchmarks/onnx_speed.py          five models up to 480x853
    OMP_NUM_THREADS=1 python benchmarks/onnx_speed.py --quick  two small ones
    OMP_NUM_THREADS=1 python benchmarks/onnx_speed.py --model runs/camvid/student/model --size 360 480

Both sides go from a uint8 frame to the class distribution of every pixel. Without `--model` values are random: neither time depends on
them, but the scores of a trained model differ more. One JSON row a model: CPU seconds of onnxruntime and, as `ratio`, the median over
rounds of PyTorch's time over its own (above 1: the file is faster);
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
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.posterior import class_distribution
from semivss.settings import Mask2FormerHead, Model

SMALL = Mask2FormerHead(channels=64, queries=20, encoder_layers=2, decoder_layers=3, heads=4, encoder_feedforward=256, feedforward=256)


@dataclass(frozen=True)
class Case:
    """A model and the size of its frames."""

    backbone: str
    head: str
    classes: int
    size: tuple[int, int]
    mask2former: Mask2FormerHead = SMALL

    def build(self) -> Segmenter:
        """With random values, the same each time."""
        torch.manual_seed(0)
        labels = LabelSet("benchmark", tuple(map(str, range(self.classes))), distinct_colors(self.classes), (False,) * self.classes)
        return build_segmenter(Model(backbone=self.backbone, head=self.head, mask2former=self.mask2former), labels)


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
    parser.add_argument("--model", type=Path, help="a model folder instead")
    parser.add_argument("--size", type=int, nargs=2, default=(360, 480), metavar=("H", "W"), help="with --model: size of its frames")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if missing := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
        emit(what="exported models", value=None, ratio=None, reason=f"{', '.join(missing)} not installed")
        return
    rounds = 5 if options.quick else 9
    if options.model:
        measure(Segmenter.from_pretrained(options.model), tuple(options.size), rounds)
        return
    for case in QUICK if options.quick else FULL:
        if options.only in (None, case.backbone):
            measure(case.build().eval(), case.size, rounds)


def measure(segmenter: Segmenter, size: tuple[int, int], rounds: int) -> None:
    """One row. The file is written and compared first; the first round of each side warms it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        parity = export_onnx(segmenter, path, size).parity
        start = time.process_time()
        exported = OnnxModel(path)
        load = time.process_time() - start
        weighs = path.stat().st_size
        frame = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
        times: dict[str, list[float]] = {"pytorch": [], "onnxruntime": []}
        with torch.inference_mode():
            for _ in range(rounds + 1):
                times["pytorch"].append(seconds(lambda: class_distribution(segmenter(frame), size, segmenter.rule)))
                times["onnxruntime"].append(seconds(lambda: exported(frame)))
    theirs, ours = (values[1:] for values in times.values())
    ratios = sorted(before / after for before, after in zip(theirs, ours, strict=True))
    model = segmenter.settings
    head = "per-pixel head" if model.head == "pixel" else f"Mask2Former of {model.mask2former.channels} channels"
    emit(
        what=f"exported model, {model.backbone}, {head}, {len(segmenter.label_set)} classes, frame {size[0]}x{size[1]}",
        value=float(f"{statistics.median(ours):.3g}"),
        ratio=round(statistics.median(ratios), 2),
        spread=[round(ratios[0], 2), round(ratios[-1], 2)],
        against_value=float(f"{statistics.median(theirs):.3g}"),
        rounds=rounds,
        load=round(load, 2),
        mebibytes=round(weighs / 2**20, 1),
        scores={name: found.scores and float(f"{found.scores:.2g}") for name, found in parity.items()},
        labels={name: round(found.labels, 6) for name, found in parity.items()},
        versions=exported.description.versions,
    )


def seconds(work: Callable[[], object]) -> float:
    """CPU time of the process in one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def emit(what: str, **row: Any) -> None:
    """One JSON row."""
    row = {"what": what, "unit": "CPU s a frame", "against": "PyTorch, the same frame"} | row
    print(json.dumps(row | {"machine": f"{machine()}, {torch.get_num_threads()} thread"}), flush=True)


if __name__ == "__main__":
    main()
