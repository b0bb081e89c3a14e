"""Labelled and unlabelled crops in, the loss of a step of retraining out (arXiv 2406.00587, 2203.03884).

offline: the pseudo labels and entropies of a frozen ensemble, read from files. online: the student's moving average labels the weak
view in each step. Either way the student sees strong, mixed views, and each pixel's entropy decides whether its label counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from semivss.data.clips import VideoDataset
from semivss.data.labels import LabelSet
from semivss.data.loader import labelled_batches, unlabelled_batches
from semivss.data.pseudo import check_classes
from semivss.data.shares import class_shares
from semivss.data.source import open_unlabelled
from semivss.errors import SemivssError, WeightsError
from semivss.losses.matcher import NonFiniteCost
from semivss.models.segmenter import Segmenter
from semivss.posterior import class_distribution, entropy
from semivss.recipe import Recipe
from semivss.settings import Semi
from semivss.tensors import IGNORE, UnlabelledBatch
from semivss.train.alignment import RunningAlignment
from semivss.train.contrast import Contrast
from semivss.train.joint import JointBatch, JointBatches
from semivss.train.method import Given
from semivss.train.mixing import mix
from semivss.train.objective import SemiObjective
from semivss.train.previous import PreviousTeachers
from semivss.train.targets import Targets
from semivss.train.threshold import alpha_at, cut, surest

IN_VAIN = 100  # batches in a row without a reliable pixel until retraining stops
PATIENCE = 500  # steps, or a quarter of a shorter training, that a class may have no part in L_c until that is said


class SemiSupervised:
    """Retraining with pseudo labels. Implements `Method`."""

    def __init__(
        self, recipe: Recipe, semi: Semi, datasets: Sequence[VideoDataset], segmenter: Segmenter, given: Given, fabric: Fabric
    ) -> None:
        """Raises SemivssError for missing or unfitting data, weights or pseudo labels."""
        self._recipe, self._semi, self._datasets, self._fabric = recipe, semi, datasets, fabric
        self._unlabelled = () if semi.mode == "supervised" else _unlabelled(recipe)
        self._stored = _stored(semi, self._unlabelled, given, recipe, datasets[0].label_set)
        if given.weights is not None:
            start_from(segmenter, given.weights)
        self.module = SemiObjective(segmenter, semi)
        self._contrast = None
        if self.module.representation is not None:
            if semi.contrast.prototypes and fabric.world_size > 1:
                raise SemivssError(
                    f"{recipe.name}: semi.contrast.prototypes works in one process, since each of {fabric.world_size} would keep its own "
                    "and a checkpoint holds one; leave it out, or train in one process"
                )
            patience = min(PATIENCE, max(1, recipe.train.steps // 4)) * recipe.train.accumulate
            self._contrast = Contrast(semi.contrast, segmenter.label_set, segmenter.rule, patience, fabric.device, fabric.is_global_zero)
        self._previous = None
        if semi.mode == "online" and semi.previous:
            self._previous = PreviousTeachers(segmenter, semi.previous, semi.previous_every, fabric.device)
        self._alignment = None
        if semi.mode == "online" and semi.align:
            wanted = torch.tensor(class_shares(datasets, recipe.data.policy), dtype=torch.float32, device=fabric.device)
            self._alignment = RunningAlignment(wanted, semi.align)
        self._notes: dict[str, float] = {}
        self._in_vain = 0

    def batches(self, start_step: int, rank: int, world: int) -> JointBatches:
        data, train, semi = self._recipe.data, self._recipe.train, self._semi
        labelled = labelled_batches(data, train, start_step, rank, world, datasets=self._datasets)
        if semi.mode == "supervised":
            return JointBatches(labelled, None, 0)
        begin = max(start_step, semi.supervised_steps)
        sources: Any = {"datasets": self._unlabelled, "pseudo": self._stored}
        unlabelled = unlabelled_batches(data, train, semi, begin, rank, world, **sources)
        return JointBatches(labelled, unlabelled, (begin - start_step) * train.accumulate)

    def terms(
        self, module: nn.Module, average: nn.Module | None, batch: JointBatch, step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        frames, labels = batch.labelled.flat()
        targets = None
        if batch.unlabelled is not None:
            with self._fabric.autocast():  # the teacher's passes cost as the student's do
                targets = self._targets(batch.unlabelled, average, step, generator)
                if self._contrast is not None:
                    self._contrast.look(average, frames, targets)
        terms: dict[str, Tensor] = module(frames, labels, targets, self._contrast, generator)
        return terms

    def notes(self) -> dict[str, float]:
        return self._notes

    def state_dict(self) -> dict[str, Any]:
        kept = {"in_vain": self._in_vain} | ({} if self._contrast is None else self._contrast.state_dict())
        parts = {"previous": self._previous, "alignment": self._alignment}
        return kept | {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._in_vain = state["in_vain"]
        if self._contrast is not None:
            self._contrast.load_state_dict(state)
        if self._previous is not None:
            self._previous.load_state_dict(state["previous"])
        if self._alignment is not None:
            self._alignment.load_state_dict(state["alignment"])

    @torch.no_grad()
    def _targets(self, batch: UnlabelledBatch, average: nn.Module | None, step: int, generator: torch.Generator) -> Targets:
        """Label the weak view (online), mix, split by entropy."""
        if self._semi.mode == "online":
            assert average is not None
            batch = label(batch, self._teachers(cast(Segmenter, average.segmenter), step, generator), self._alignment)
        batch = replace(batch, labels=batch.labels.masked_fill(~batch.inside, IGNORE))
        strong = self._semi.strong
        if float(torch.rand((), generator=generator)) < strong.mix_chance:
            batch = mix(batch, strong.mix, generator)
        alpha = alpha_at(self._semi.threshold, step, self._recipe.train.steps)
        classes = len(self._datasets[0].label_set)
        gamma = cut(self._semi.threshold, alpha, batch.labels, batch.doubt, classes, self._stored)
        low = surest(alpha, batch.labels, batch.doubt, self._stored) if self._semi.contrast.anchor_set == "code" else None
        targets = Targets(batch.strong, batch.labels, batch.doubt, gamma, low)
        known, reliable = batch.labels != IGNORE, targets.split.labels != IGNORE
        self._notes = {"reliable": int(reliable.sum()) / max(int(known.sum()), 1), "alpha": alpha}
        counts = torch.stack([known.sum(), reliable.sum()])
        if self._fabric.world_size > 1:  # all processes judge alike, and stop together
            counts = self._fabric.all_reduce(counts, reduce_op="sum")
        self._in_vain = self._in_vain + 1 if counts[0] and not counts[1] else 0
        train = self._recipe.train
        most = min(IN_VAIN, (train.steps - self._semi.supervised_steps) * train.accumulate)
        if self._in_vain >= most:
            raise SemivssError(
                f"{self._recipe.name}: no pixel was reliable in {most} batches in a row, so that nothing is learned from unlabelled "
                "video; lower semi.threshold.alpha, raise semi.threshold.gamma, or train the models that label it for longer"
            )
        return targets

    def _teachers(self, average: Segmenter, step: int, generator: torch.Generator) -> list[Segmenter]:
        """Who labels in this step."""
        if self._previous is None:
            return [average]
        self._previous.look(average, step)
        return [average, *cast(list[Segmenter], self._previous.draw(generator))]


@torch.no_grad()
def label(batch: UnlabelledBatch, teachers: Sequence[Segmenter], alignment: RunningAlignment | None = None) -> UnlabelledBatch:
    """Labels and entropies (nats) of the weak view, at full size, by the teachers' mean distribution, `alignment` applied.

    Raises:
        NonFiniteCost: on every process, when a teacher's output on any of them is NaN or infinite: they skip the step together.
    """
    size = (batch.labels.shape[1], batch.labels.shape[2])
    p = class_distribution(teachers[0](batch.weak), size, teachers[0].rule)
    for other in teachers[1:]:
        p += class_distribution(other(batch.weak), size, other.rule)
    p /= len(teachers)
    damaged = (~p.sum().isfinite()).float()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(damaged, dist.ReduceOp.MAX)
    if damaged:
        raise NonFiniteCost("the teacher's output is not finite")
    p = p if alignment is None else alignment(p, batch.inside)
    return replace(batch, labels=p.max(1).indices.to(torch.uint8), doubt=entropy(p))


def start_from(segmenter: Segmenter, folder: Path) -> None:
    """Take over the weights of a saved model. Raises WeightsError for a model of other classes or another architecture."""
    saved = Segmenter.from_pretrained(folder)
    if saved.label_set.names != segmenter.label_set.names:
        raise WeightsError(
            f"{folder}: has the classes of {saved.label_set.name}, the training data those of {segmenter.label_set.name}; "
            'start from a model of these classes, or set semi.start = "scratch"'
        )
    try:
        segmenter.load_state_dict(saved.state_dict())
    except RuntimeError as error:
        raise WeightsError(
            f'{folder}: not the architecture of the recipe\'s model; correct [model], or set semi.start = "scratch"'
        ) from error


def _unlabelled(recipe: Recipe) -> tuple[VideoDataset, ...]:
    if not recipe.data.unlabelled:
        raise SemivssError(f"{recipe.name}: no unlabelled video to retrain on; add [[data.unlabelled]] to the recipe")
    return open_unlabelled(recipe.data.unlabelled, recipe.data.policy)


def _stored(semi: Semi, unlabelled: Sequence[VideoDataset], given: Given, recipe: Recipe, label_set: LabelSet) -> Sequence[Any] | None:
    if semi.mode != "offline":
        return None
    if given.pseudo is None or len(given.pseudo) != len(unlabelled):
        raise SemivssError(
            f"{recipe.name}: mode offline needs the pseudo labels of every unlabelled source; run semivss pseudo-label first"
        )
    for folder, dataset in zip(given.pseudo, unlabelled, strict=True):
        check_classes(folder.folder, folder.label_set.names, label_set)
        folder.check(dataset, recipe.data.policy)
    return given.pseudo
