"""Is the memory that is predicted for a forward pass what it then takes? Resident memory at its peak on a CPU against the count.

    python benchmarks/forward_memory.py            three architectures, batches of 1, 2 and 4 windows, float32 and bfloat16
    python benchmarks/forward_memory.py --quick    two cases: about a minute

Each case runs in two processes of its own, on random weights: one whose allocator gives freed blocks back at once (MALLOC_ settings), so
that the peak is of live tensors and of what kernels need, and one whose allocator is left as it is, which users have. Measured is
resident memory at the peak of three passes above that of the same process before the model was made.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from semivss.cost.forward_cost import forward_cost, predicted_peak
from semivss.data.labels import vspw124
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.settings import Model

SMALL = [
    {"backbone": "swin_t", "head": "mask2former", "window": (256, 384), "batch": 2},
    {"backbone": "tiny", "head": "pixel", "window": (720, 960), "batch": 4},
]
CASES = [
    *SMALL,
    *({**SMALL[0], "batch": batch} for batch in (1, 4)),
    {**SMALL[1], "batch": 1},
    *({**SMALL[0], "window": (512, 864), "batch": batch} for batch in (1, 2)),
    *({**SMALL[0], "batch": batch, "precision": "bf16"} for batch in (1, 2, 4)),
    *({"backbone": "vit_adapter_b", "head": "mask2former", "window": (384, 384), "batch": batch} for batch in (1, 2, 4)),
]


AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


def main() -> None:
    """Measure each case in a child and print a row for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--at-once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(json.loads(options.child), at_once=options.at_once)
        return
    for case in SMALL if options.quick else CASES:
        for words in ([json.dumps(case)], [json.dumps(case), "--at-once"]):
            environment = os.environ | (AT_ONCE if "--at-once" in words else {})
            subprocess.run([sys.executable, __file__, "--child", *words], check=True, env=environment)


def measure(case: dict, *, at_once: bool) -> None:
    """The row of one case."""
    window, batch, precision = tuple(case["window"]), case["batch"], case.get("precision", "32")
    torch.manual_seed(0)
    run(build_segmenter(Model(backbone="tiny", head=case["head"]), vspw124()), (64, 64), 1, precision)  # what the first use loads
    before = resident_from_here()
    model = build_segmenter(Model(backbone=case["backbone"], head=case["head"]), vspw124())
    run(model, window, batch, precision)
    measured = resident_peak() - before
    cost = forward_cost(model, window, batch, precision)
    predicted = cost.weights + cost.activations if at_once else predicted_peak(model, window, batch, precision)
    words = f"{case['backbone']}, {case['head']}, {batch} x {window[0]}x{window[1]}, {'bf16' if precision == 'bf16' else 'float32'}"
    allocator = "blocks given back at once" if at_once else "the allocator as it is"
    row = {"what": f"peak memory of weights and a forward pass, {allocator}", "value": round(predicted / 2**20, 1), "unit": "MiB"}
    row |= {"ratio": round(predicted / measured, 3), "against": "measured", "measured": round(measured / 2**20, 1)}
    row |= {"weights": round(cost.weights / 2**20, 1), "live": round(cost.activations / 2**20, 1), "case": words}
    print(json.dumps(row | {"machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"}), flush=True)


@torch.inference_mode()
def run(model: Segmenter, window: tuple[int, int], batch: int, precision: str) -> None:
    """Three passes, as the allocator keeps more after the first."""
    model.eval()
    frames = torch.randint(0, 256, (batch, 3, *window), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for _ in range(3):
            model(frames)


def resident_from_here() -> int:
    """Resident bytes now, from where the peak is counted anew; what was freed before is given back, so that nothing is made in it."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident_peak()


def resident_peak() -> int:
    """Largest resident bytes since `resident_from_here`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
