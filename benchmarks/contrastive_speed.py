"""What does the contrastive loss cost beside the same loss written with class loops and queues that grow by concatenation?

    OMP_NUM_THREADS=1 python benchmarks/contrastive_speed.py            C 21 at 129x129 and C 124 at 112x112; --quick: C 21 at 65x65

4 labelled and 4 unlabelled images, every class present, D 256, 256 anchors of 50 negatives, full banks (4096 rows a class here, 30,000
there), tensors in channels_last, which suits both. Sets, bank, loss and backward count. Seconds are process CPU time of one thread; both
sides take turns in one process. Memory is the peak resident size above inputs and bank, the gradient of the representation included, of a
process that does two steps (VmHWM, reset before them). Floors: an eighth of the time, a fifth of the memory.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from machine import machine
from peers.contrastive_plain import PlainContrast
from semivss.losses.bank import MemoryBank
from semivss.losses.contrast_sets import RankWindow, Regions, contrast_sets
from semivss.losses.contrastive import PoolSampler, contrastive_loss
from semivss.tensors import IGNORE

CHANNELS, QUEUE, BANK = 256, 30_000, 4096
LABELLED = UNLABELLED = 4
FLOORS = {"time": 8, "memory": 5}


@dataclass(frozen=True)
class Inputs:
    """One batch."""

    z: Tensor
    teacher: Tensor
    p: Tensor
    cells: Regions


def inputs_of(classes: int, side: int) -> Inputs:
    """Blocks of all classes, a teacher that mostly agrees with them, and a fifth of the unlabelled pixels unsure."""
    generator = torch.Generator().manual_seed(0)
    images, size = LABELLED + UNLABELLED, (side, side)
    blocks = torch.randint(0, classes, (images, -(-side // 8), -(-side // 8)), generator=generator)
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :side, :side].contiguous()
    logits = torch.randn(images, *size, classes, generator=generator)
    logits.scatter_add_(3, labels[..., None], torch.full((images, *size, 1), 5.0))
    unsure = torch.rand(images, *size, generator=generator) < 0.2
    labels = labels.to(torch.uint8).masked_fill(torch.rand(images, *size, generator=generator) < 0.05, IGNORE)
    valid = labels != IGNORE
    people = (torch.arange(images) < LABELLED)[:, None, None]
    cells = Regions(labels, valid & (people | ~unsure), valid & (people | unsure), LABELLED)
    means = torch.randn(256, CHANNELS, generator=generator)[blocks].repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :side, :side]
    z, teacher = ((means + torch.randn(means.shape, generator=generator)).permute(0, 3, 1, 2) for _ in range(2))
    return Inputs(z.requires_grad_(), teacher, logits.softmax(3).permute(0, 3, 1, 2), cells)


def our_step(classes: int, inputs: Inputs) -> Callable[[], Tensor]:
    bank = MemoryBank(classes, CHANNELS, BANK)
    bank.rows.copy_(torch.randn(BANK, CHANNELS) / CHANNELS**0.5)
    bank.lengths.fill_(BANK)
    generator = torch.Generator().manual_seed(0)
    window = RankWindow.scaled(classes)

    def step() -> Tensor:
        sets = contrast_sets(inputs.p, inputs.cells, window)
        return contrastive_loss(inputs.z, inputs.teacher, sets, bank, PoolSampler(generator), generator=generator).loss

    return step


def plain_step(classes: int, inputs: Inputs) -> Callable[[], Tensor]:
    rows = torch.randn(QUEUE, CHANNELS)
    plain = PlainContrast([rows.clone() for _ in range(classes)], QUEUE, RankWindow.scaled(classes), 0.3, 256, 50)
    return lambda: plain(inputs.z, inputs.teacher, inputs.p, inputs.cells)


SIDES = {"semivss": our_step, "plain": plain_step}


def timed(step: Callable[[], Tensor], inputs: Inputs) -> tuple[float, float]:
    """Seconds of a step, and its loss."""
    inputs.z.grad = None
    start = time.process_time()
    loss = step()
    loss.backward()
    return time.process_time() - start, loss.item()


def status(field: str) -> int:
    """A field of the kernel's record of this process, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def print_peak(side: str, classes: int, size: int) -> None:
    """Bytes above inputs and bank in two steps, of this process."""
    inputs = inputs_of(classes, size)
    step = SIDES[side](classes, inputs)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    for _ in range(2):
        timed(step, inputs)
    print(status("VmHWM") - before)


def peak(side: str, classes: int, size: int) -> float | None:
    """Megabytes, measured by a process of its own; none where the kernel keeps no such record."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    words = [sys.executable, __file__, "--peak", side, str(classes), str(size)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout) / 2**20


def measure(classes: int, size: int, rounds: int) -> None:
    inputs = inputs_of(classes, size)
    steps = {side: make(classes, inputs) for side, make in SIDES.items()}
    times: dict[str, list[float]] = {side: [] for side in steps}
    losses: dict[str, float] = {}
    for turn in range(rounds + 1):
        for side, step in steps.items():
            taken, losses[side] = timed(step, inputs)
            if turn:
                times[side].append(taken)
    del steps, inputs  # the processes that measure memory need room
    what = f"contrastive loss, forward and backward, C {classes}, {LABELLED}+{UNLABELLED} images of {size}x{size}"
    emit(
        what,
        "time",
        "s CPU (median)",
        *(statistics.median(times[side]) for side in SIDES),
        rounds=rounds,
        losses={side: round(loss, 3) for side, loss in losses.items()},
    )
    emit(what, "memory", "MB above inputs and bank", *(peak(side, classes, size) for side in SIDES), rounds=1)


def emit(what: str, kind: str, unit: str, ours: float | None, plain: float | None, **more: Any) -> None:
    """One JSON row; `ratio` is the peer's over ours."""
    ratio = plain / ours if ours and plain else None
    row = {
        "what": f"{kind} of the {what}",
        "value": ours and round(ours, 3),
        "unit": unit,
        "ratio": ratio and round(ratio, 2),
        "against": "class loops, queues by concatenation",
        "against_value": plain and round(plain, 3),
        "floor": FLOORS[kind],
        **more,
        "machine": f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread",
    }
    if ratio is None:
        row["reason"] = "this system has no /proc/self/clear_refs"
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="C 21 at 65x65, 2 rounds")
    parser.add_argument("--peak", nargs=3, metavar=("SIDE", "C", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.peak:
        print_peak(options.peak[0], int(options.peak[1]), int(options.peak[2]))
        return
    for classes, size in [(21, 65)] if options.quick else [(21, 129), (124, 112)]:
        measure(classes, size, 2 if options.quick else 3)


if __name__ == "__main__":
    main()
