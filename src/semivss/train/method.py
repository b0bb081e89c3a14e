"""What the loop needs of a way to train: batches, and for each of them named loss terms. Here the supervised one: labelled frames, L_s."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from semivss.data.clips import VideoDataset
from semivss.data.loader import Batches, labelled_batches
from semivss.data.policy import DefectCounter
from semivss.data.pseudo import PseudoFolder
from semivss.losses.supervised import supervised_loss
from semivss.models.segmenter import Segmenter
from semivss.recipe import Recipe
from semivss.tensors import Batch


@runtime_checkable
class AnyBatch(Protocol):
    """What goes through one forward and backward pass."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the samples."""
        ...

    def to(self, device: torch.device) -> "AnyBatch": ...


@runtime_checkable
class Stream(Protocol):
    """Batches in order, with the damaged files met so far."""

    @property
    def defects(self) -> DefectCounter: ...

    def __iter__(self) -> Iterator[AnyBatch]: ...


@runtime_checkable
class Method(Protocol):
    """A way to train. `module` is optimised, averaged and wrapped for several processes; its `segmenter` is what comes out."""

    @property
    def module(self) -> nn.Module: ...

    def batches(self, start_step: int, rank: int, world: int) -> Stream:
        """The micro-batches from optimiser step `start_step` on."""
        ...

    def terms(self, module: nn.Module, average: nn.Module | None, batch: Any, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted loss terms of one micro-batch; their sum is minimised.

        Args:
            module: `self.module`, wrapped.
            average: its moving average, in evaluation mode; none without one.
            batch: from `batches`, on the device.
            step: number of the optimiser step.
            generator: for everything drawn here; a function of (seed, micro-batch, process), on the CPU.

        Raises:
            NonFiniteCost: the model's output is NaN or infinite; the step is skipped and counted.
        """
        ...

    def notes(self) -> dict[str, float]:
        """Numbers for the journal about the last batch, beside the loss terms."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the weights: tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        ...


@dataclass(frozen=True)
class Given:
    """What earlier stages leave for retraining."""

    weights: Path | None = None  # model folder to start from; none = from scratch
    pseudo: Sequence[PseudoFolder] | None = None  # one an unlabelled source; needed offline


class Objective(nn.Module):
    """The model with its supervised loss: what DDP and autocast wrap."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, frames: UInt8[Tensor, "N 3 H W"], labels: UInt8[Tensor, "N H W"], generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted terms. Raises NonFiniteCost as `supervised_loss` does."""
        return supervised_loss(self.segmenter(frames), labels, self.segmenter.settings, generator)


class Supervised:
    """Training on labelled frames alone. Implements `Method`."""

    def __init__(self, recipe: Recipe, datasets: Sequence[VideoDataset], segmenter: Segmenter) -> None:
        self.module = Objective(segmenter)
        self._recipe, self._datasets = recipe, datasets

    def batches(self, start_step: int, rank: int, world: int) -> Batches[Batch]:
        return labelled_batches(self._recipe.data, self._recipe.train, start_step, rank, world, datasets=self._datasets)

    def terms(self, module: nn.Module, average: nn.Module | None, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = module(*batch.flat(), generator)
        return terms

    def notes(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
