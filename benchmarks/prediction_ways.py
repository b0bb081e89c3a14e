"""What do precision and the way score maps are made change in a trained model's mIoU? On CamVid's labelled frames.

    SEMIVSS_CAMVID=FOLDER OMP_NUM_THREADS=1 python benchmarks/prediction_ways.py MODEL [--split test] [--every 1]
    SEMIVSS_CAMVID=FOLDER OMP_NUM_THREADS=1 python benchmarks/prediction_ways.py --quick    an untrained model, few frames: no result

MODEL is a folder of a model with CamVid's classes. Rows: mIoU in percent of one view in float32 and in bfloat16, and by votes that are
mixed at stride 4 before they are enlarged (`posterior.class_distribution`, what training looks at); of 3 scales x flip, exact and direct.
Each with the share of labels that equal those of the first row of its views.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from machine import machine
from semivss.data.source import open_source
from semivss.infer.answers import read_answers
from semivss.infer.score_map import WholeScores
from semivss.infer.stream import stream_scores
from semivss.infer.views import View, views_from
from semivss.metrics.confusion import Confusion
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.posterior import class_distribution
from semivss.settings import Model, Source, Views

SCALES = (0.75, 1.0, 1.25)
Labels = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--split", default="test")
    parser.add_argument("--every", type=int, default=1, help="only every n-th labelled frame")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if "SEMIVSS_CAMVID" not in os.environ:
        emit("one view, float32", None, reason="SEMIVSS_CAMVID is not set")
        return
    dataset = open_source(Source(kind="vspw", path="$SEMIVSS_CAMVID", split=options.split), "strict")
    if options.model:
        model = Segmenter.from_pretrained(options.model)
    else:
        model = build_segmenter(Model(backbone="tiny", head="mask2former"), dataset.label_set).eval()
    assert model.label_set.names == dataset.label_set.names, "the model has other classes"
    every = 100 if options.quick else options.every
    ways: dict[str, dict[str, Labels]] = {
        "one view": {
            "float32": partial(labels, model, (View(),), "32"),
            "bfloat16": partial(labels, model, (View(),), "bf16"),
            "votes mixed at stride 4": partial(labels_at_stride_4, model),
        },
        "3 scales x flip": {
            sampling: partial(labels, model, views_from(Views(scales=SCALES, flip=True, sampling=sampling)), "32")
            for sampling in ("exact", "direct")
        },
    }
    for views, sides in ways.items():
        counts = {name: Confusion(len(model.label_set)) for name in sides}
        equal: dict[str, list[float]] = {name: [] for name in sides}
        for frame, truth in pairs(dataset, every):
            found = {name: side(frame) for name, side in sides.items()}
            for name in sides:
                counts[name].update(truth, found[name])
                equal[name].append(float((found[name] == next(iter(found.values()))).mean()))
        for name in sides:
            miou = counts[name].scores().miou
            share, lowest = round(float(np.mean(equal[name])), 5), round(min(equal[name]), 5)
            emit(f"{views}, {name}", miou and round(100 * miou, 2), frames=len(equal[name]), equal_labels=share, lowest=lowest)


def pairs(dataset, every: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames with their masks."""
    labelled = [(clip, index) for clip in dataset.clips for index in range(len(clip.stems)) if clip.is_labelled(index)]
    return ((clip.frame(index), clip.labels(index)) for clip, index in labelled[::every])


def labels(model: Segmenter, views: tuple[View, ...], precision: str, frame: np.ndarray) -> np.ndarray:
    (scores,) = stream_scores([model], None, [frame], views, precision=precision)
    return read_answers(scores).labels


@torch.inference_mode()
def labels_at_stride_4(model: Segmenter, frame: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    return read_answers(WholeScores(class_distribution(model(pixels), frame.shape[:2], model.rule)[0])).labels


def emit(what: str, value: float | None, **row: object) -> None:
    """One JSON row."""
    print(json.dumps({"what": what, "value": value, "unit": "percent mIoU", "ratio": None} | row | {"machine": machine()}), flush=True)


if __name__ == "__main__":
    main()
