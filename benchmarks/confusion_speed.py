"""What does counting one predicted frame cost? Our confusion matrix against mmsegmentation's IoUMetric and torchmetrics' confusion matrix.

    python benchmarks/confusion_speed.py --peers FOLDER            21 rounds of 16 frames; FOLDER: see peers/install.py
    python benchmarks/confusion_speed.py --peers FOLDER --quick    3 rounds of 4 frames

Frames of 480x853 with 124 classes and some ignored pixels, in three kinds. "regions": label maps as in data sets, predictions whose
borders wobble. "speckled": the same with a tenth of the predicted pixels drawn at random, one by one, worse than the output of any model.
"noise": every pixel drawn at random, the worst case of counting by stretches, which is no label map: its rows have no floor.

Each side starts from what it is given in use: ours from 8-bit arrays, the others from the int64 tensors that an arg max returns. Each
updates its running counts with the same frames: `Confusion.update`, which checks sizes and ids; `IoUMetric.process`, which checks nothing
and keeps intersections and areas alone; `MulticlassConfusionMatrix.update`, which checks as ours does, and without its checks too
(`validate_args=False`). The counts must agree. Sides take turns in one process on one thread.
"""

from functools import partial
from typing import Any

import numpy as np
import torch

from peers.region_maps import region_maps
from peers.side_by_side import alternated, emit, installed, named, options_of
from semivss.data.labels import IGNORE
from semivss.metrics.confusion import Confusion

SIZE, CLASSES = (480, 853), 124
FLOORS = {"mmsegmentation": 5, "torchmetrics": 15}


def main() -> None:
    options = options_of(__doc__, rounds=21)
    torch.set_num_threads(1)
    there = {package: installed(module) for package, module in (("mmsegmentation", "mmseg"), ("torchmetrics", "torchmetrics"))}
    for kind in ("regions", "speckled", "noise"):
        measure(kind, 4 if options.quick else 16, 3 if options.quick else options.rounds, there)


def measure(kind: str, count: int, rounds: int, there: dict[str, bool]) -> None:
    """One row a peer."""
    frames = frames_of(kind, count)
    tensors = [tuple(torch.from_numpy(labels).long() for labels in pair) for pair in frames]
    confusion = Confusion(CLASSES)
    sides = {"semivss": [partial(confusion.update, *pair) for pair in frames]}
    if there["mmsegmentation"]:
        metric = iou_metric()
        samples = [{"gt_sem_seg": {"data": truth[None]}, "pred_sem_seg": {"data": guess[None]}} for truth, guess in tensors]
        sides["mmsegmentation"] = [partial(metric.process, {}, [sample]) for sample in samples]
    if there["torchmetrics"]:
        from torchmetrics.classification import MulticlassConfusionMatrix

        checked, unchecked = (MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORE, validate_args=check) for check in (True, False))
        sides["torchmetrics"] = [partial(checked.update, guess[None], truth[None]) for truth, guess in tensors]
        sides["unchecked"] = [partial(unchecked.update, guess[None], truth[None]) for truth, guess in tensors]
    times = alternated(sides, rounds)
    turns = rounds + 1
    hits = np.diagonal(confusion.matrix)
    if there["mmsegmentation"]:
        assert len(metric.results) == turns * count
        np.testing.assert_array_equal(hits, sum(result[0] for result in metric.results).long().numpy())
    if there["torchmetrics"]:
        for matrix in (checked, unchecked):
            np.testing.assert_array_equal(confusion.matrix, matrix.compute().numpy())
    peers = (
        ("mmsegmentation", "mmsegmentation", "IoUMetric.process"),
        ("torchmetrics", "torchmetrics", "MulticlassConfusionMatrix.update"),
        ("unchecked", "torchmetrics", "MulticlassConfusionMatrix.update, validate_args=False"),
    )
    what = f"confusion update, {kind}, {SIZE[0]}x{SIZE[1]}, {CLASSES} classes"
    for side, package, call in peers:
        against = f"{named(package) if there[package] else package} {call}"
        emit(what, times, "semivss", side, against, unit="a frame", per=count, floor=FLOORS.get(side) if kind != "noise" else None)


def frames_of(kind: str, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ground truth and prediction."""
    random = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        truth, guess = region_maps(random, SIZE, CLASSES, 2) if kind != "noise" else random.integers(0, CLASSES, (2, *SIZE), dtype=np.uint8)
        if kind == "speckled":
            drawn = random.random(SIZE) < 0.1
            guess[drawn] = random.integers(0, CLASSES, np.count_nonzero(drawn))
        truth[:3] = IGNORE
        pairs.append((truth, guess))
    return pairs


def iou_metric() -> Any:
    """mmsegmentation's, for our classes."""
    from mmseg.evaluation import IoUMetric

    metric = IoUMetric(ignore_index=IGNORE, prefix="frames")
    metric.dataset_meta = {"classes": tuple(f"class {number}" for number in range(CLASSES))}
    return metric


if __name__ == "__main__":
    main()
