"""What the tests run in processes of their own: started by a fork server that has imported everything heavy already."""

import multiprocessing
import os
import resource
import signal
import socket
import sys
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import torch

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


def run_rank(
    rank: int,
    world: int,
    port: int,
    recipe: Recipe,
    out: Path,
    failing_step: int | None = None,
    last_step: int | None = None,
    before: Path | None = None,
    unsure_rank: int | None = None,
) -> None:
    """One of several processes that train together, as torchrun would start it; leaves what it ends with in `out`/rank<n>.pt.

    In `failing_step` the loss of the last process is not finite; in `last_step` all processes die.
    Retraining starts from student and pseudo labels in the run folder `before`; for process `unsure_rank` no pixel is reliable.
    """
    _alone()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    from semivss.data.pseudo import open_pseudo
    from semivss.losses.matcher import NonFiniteCost
    from semivss.train import loop, method, semi
    from semivss.train.method import Given

    runs, counts, losses = [], [], []
    run, pooled, supervised_loss = loop.Run, loop.pooled, method.supervised_loss

    def remember_run(*arguments):
        runs.append(run(*arguments))
        return runs[0]

    def remember_counts(*arguments):
        counts.append(pooled(*arguments))
        return counts[-1]

    def loss(*arguments):
        losses.append(supervised_loss(*arguments))
        if len(losses) - 1 == last_step:
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == world - 1 and len(losses) - 1 == failing_step:
            raise NonFiniteCost("on one process only")
        return losses[-1]

    loop.Run, loop.pooled, method.supervised_loss, semi.supervised_loss = remember_run, remember_counts, loss, loss
    if rank == unsure_rank:
        semi.cut = lambda *arguments: 0.0
    loop.train(recipe, out, given=before and Given(before / "student" / "model", [open_pseudo(before / "pseudo")]))
    weights = {"model": runs[0].segmenter.state_dict(), "best": runs[0].best.state_dict()}
    kept = {"method": runs[0].method.state_dict()}
    torch.save(
        weights | kept | {"skipped": runs[0].counters.skipped, "counts": [one.counts.tolist() for one in counts]}, out / f"rank{rank}.pt"
    )


def train_ddp(
    recipe: Recipe,
    out: Path,
    failing_step: int | None = None,
    last_step: int | None = None,
    before: Path | None = None,
    unsure_rank: int | None = None,
) -> list[dict]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    ranks = [start(run_rank, rank, 2, port, recipe, out, failing_step, last_step, before, unsure_rank) for rank in range(2)]
    assert [wait(rank) for rank in ranks] == ([0, 0] if last_step is None else [-signal.SIGKILL] * 2)
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2) if last_step is None]


def equal(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[key]) for key, value in left.items())


def run_label(rank: int, meeting: Path) -> None:
    """One of two processes whose teachers label their own weak views; that of the second is damaged. Ends well if both refuse."""
    _alone()
    import torch.distributed as dist

    from semivss.data.toy import toy_labels
    from semivss.losses.matcher import NonFiniteCost
    from semivss.models.zoo import build_segmenter
    from semivss.settings import Model
    from semivss.tensors import UnlabelledBatch
    from semivss.train.semi import label

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    teacher = build_segmenter(Model(pixel={"channels": 8}), toy_labels()).eval()
    frames = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    empty = torch.zeros(1, 64, 64)
    batch = UnlabelledBatch(frames, frames[None], empty.bool(), empty.byte(), empty, ("one",))
    assert label(batch, [teacher]).doubt.isfinite().all()
    if rank == 1:
        next(teacher.parameters()).data.fill_(torch.nan)
    try:
        label(batch, [teacher])
    except NonFiniteCost:
        dist.destroy_process_group()
        return
    sys.exit(3)


def _alone() -> None:
    torch.set_num_threads(1)
