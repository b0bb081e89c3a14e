"""Is what `semivss show --cost` says true? Peak memory and operations of real training steps and predictions on a CPU against the count.

    python benchmarks/show_cost.py            four presets, with and without recomputing, float32 and bfloat16
    python benchmarks/show_cost.py --quick    two presets: under five minutes

Each case runs in a process of its own, on random weights. Memory is resident memory above that of the same process before the model was
made, at its peak; freed blocks go back to the system at once (MALLOC_ settings), so that the peak is of live tensors and of what
kernels need. Operations are those that torch's counter sees in the real step.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from semivss.cost.model_cost import TARGETS, build_meta, prediction_cost, step_cost
from semivss.data.labels import LabelSet, vspw124
from semivss.infer.answers import read_answers
from semivss.infer.score_map import FusedScores, ScoreMap
from semivss.infer.views import View
from semivss.losses.supervised import supervised_loss
from semivss.models.zoo import build_segmenter
from semivss.settings import Mask2FormerHead, Model

HEAD = Mask2FormerHead(points=4096)
QUICK = [
    {"backbone": "vit_adapter_b", "crop": 256, "crops": 2, "recompute": True},
    {"backbone": "swin_t", "crop": 256, "crops": 2},
]
CASES = [
    *QUICK,
    {"backbone": "vit_adapter_b", "crop": 384, "crops": 1},
    {"backbone": "vit_adapter_b", "crop": 256, "crops": 2, "bf16": True},
    {"backbone": "one_peace_b", "crop": 384, "crops": 1, "recompute": True},
    {"backbone": "beit_b", "crop": 384, "crops": 1},
    {"backbone": "swin_t", "crop": 512, "crops": 1, "recompute": True},
    {"backbone": "timm/resnet18", "crop": 256, "crops": 4},
]
BY_ONEDNN: Mapping[Any, Callable[..., int]] = {  # what torch's counter does not know (models/linear_layers.py)
    torch.ops.mkldnn._linear_pointwise: lambda x, weight, *more, **kinds: 2 * math.prod(x) * weight[0]
}
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


def main() -> None:
    """Measure each case in a child and print a row for each number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(json.loads(options.child))
        return
    for case in QUICK if options.quick else CASES:
        subprocess.run([sys.executable, __file__, "--child", json.dumps(case)], check=True, env=os.environ | AT_ONCE)


def measure(case: dict) -> None:
    """Rows of one case."""
    settings = Model(backbone=case["backbone"], head="mask2former", mask2former=HEAD, recompute=case.get("recompute", False))
    crop, crops, bf16, labels = (case["crop"],) * 2, case["crops"], case.get("bf16", False), vspw124()
    train(settings.model_copy(update={"backbone": "tiny"}), (64, 64), 1, bf16, labels)  # what is loaded at the first use
    counted = step_cost(build_meta(settings, labels, "cpu"), crop, crops, bf16=bf16)
    guessed = prediction_cost(build_meta(settings, labels, "cpu"), crop, 1, crop)
    how = f"{', recomputing' * settings.recompute}, {'bf16' if bf16 else 'float32'}"
    words = f"{case['backbone']}, Mask2Former, {crops} x {crop[0]}x{crop[1]}{how}"
    memory = train(settings, crop, crops, bf16, labels)
    show("peak memory of a training step", memory / 2**20, counted.peak / 2**20, "MiB", words)
    with FlopCounterMode(display=False, custom_mapping=BY_ONEDNN) as counter:  # a pass of its own: it keeps what recomputing would free
        train(settings, crop, crops, bf16, labels)
    show("operations of a training step", counter.get_total_flops() / 1e9, counted.total_flops / 1e9, "GFLOP", words)
    memory = predict(settings, crop, labels)
    show("peak memory of a prediction", memory / 2**20, guessed.peak / 2**20, "MiB", words)
    with FlopCounterMode(display=False, custom_mapping=BY_ONEDNN) as counter:
        predict(settings, crop, labels)
    show("operations of a prediction", counter.get_total_flops() / 1e9, guessed.flops / 1e9, "GFLOP", words)


def train(settings: Model, crop: tuple[int, int], crops: int, bf16: bool, labels: LabelSet) -> int:
    """Peak bytes above the start of a real forward and backward pass."""
    torch.manual_seed(0)
    start = rest()
    model = build_segmenter(settings, labels).train()
    frames = torch.randint(0, 256, (crops, 3, *crop), dtype=torch.uint8)
    stripes = (torch.arange(crop[1]) * TARGETS // crop[1]).to(torch.uint8).expand(crops, *crop).contiguous()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        terms = supervised_loss(model(frames), stripes, settings, torch.Generator().manual_seed(0))
    torch.stack([*terms.values()]).sum().backward()
    return peak() - start


@torch.inference_mode()
def predict(settings: Model, crop: tuple[int, int], labels: LabelSet) -> int:
    """The same of a prediction."""
    start = rest()
    with torch.inference_mode(False):  # parameters as a model folder gives them
        model = build_segmenter(settings, labels).eval()
    frames = torch.randint(0, 256, (1, 3, *crop), dtype=torch.uint8)
    votes = ScoreMap(crop, len(labels), torch.device("cpu"))
    (window,) = View().windows(crop)
    total = torch.zeros(*crop, len(labels))  # of the views before
    votes.add(model(frames), View(), window, 1.0)
    read_answers(FusedScores(((1.0, model.rule, votes),)))
    del total
    return peak() - start


def rest() -> int:
    """Resident bytes now, from where the peak is counted anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Largest resident bytes since `rest`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def show(what: str, measured: float, counted: float, unit: str, words: str) -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    row = {"what": what, "value": round(counted, 1), "unit": unit, "ratio": round(counted / measured, 3), "against": "measured"}
    print(json.dumps(row | {"measured": round(measured, 1), "case": words, "machine": machine}), flush=True)


if __name__ == "__main__":
    main()
