"""What the tests run in processes of their own: started by a fork server that has imported everything heavy already."""

import json
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
    from semivss.train import loop, method, objective, semi
    from semivss.train.method import Given
    from semivss.train.sharding import whole

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

    loop.Run, loop.pooled, method.supervised_loss, objective.supervised_loss = remember_run, remember_counts, loss, loss
    if rank == unsure_rank:
        semi.cut = lambda *arguments: 0.0
    loop.train(recipe, out, given=before and Given(before / "student" / "model", [open_pseudo(before / "pseudo")]))
    weights = {"model": whole(runs[0].segmenter.state_dict()), "best": runs[0].best().state_dict()}
    kept = {"method": runs[0].method.state_dict()}
    torch.save(
        weights | kept | {"skipped": runs[0].counters.skipped, "counts": [one.counts.tolist() for one in counts]}, out / f"rank{rank}.pt"
    )


def run_anywhere(rank: int, world: int, port: int, out: Path) -> None:
    """What each process says of three classes' part in L_c; leaves what it was told in `out`/<rank>.json."""
    _alone()
    from semivss.train.contrast import anywhere

    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    reasons = [["", "no anchor", "no positive"], ["no anchor", "", "empty queue"]][rank]
    (out / f"{rank}.json").write_text(json.dumps(anywhere(reasons, torch.device("cpu"))))
    torch.distributed.destroy_process_group()


def train_ddp(
    recipe: Recipe,
    out: Path,
    failing_step: int | None = None,
    last_step: int | None = None,
    before: Path | None = None,
    unsure_rank: int | None = None,
) -> list[dict]:
    port = free_port()
    ranks = [start(run_rank, rank, 2, port, recipe, out, failing_step, last_step, before, unsure_rank) for rank in range(2)]
    assert [wait(rank) for rank in ranks] == ([0, 0] if last_step is None else [-signal.SIGKILL] * 2)
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2) if last_step is None]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run_steps(rank: int, world: int, port: int, recipe: Recipe, out: Path, steps: int, failing_part: int | None = None) -> None:
    """Optimiser steps on made-up crops, one a process; a process alone goes through all of them one after the other.

    Leaves losses, gradient norms and whole parameters in `out`/steps<rank>.pt. Every process and crop gets the same random points.
    The micro-batch `failing_part`, counted over all steps, has no finite loss.
    """
    _alone()
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    from torch.distributed.fsdp import FSDPModule

    from semivss.data.toy import toy_labels
    from semivss.models.zoo import build_segmenter
    from semivss.tensors import Batch
    from semivss.train import steps as steps_module
    from semivss.train.method import Supervised
    from semivss.train.optim import build_optimizer
    from semivss.train.processes import start_fabric
    from semivss.train.sharding import is_sharded, units, whole

    steps_module.seed_of = lambda *_: 7
    fabric = start_fabric(recipe)
    torch.manual_seed(0)
    method = Supervised(recipe, (), build_segmenter(recipe.model, toy_labels()))
    before = {name: parameter.detach().clone() for name, parameter in method.module.named_parameters()}
    module = fabric.setup_module(method.module)
    optimizer = fabric.setup_optimizers(build_optimizer(method.module, recipe.train))
    training = steps_module.Training(method, module.train(), optimizer, None)
    forward, parts = steps_module._forward, []

    def remember_part(*arguments):
        parts.append(forward(*arguments))
        return None if len(parts) - 1 == failing_part else parts[-1]

    steps_module._forward = remember_part
    crops = torch.randint(0, 256, (2, 1, 1, 3, 64, 96), dtype=torch.uint8)
    stripes = torch.arange(96).div(32, rounding_mode="floor").to(torch.uint8).expand(64, 96)  # three classes in each
    batches = [
        Batch(frames, labels[None, None], ("any",)) for frames, labels in zip(crops, (stripes, stripes.T.reshape(64, 96)), strict=True)
    ]
    results = []
    for step in range(steps):
        own = iter(batches[rank : rank + 1] * recipe.train.accumulate if world > 1 else batches)
        results.append(steps_module.train_step(fabric, training, own, recipe.train, step))
    cut = sum(getattr(value, "to_local", lambda value=value: value)().shape != value.shape for value in method.module.parameters())
    ended = {name: whole(parameter.detach()) for name, parameter in method.module.named_parameters()}
    norms = [result.norm for result in results]
    alone = all(isinstance(unit, FSDPModule) for unit in units(method.module.segmenter))
    kept = {"units_shared_out": alone, "before": before, "after": ended, "norms": norms, "sharded": is_sharded(method.module), "parts": cut}
    torch.save(kept | {"losses": [sum(result.terms.values()) for result in results]}, out / f"steps{world}_{rank}.pt")


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
