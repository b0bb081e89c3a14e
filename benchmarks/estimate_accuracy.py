"""Does a run take what was said before? Time by the timing of a budget, time and disk by the forecast of a run, against the measured.

    python benchmarks/estimate_accuracy.py            two presets, 120 frames of 240x320
    python benchmarks/estimate_accuracy.py --quick    the same on 48 frames: under five minutes
    python benchmarks/estimate_accuracy.py --cpu      in CPU time of the process instead of wall time, for a machine that others use too

The model is a small Mask2Former on the tiny network, with random weights; the presets are `fast` and `released`, the latter at a fifth of
its size (short sides of 160, 192 and 224 pixels, windows of 224), which keeps its windows.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from semivss.data.toy import toy_labels
from semivss.data.toy_files import write_toy
from semivss.infer import job
from semivss.infer.budget import seconds_a_frame
from semivss.infer.estimate import Forecast, forecast
from semivss.infer.inputs import open_inputs
from semivss.infer.predict import predict, predict_job
from semivss.models.zoo import build_segmenter
from semivss.presets import preset_views
from semivss.settings import Mask2FormerHead, Model, Predict, Views

HEAD = Mask2FormerHead(channels=128, queries=50, feedforward=512, encoder_feedforward=512)
VIDEOS = 4


def smaller(views: Views, factor: int) -> Views:
    """A published preset for frames and models of a fraction of the size."""
    assert views.crop is not None
    assert views.stride is not None
    assert views.short_side is not None
    sizes = {"crop": (views.crop[0] // factor,) * 2, "stride": (views.stride[0] // factor,) * 2}
    return views.model_copy(update={**sizes, "short_side": views.short_side // factor})


@contextmanager
def forecasts() -> Iterator[list[Forecast]]:
    """What is forecast inside the block, without a line about it."""
    seen: list[Forecast] = []
    job.forecast = partial(forecast, tell=seen.append)
    try:
        yield seen
    finally:
        job.forecast = forecast


def main() -> None:
    """Predict a run, run it, and print a row for each number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    frames = 12 if options.quick else 30
    if options.cpu:
        time.perf_counter = time.process_time  # what all clocks of a run read
    torch.manual_seed(0)
    model = build_segmenter(Model(backbone="tiny", head="mask2former", mask2former=HEAD), toy_labels()).eval()
    with tempfile.TemporaryDirectory() as folder:
        write_toy(Path(folder) / "set", clips=VIDEOS, frames=frames, size=(240, 320), seed=0, flow=False)
        videos = open_inputs(Path(folder) / "set", split="train")
        for name, views in (("fast", preset_views("fast")), ("released, a fifth of the size", smaller(preset_views("released"), 5))):
            settings, out = Predict(views=views), Path(folder) / name
            timed = seconds_a_frame(predict_job([model], out, settings), videos, warm=True)
            with forecasts() as seen:
                done = predict([model], videos, out, settings)
            stored = sum(file.stat().st_size for file in out.rglob("*") if file.suffix in (".png", ".mp4") and file.is_file())
            words = f"{name}, {done.frames} frames, {'CPU' if options.cpu else 'wall'} time"
            show("time of a run by the timing of a budget", timed * done.frames, done.seconds, "s", words)
            for one in seen:
                assert one.run is not None
                show("time of a run by its forecast", one.run, done.seconds, "s", words)
                show("disk by the forecast", one.stored * done.frames / 1e6, stored / 1e6, "MB", words)


def show(what: str, predicted: float, measured: float, unit: str, words: str) -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    row = {"what": what, "value": round(predicted, 2), "unit": unit, "ratio": round(predicted / measured, 3), "against": "measured"}
    print(json.dumps(row | {"measured": round(measured, 2), "case": words, "machine": machine}), flush=True)


if __name__ == "__main__":
    main()
