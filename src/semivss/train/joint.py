"""Streams of labelled and unlabelled crops in, batches with a part of each out."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from semivss.data.loader import Batches
from semivss.data.policy import DefectCounter
from semivss.tensors import Batch, UnlabelledBatch


@dataclass(frozen=True)
class JointBatch:
    """What one step of retraining sees. Without the unlabelled part only L_s is asked for."""

    labelled: Batch
    unlabelled: UnlabelledBatch | None

    @property
    def ids(self) -> tuple[str, ...]:
        return self.labelled.ids + (self.unlabelled.ids if self.unlabelled else ())

    def to(self, device: torch.device) -> "JointBatch":
        return JointBatch(self.labelled.to(device), self.unlabelled.to(device) if self.unlabelled else None)


class JointBatches:
    """The labelled stream, joined by the unlabelled one from a given optimiser step on."""

    def __init__(self, labelled: Batches[Batch], unlabelled: Batches[UnlabelledBatch] | None, alone: int) -> None:
        """`alone` is the number of micro-batches that come before the unlabelled stream begins."""
        self._labelled, self._unlabelled, self._alone = labelled, unlabelled, alone

    @property
    def defects(self) -> DefectCounter:
        met = DefectCounter()
        met.merge(self._labelled.defects)
        if self._unlabelled is not None:
            met.merge(self._unlabelled.defects)
        return met

    def __iter__(self) -> Iterator[JointBatch]:
        others: Iterator[UnlabelledBatch] | None = None
        for number, batch in enumerate(self._labelled):
            if self._unlabelled is None or number < self._alone:
                yield JointBatch(batch, None)
                continue
            others = others or iter(self._unlabelled)
            yield JointBatch(batch, next(others))
