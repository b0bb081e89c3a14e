"""What the tests run in processes of their own: started by a fork server that has imported everything heavy already."""

import multiprocessing
import os
import resource
import sys
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from semivss.recipe import Recipe


def server() -> ForkServerContext:
    """Processes that start in a fraction of a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["semivss.train.loop", "torch.utils.tensorboard", "cv2"])
    return context


def start(target, *arguments) -> ForkServerProcess:
    process = server().Process(target=target, args=arguments)
    process.start()
    return process


def wait(process: ForkServerProcess, seconds: float = 120.0) -> int:
    """Exit code of a process that is expected to end by itself."""
    process.join(seconds)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


def run_train(recipe: Recipe, out: Path) -> None:
    """`train`, as a process without pytest around it."""
    _alone()
    from semivss.train.loop import train

    train(recipe, out)


def run_cli(words: list[str], errors: Path, largest_file: int | None = None) -> None:
    """The command line with its standard error in a file, and perhaps a limit on the size of files in place of a full disk."""
    _alone()
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = ["semivss", *words]
    from semivss.cli import main

    main()


def run_rank(rank: int, world: int, port: int, recipe: Recipe, out: Path) -> None:
    """One of several processes that train together, as torchrun would start it. Leaves its weights in `out`/rank<n>.pt."""
    _alone()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    import torch

    from semivss.train import loop

    runs = []

    class Remembered(loop.Run):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            runs.append(self)

    loop.Run = Remembered
    loop.train(recipe, out)
    run = runs[0]
    state = {
        "model": run.segmenter.state_dict(),
        "ema": run.ema.module.state_dict(),
        "miou": run.counters.best_miou,
        "skipped": run.counters.skipped,
    }
    torch.save(state, out / f"rank{rank}.pt")


def _alone() -> None:
    import torch

    torch.set_num_threads(1)
