"""What does it cost to turn the outputs of all windows of all views into labels and entropies? Tiles of rows against whole score maps.

    OMP_NUM_THREADS=1 python benchmarks/score_maps.py          5 rounds of the 8 scales x flip protocol, about half an hour
    OMP_NUM_THREADS=1 python benchmarks/score_maps.py --quick  1 round of 2 scales x flip
    OMP_NUM_THREADS=1 python benchmarks/score_maps.py --model MODEL --frames FOLDER [--count 20]

One frame of 480x853 in windows of 896 pixels a side and stride 512, 124 classes; the outputs of the network are made up (100 queries whose
masks are smooth and the same in every view), so that nothing but the score maps is timed. Sides, each in a process of its own, in turn:

whole   mmsegmentation's formulas, written anew: a window's masks enlarged, sigmoid, mixed; padded to the view and added; divided by the
        count of windows; mirrored back, resized to the frame; all views kept, and their mean taken; arg max and entropy
exact   `ScoreMap` and `read_answers`
direct  the same with `sampling = "direct"`

Rows: CPU seconds and, as `ratio`, the median over rounds of whole's time over a side's own; the process's peak memory above what it held
before, whole's over a side's own; the share of equal labels.

With `--model` instead (a Mask2Former model of ours) and a folder of frames: 4 scales x flip of each frame by its real outputs, in windows
of three quarters of the frame; the share of labels equal to whole's, frame by frame.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from machine import machine
from semivss.data.codes import entropy_of_code
from semivss.data.images import read_frame
from semivss.infer.answers import read_answers
from semivss.infer.score_map import FusedScores, ScoreMap
from semivss.infer.views import Size, View, Window
from semivss.models.segmenter import Segmenter
from semivss.tensors import MaskLogits

FRAME, CLASSES, QUERIES, CROP, STRIDE = (480, 853), 124, 100, (896, 896), (512, 512)
SHORT_SIDES = (512, 640, 768, 896, 1024, 1152, 1280, 1408)
QUICK_SIDES = (512, 1024)
SIDES = ("whole", "exact", "direct")
FLOORS = {"exact": {"time": 1.4, "memory": 7, "labels": 0.9999}, "direct": {"time": 4, "memory": 7, "labels": None}}
Answer = tuple[np.ndarray, np.ndarray]  # labels, entropies in nats
Outputs = Iterable[tuple[View, Iterable[tuple[Window, MaskLogits]]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--frames", type=Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--side", choices=SIDES, help="one side alone, in this process")
    parser.add_argument("--out", type=Path, help="with --side: where its labels and entropies go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.side:
        alone(options.side, QUICK_SIDES if options.quick else SHORT_SIDES, options.out)
    elif options.model:
        on_frames(Segmenter.from_pretrained(options.model), options.frames, options.count)
    else:
        compare(options.quick, 1 if options.quick else options.rounds)


def compare(quick: bool, rounds: int) -> None:
    """Every side `rounds` times, in turn, and the rows."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for side in SIDES:
                command = [sys.executable, __file__, "--side", side, "--out", f"{folder}/{side}.npz", *(["--quick"] if quick else [])]
                found[side].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        answers = {side: np.load(f"{folder}/{side}.npz") for side in SIDES}
        views = 2 * len(QUICK_SIDES if quick else SHORT_SIDES)
        for side in SIDES[1:]:
            pairs = list(zip(found["whole"], found[side], strict=True))
            times, memory = ([whole[key] / own[key] for whole, own in pairs] for key in ("seconds", "megabytes"))
            emit(
                what=f"score maps of {views} views, frame {FRAME[0]}x{FRAME[1]}, {CLASSES} classes, {side}",
                value=short(statistics.median(own["seconds"] for own in found[side])),
                unit="CPU s a frame",
                ratio=round(statistics.median(times), 2),
                spread=[round(min(times), 2), round(max(times), 2)],
                against="whole score maps (mmsegmentation's formulas)",
                against_value=short(statistics.median(own["seconds"] for own in found["whole"])),
                rounds=rounds,
                megabytes=[round(statistics.median(one["megabytes"] for one in found[name])) for name in (side, "whole")],
                memory_ratio=round(statistics.median(memory), 1),
                equal_labels=round(float((answers[side]["labels"] == answers["whole"]["labels"]).mean()), 6),
                entropy_difference=short(float(np.abs(answers[side]["entropy"] - answers["whole"]["entropy"]).mean())),
                floor=FLOORS[side],
            )


@torch.inference_mode()
def alone(side: str, short_sides: tuple[int, ...], out: Path) -> None:
    """Print time and memory of one frame."""
    views = [View(short / 896, flip, CROP, STRIDE, None, 896, sampling_of(side)) for short in short_sides for flip in (False, True)]
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(1, QUERIES, CLASSES + 1, generator=generator) * 2
    coarse = torch.randn(1, QUERIES, 12, 20, generator=generator) * 4

    def outputs(views: list[View]) -> Outputs:
        return ((view, ((window, made_up(view, window, coarse, classes)) for window in view.windows(FRAME))) for view in views)

    answer(side, outputs(views[:1]), FRAME, CLASSES)  # what libraries keep to themselves is there before anything is counted
    start_memory, start = resident(), time.process_time()
    labels, entropy = answer(side, outputs(views), FRAME, CLASSES)
    seconds = time.process_time() - start
    making = time.process_time()
    for view in views:
        for window in view.windows(FRAME):
            made_up(view, window, coarse, classes)
    np.savez(out, labels=labels, entropy=entropy)
    print(json.dumps({"seconds": seconds - (time.process_time() - making), "megabytes": (peak() - start_memory) / 1e6}))


def sampling_of(side: str) -> str:
    return "direct" if side == "direct" else "exact"


def made_up(view: View, window: Window, coarse: Tensor, classes: Tensor) -> MaskLogits:
    """What a network would say of a window: smooth masks, those of the window's part of the view."""
    height, width = view.size(FRAME)
    cells = F.interpolate(coarse, (-(-height // 4), -(-width // 4)), mode="bilinear", align_corners=False)
    cells = cells.flip(-1) if view.flip else cells
    top, left = window.top // 4, window.left // 4
    masks = cells[..., top : top + -(-window.height // 4), left : left + -(-window.width // 4)].contiguous()
    return MaskLogits(classes, masks, masks[:, :1])


def answer(side: str, outputs: Outputs, frame: Size, classes: int) -> Answer:
    """Labels and entropies by one side."""
    return whole(outputs, frame, classes) if side == "whole" else tiled(outputs, frame, classes)


def tiled(outputs: Outputs, frame: Size, classes: int) -> Answer:
    """Ours."""
    votes = ScoreMap(frame, classes, torch.device("cpu"))
    for view, windows in outputs:
        for window, output in windows:
            votes.add(output, view, window, 1.0)  # the mean's factor is none of the labels' business, and `l1` takes it out
    found = read_answers(FusedScores(((1.0, "l1", votes),)), entropy=True)
    assert found.codes is not None
    return found.labels, entropy_of_code(found.codes, classes).astype(np.float32)


def whole(outputs: Outputs, frame: Size, classes: int) -> Answer:
    """mmsegmentation's formulas."""
    views: list[Tensor] = []
    for view, windows in outputs:
        high, wide = view.size(frame)
        total, count = torch.zeros(1, classes, high, wide), torch.zeros(1, 1, high, wide)
        for window, output in windows:
            masks = F.interpolate(output.mask_logits, (window.height, window.width), mode="bilinear", align_corners=False)
            scores = torch.einsum("bqc,bqhw->bchw", output.class_logits.softmax(-1)[..., :-1], masks.sigmoid())
            right, bottom = wide - window.left - window.width, high - window.top - window.height
            total += F.pad(scores, (window.left, right, window.top, bottom))
            count[:, :, window.top : window.top + window.height, window.left : window.left + window.width] += 1
        total = total / count
        total = total.flip(3) if view.flip else total
        views.append(F.interpolate(total, frame, mode="bilinear", align_corners=False)[0])
    scores = sum(views[1:], start=views[0]) / len(views)
    p = scores / scores.sum(0)
    return p.argmax(0).numpy().astype(np.uint8), torch.special.entr(p).sum(0).numpy()


@torch.inference_mode()
def on_frames(model: Segmenter, folder: Path, count: int) -> None:
    """Equal labels on real frames, by a trained model's outputs."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    paths = paths[:: max(1, len(paths) // count)][:count]
    classes = len(model.label_set)
    equal: dict[str, list[float]] = {"exact": [], "direct": []}
    changes: list[float] = []
    for path in paths:
        frame = read_frame(path)
        size = (frame.shape[0], frame.shape[1])
        crop = (round(size[0] * 3 / 16) * 4, round(size[1] * 3 / 16) * 4)
        pixels = torch.from_numpy(frame).permute(2, 0, 1)
        found: dict[str, np.ndarray] = {}
        for side in SIDES:
            views = [View(scale, flip, crop, sampling=sampling_of(side)) for scale in (0.75, 1.0, 1.25, 1.5) for flip in (False, True)]
            found[side], _ = answer(side, [(view, list(outputs_of(model, view, pixels))) for view in views], size, classes)
        single, _ = answer("exact", [(View(), list(outputs_of(model, View(), pixels)))], size, classes)
        changes.append(float((single != found["whole"]).mean()))
        for side, shares in equal.items():
            shares.append(float((found[side] == found["whole"]).mean()))
    for side, shares in equal.items():
        emit(
            what=f"equal labels on {len(paths)} frames, 4 scales x flip in windows, a trained model, {side}",
            value=round(statistics.mean(shares), 6),
            unit="share of pixels",
            ratio=None,
            reason="no time is compared",
            lowest=round(min(shares), 6),
            against="whole score maps (mmsegmentation's formulas)",
            floor={"exact": 0.9999, "direct": 0.997}[side],
            single_view_differs=round(statistics.mean(changes), 4),
        )


def outputs_of(model: Segmenter, view: View, pixels: Tensor) -> Iterator[tuple[Window, MaskLogits]]:
    """Of each window."""
    picture = view.apply(pixels)
    for window in view.windows((pixels.shape[1], pixels.shape[2])):
        output = model(picture[None, :, window.top : window.top + window.height, window.left : window.left + window.width])
        assert isinstance(output, MaskLogits), "give a model with a Mask2Former head"
        yield window, output


def resident() -> int:
    """Bytes that the process holds now; the highest mark is set back to that."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_line("VmRSS")


def peak() -> int:
    """The most bytes that it held since."""
    return memory_line("VmHWM")


def memory_line(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def short(value: float) -> float:
    return float(f"{value:.4g}")


def emit(**row: Any) -> None:
    """One JSON row."""
    print(json.dumps(row | {"machine": f"{machine()}, {torch.get_num_threads()} thread"}), flush=True)


if __name__ == "__main__":
    main()
