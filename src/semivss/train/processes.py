"""A recipe in, the processes and devices that train it out; and an output folder that belongs to one run at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy

from semivss.accelerator import choose_accelerator
from semivss.lock import locked
from semivss.recipe import Recipe
from semivss.train.sharding import shard


def start_fabric(recipe: Recipe) -> Fabric:
    """Devices, processes and precision: all GPUs of the machine, else the CPU; under torchrun the processes it started.

    With `train.sharding` several processes share out the model, otherwise each has all of it.
    """
    if recipe.train.threads is not None:
        torch.set_num_threads(recipe.train.threads)
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // int(processes) if processes else 1
    together = nodes * (int(processes) if processes else max(torch.cuda.device_count(), 1))
    fabric = Fabric(
        accelerator=choose_accelerator(),
        strategy=_sharded(together) if recipe.train.sharding == "full" and together > 1 else "ddp" if processes else "auto",
        devices=int(processes) if processes else ("auto" if torch.cuda.is_available() else 1),
        num_nodes=nodes,
        precision="bf16-mixed" if recipe.train.precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def _sharded(together: int) -> ModelParallelStrategy:
    """Lightning's strategy round `fully_shard`. Its FSDPStrategy, round the older FullyShardedDataParallel, refuses to run without GPUs."""
    return ModelParallelStrategy(shard, data_parallel_size=together, tensor_parallel_size=1)


@contextmanager
def run_folder(out: Path, fabric: Fabric) -> Iterator[None]:
    """Hold the folder for this run's processes; the first of them locks it and clears up after killed ones.

    Raises:
        SemivssError: another process holds it, or it cannot be made.
    """
    if not fabric.is_global_zero:
        yield
        return
    with locked(out):
        for rest in out.rglob(".*.tmp"):  # of writers that were killed; none can be alive while the lock is ours
            rest.unlink(missing_ok=True)
        yield
