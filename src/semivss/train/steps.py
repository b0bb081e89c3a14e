"""One optimiser step: micro-batches in, changed weights and the mean loss terms out; a step without a finite result changes nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from semivss.errors import SemivssError
from semivss.losses.matcher import NonFiniteCost
from semivss.settings import Train
from semivss.train.method import AnyBatch, Method
from semivss.train.sharding import is_sharded, whole

PATIENCE = 10  # skipped steps in a row until training stops
WEIGHTS, DROPOUT, DRAWN = 2, 3, 4  # streams of random numbers beside the loader's


@dataclass(frozen=True)
class Training:
    """The objects that a step works on."""

    method: Method
    module: nn.Module  # the method's, wrapped
    optimizer: torch.optim.Optimizer  # wrapped
    average: nn.Module | None  # of the method's module


@dataclass(frozen=True)
class StepResult:
    """What one step reports. `terms` is empty when the step was skipped."""

    terms: dict[str, float]  # means over the micro-batches and processes
    norm: float  # of the gradient, before clipping
    ids: tuple[str, ...]  # samples of the step

    @property
    def skipped(self) -> bool:
        return not self.terms


def seed_of(*numbers: int) -> int:
    """A seed for torch from whole numbers such as (seed, stream, step, rank), well mixed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def train_step(fabric: Fabric, training: Training, batches: Iterator[AnyBatch], train: Train, step: int) -> StepResult:
    """Optimiser step `step` over `train.accumulate` micro-batches.

    All randomness (dropout, points of the mask losses) is a function of (seed, step, rank), so a resumed run repeats it.
    A loss or gradient that is not finite on any process skips the step on all of them: weights, optimiser and running statistics
    stay as they were.
    """
    objective, optimizer = training.module, training.optimizer
    optimizer.zero_grad(set_to_none=True)
    before = [statistic.clone() for statistic in running_statistics(objective)]
    sums: dict[str, Tensor] = {}
    ids: list[str] = []
    finite = True
    waits = not is_sharded(objective)  # shared-out gradients would lie whole on each process till then, where zero_grad does not reach
    for part in range(train.accumulate):
        batch = next(batches).to(fabric.device)
        ids.extend(batch.ids)
        if finite:  # the remaining micro-batches are only taken off the stream
            with fabric.no_backward_sync(
                objective, enabled=waits and part + 1 < train.accumulate
            ):  # the forward pass prepares the exchange
                terms = _forward(fabric, training, batch, train, step, part)
                finite = agree(fabric, terms is not None)
                if finite and terms is not None:
                    fabric.backward(torch.stack(list(terms.values())).sum() / train.accumulate)
            if finite and terms is not None:
                sums = {name: sums.get(name, 0) + term.detach() / train.accumulate for name, term in terms.items()}
    norm = _gradient_norm(objective, train.clip) if finite else float("nan")
    if not agree(fabric, np.isfinite(norm)):
        optimizer.zero_grad(set_to_none=True)
        for statistic, old in zip(running_statistics(objective), before, strict=True):
            statistic.copy_(old)
        return StepResult({}, norm, tuple(ids))
    optimizer.step()
    average_statistics(fabric, objective)
    return StepResult(averaged(fabric, sums), norm, tuple(ids))


def check_patience(result: StepResult, in_a_row: int) -> None:
    """Raises SemivssError once `PATIENCE` steps in a row were skipped; the line names the samples of the last one."""
    if in_a_row >= PATIENCE:
        shown = ", ".join(result.ids[:8]) + (f" and {len(result.ids) - 8} more" if len(result.ids) > 8 else "")
        raise SemivssError(
            f"{in_a_row} steps in a row had a loss or gradient that is not finite, the last one on {shown}; "
            'lower train.lr, set train.clip, set train.precision to "32", or look at these samples'
        )


def agree(fabric: Fabric, ok: bool | np.bool_) -> bool:
    """Whether `ok` holds on all processes."""
    if fabric.world_size == 1:
        return bool(ok)
    total = fabric.all_reduce(torch.tensor(float(ok), device=fabric.device), reduce_op="sum")
    return bool(total == fabric.world_size)


def averaged(fabric: Fabric, terms: dict[str, Tensor]) -> dict[str, float]:
    """Means over the processes: the terms of the whole batch."""
    values = torch.stack(list(terms.values()))
    if fabric.world_size > 1:
        values = fabric.all_reduce(values, reduce_op="mean")
    return dict(zip(terms, values.tolist(), strict=True))


def average_statistics(fabric: Fabric, model: nn.Module) -> None:
    """Give all processes the mean of their running statistics: each has seen its own part of the batch, and one model is evaluated."""
    floating = [value for value in running_statistics(model) if value.is_floating_point()]
    if fabric.world_size > 1 and floating:
        mean = fabric.all_reduce(torch.cat([value.flatten() for value in floating]), reduce_op="mean")
        for value, part in zip(floating, mean.split([value.numel() for value in floating]), strict=True):
            value.copy_(part.view_as(value))


def running_statistics(model: nn.Module) -> Sequence[Tensor]:
    """Buffers that a forward pass changes, were it over damaged numbers: those of batch normalisation."""
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return [value for layer in layers for value in (layer.running_mean, layer.running_var, layer.num_batches_tracked) if value is not None]


def _forward(fabric: Fabric, training: Training, batch: AnyBatch, train: Train, step: int, part: int) -> dict[str, Tensor] | None:
    """Loss terms of one micro-batch; none when one of them is not finite."""
    micro = step * train.accumulate + part
    torch.manual_seed(seed_of(train.seed, DROPOUT, micro, fabric.global_rank))
    drawn = torch.Generator().manual_seed(seed_of(train.seed, DRAWN, micro, fabric.global_rank))
    try:
        terms = training.method.terms(training.module, training.average, batch, step, drawn)
    except NonFiniteCost:
        return None
    return terms if bool(torch.stack([term.detach() for term in terms.values()]).isfinite().all()) else None


def _gradient_norm(objective: nn.Module, clip: float) -> float:
    """Euclidean norm of the whole gradient, which is then scaled down to `clip` (0 = left alone)."""
    return float(whole(nn.utils.clip_grad_norm_(objective.parameters(), clip or float("inf"), error_if_nonfinite=False)))
