"""What the tests of several workers run in processes of their own."""

import multiprocessing
import os
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from semivss.data.labels import LabelSet
from semivss.infer.inputs import open_inputs
from semivss.infer.predict import predict
from semivss.infer.pseudo import pseudo_label
from semivss.settings import Predict, PseudoLabels, Views
from semivss.tensors import PixelLogits

CLASSES = LabelSet("three", ("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), (False,) * 3)
VIDEOS, FRAMES = 6, 4
PSEUDO = PseudoLabels(views=Views(flip=True), batch=2, align=1.0)
SHARES = (0.6, 0.3, 0.1)  # of the classes, to which the mean prediction is moved


class PixelModel(nn.Module):
    """Each pixel alone, and not in no time."""

    rule = "spread"
    label_set = CLASSES

    def __init__(self, gain: float = 0.03, pause: float = 0.01) -> None:
        super().__init__()
        self.mix = nn.Parameter(gain * torch.tensor([[1.0, 0.2, -0.3], [0.1, 1.0, 0.3], [-0.2, 0.4, 1.0]]))
        self.pause = pause

    def forward(self, frames: Tensor) -> PixelLogits:
        time.sleep(self.pause)
        return PixelLogits(torch.einsum("oc,bchw->bohw", self.mix, frames.float()), frames.float())


def write_clips(root: Path, videos: int = VIDEOS, frames: int = FRAMES, size: tuple[int, int] = (24, 40)) -> Path:
    """Folders of random pictures."""
    for video in range(videos):
        (root / f"v{video}").mkdir(parents=True)
        for index in range(frames):
            pixels = np.random.default_rng(100 * video + index).integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"v{video}" / f"{index:04d}.png")
    return root


def start(target, *arguments) -> ForkServerProcess:
    """A process that starts in a fraction of a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["semivss.infer.pseudo", "semivss.metrics.score", "torch.distributed"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def end(*processes: ForkServerProcess) -> list[int]:
    """Exit codes of processes that are expected to end by themselves."""
    for process in processes:
        process.join(120)
        assert process.exitcode is not None, "the process hangs"
    return [process.exitcode for process in processes]


def alone(log: Path | None) -> None:
    """One thread, no bars, standard error in a file."""
    torch.set_num_threads(1)
    if log is not None:
        with log.open("w") as file:
            os.dup2(file.fileno(), 2)


def label(inputs: Path, out: Path, log: Path | None = None, gain: float = 0.03, shares: tuple[float, ...] = SHARES) -> None:
    """A worker that makes aligned pseudo labels."""
    alone(log)
    pseudo_label([PixelModel(gain)], open_inputs(inputs), out, PSEUDO, wanted=np.array(shares))


def segment(inputs: Path, out: Path, log: Path | None = None) -> None:
    """A worker that predicts, overlays included."""
    alone(log)
    predict([PixelModel()], open_inputs(inputs), out, Predict(batch=2))


def score(rank: int, world: int, port: int, predictions: Path, truth: Path, numbers: Path, log: Path) -> None:
    """One of the processes of `torchrun -m semivss score`."""
    alone(log)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    import sys

    sys.argv = ["semivss", "score", str(predictions), str(truth), "--split", "val", "--json", str(numbers)]
    from semivss.cli import main

    main()
