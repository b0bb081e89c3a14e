"""Representations, sets of pixels and a memory bank in, the contrastive loss and what each class contributed out.

L_c of U2PL (arXiv 2203.03884, equation 7; arXiv 2406.00587, equation 6), with anchors, positives and queue taken by class id.
Letters: B images, h w size and D channels of the representation, C classes, V processed classes, M anchors a class, N negatives an anchor,
S rows of a class' pool.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semivss.full_precision import full_precision
from semivss.losses.bank import MemoryBank
from semivss.losses.contrast_sets import ByClass, ContrastSets

EPS = 1e-8  # least length that a vector is divided by


@runtime_checkable
class Sampler(Protocol):
    """Draws anchors and compares them with negatives."""

    def anchors(self, candidates: Int64[Tensor, "V"]) -> Int64[Tensor, "V M"]:
        """Numbers of anchors among so many candidates of each class, which stand in row-major order."""

    def cosines(self, anchors: Float[Tensor, "V M D"], classes: Int64[Tensor, "V"], bank: MemoryBank) -> Float[Tensor, "V M N"]:
        """Cosine of each anchor (of length 1) with its negatives from the queue of its class, which is not empty."""


@dataclass(frozen=True)
class RowSampler:
    """Every anchor draws N rows of its own from the queue, as the paper writes it. Reads V * M * N rows: for small sizes and tests."""

    generator: torch.Generator | None = None
    count: int = 256  # M
    negatives: int = 50  # N

    def anchors(self, candidates: Int64[Tensor, "V"]) -> Int64[Tensor, "V M"]:
        """Uniform with replacement."""
        return _below(candidates, (self.count,), self.generator)

    def rows(self, queued: Int64[Tensor, "V"]) -> Int64[Tensor, "V M N"]:
        """Numbers of rows among so many of each class' queue, oldest first. Uniform with replacement."""
        return _below(queued, (self.count, self.negatives), self.generator)

    def cosines(self, anchors: Float[Tensor, "V M D"], classes: Int64[Tensor, "V"], bank: MemoryBank) -> Float[Tensor, "V M N"]:
        """See `Sampler`."""
        rows = self.rows(bank.lengths[classes])
        keys = F.normalize(bank.take(classes, rows.flatten(1)), dim=2, eps=EPS).view(*rows.shape, -1)
        return torch.einsum("vmd,vmnd->vmn", anchors, keys)


@dataclass(frozen=True)
class PoolSampler:
    """Each class draws a pool of S rows, and each of its anchors N of these.

    A single negative has the same law as with `RowSampler`; those of one class share the pool. One batched product replaces reading
    V * M * N rows.
    """

    generator: torch.Generator | None = None
    count: int = 256  # M
    negatives: int = 50  # N
    pool: int = 512  # S

    def anchors(self, candidates: Int64[Tensor, "V"]) -> Int64[Tensor, "V M"]:
        """Uniform with replacement."""
        return _below(candidates, (self.count,), self.generator)

    def cosines(self, anchors: Float[Tensor, "V M D"], classes: Int64[Tensor, "V"], bank: MemoryBank) -> Float[Tensor, "V M N"]:
        """See `Sampler`."""
        keys = bank.take(classes, _below(bank.lengths[classes], (self.pool,), self.generator))
        if not bank.unit:
            keys = F.normalize(keys, dim=2, eps=EPS)
        pool = torch.full_like(classes, self.pool)
        return (anchors @ keys.mT).gather(2, _below(pool, (self.count, self.negatives), self.generator))


@dataclass(frozen=True)
class ContrastResult:
    """The loss of one step and process, and what each class had."""

    loss: Float[Tensor, ""]
    class_losses: Float[Tensor, "C"]  # mean over the anchors, 0 for classes that took no part; without gradient
    processed: Bool[Tensor, "C"]
    positives: Int64[Tensor, "C"]  # pixels
    anchors: Int64[Tensor, "C"]  # candidate pixels
    new_keys: Int64[Tensor, "C"]  # of all processes, in this step
    queued: Int64[Tensor, "C"]  # rows in the bank, with the new ones

    def reasons(self) -> list[str]:
        """Why each class took no part: "no positive", "no anchor", "empty queue", "only class"; empty text for those that did."""
        columns = [column.tolist() for column in (self.processed, self.positives, self.anchors, self.queued)]
        return [_reason(*numbers) for numbers in zip(*columns, strict=True)]


class MomentumPrototypes:
    """Positive keys averaged over steps: an option of the published code that no published experiment used. Part of the checkpoint."""

    def __init__(
        self, classes: int, channels: int, *, ceiling: float = 0.999, forget: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        """
        Args:
            classes: C.
            channels: D.
            ceiling: largest decay; the decay of step k (from 1) is min(1 - 1/k, ceiling).
            forget: set a class back to 0 in a step in which it took no part, as the published code does.
            device: of the rows.
        """
        self.rows = torch.zeros(classes, channels, device=device)
        self.step, self.ceiling, self.forget = 0, ceiling, forget

    @torch.no_grad()
    def mix(self, means: Float[Tensor, "C D"], processed: Bool[Tensor, "C"]) -> Float[Tensor, "C D"]:
        """Positive keys of this step: (1 - decay) * mean + decay * prototype, kept for the next one; the means while all rows are 0."""
        decay = min(1 - 1 / max(self.step, 1), self.ceiling) if self.rows.any() else 0.0
        mixed = (1 - decay) * means + decay * self.rows
        fine = processed & mixed.isfinite().all(1)  # one bad batch must not stay for ever
        self.rows = torch.where(fine[:, None], mixed, torch.zeros_like(mixed) if self.forget else self.rows)
        return mixed

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {"rows": self.rows, "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.rows.copy_(state["rows"])
        self.step = int(state["step"])


def contrastive_loss(
    z: Float[Tensor, "B D h w"],
    teacher: Float[Tensor, "B D h w"],
    sets: ContrastSets,
    bank: MemoryBank,
    sampler: Sampler,
    *,
    temperature: float = 0.5,
    generator: torch.Generator | None = None,
    prototypes: MomentumPrototypes | None = None,
) -> ContrastResult:
    """Put this step's negatives into the bank, then contrast anchors with their class' mean and with the bank.

    The mean runs over the processed classes' anchors and is divided by the number of classes with a positive pixel. It is this process'
    own: DDP averages gradients, and nothing else is to be divided by the number of processes. The bank keeps its new keys also when the
    step is skipped later on.

    Args:
        z: the student's representation.
        teacher: that of the EMA model or, detached, the student's own; same channels. Gets no gradient.
        sets: from `contrast_sets` on the same images.
        bank: changed.
        sampler: `PoolSampler` in training.
        temperature: tau.
        generator: chooses new keys where there are more than the bank takes.
        prototypes: changed; none = the positive key is the mean of this step.

    Returns:
        A loss of 0 with a gradient of 0 where nothing can be contrasted, such as a batch of a single class.

    Raises:
        NonFiniteCost: the teacher's representation is NaN or infinite. Skip the step and count it.
    """
    with full_precision(z):
        keys = bank.choose(sets.negatives, generator)
        new_keys = bank.add(pixel_rows(teacher.detach(), keys.pixels), keys.counts)
        present = sets.positives.counts > 0
        contrasted = present.sum() > 1
        processed = present & (sets.anchors.counts > 0) & (bank.lengths > 0) & contrasted
        targets = class_means(teacher.detach(), sets.positives)
        if prototypes is not None:
            prototypes.step += 1
            targets = prototypes.mix(targets, processed) if contrasted else targets
        classes = processed.nonzero()[:, 0]
        losses = class_losses(z, targets, sets.anchors, classes, bank, sampler, temperature)
        loss = losses.sum() / present.sum() if len(classes) else 0 * z.sum(dtype=torch.float32)
        table = torch.zeros_like(processed, dtype=torch.float32).index_put((classes,), losses.detach())
    return ContrastResult(loss, table, processed, sets.positives.counts, sets.anchors.counts, new_keys, bank.lengths)


def class_losses(
    z: Float[Tensor, "B D h w"],
    targets: Float[Tensor, "C D"],
    candidates: ByClass,
    classes: Int64[Tensor, "V"],
    bank: MemoryBank,
    sampler: Sampler,
    temperature: float,
) -> Float[Tensor, "V"]:
    """Mean of -log(e^(cos(z, z+)/tau) / (e^(cos(z, z+)/tau) + sum over negatives of e^(cos(z, z-)/tau))) of each class' anchors."""
    if len(classes) == 0:
        return z.new_zeros(0, dtype=torch.float32)
    drawn = sampler.anchors(candidates.counts[classes])
    rows = pixel_rows(z.float(), candidates.pixels[drawn + candidates.starts[classes][:, None]])  # gradients of one pixel add up in float32
    anchors = F.normalize(rows, dim=2, eps=EPS)
    positive = anchors @ F.normalize(targets[classes], dim=1, eps=EPS)[:, :, None]
    scores = torch.cat([positive, sampler.cosines(anchors, classes, bank)], 2) / temperature
    return (scores.logsumexp(2) - scores[..., 0]).mean(1)


def class_means(z: Float[Tensor, "B D h w"], pixels: ByClass) -> Float[Tensor, "C D"]:
    """Mean representation of each class' pixels, 0 for a class without any."""
    return F.embedding_bag(pixels.pixels, _flat(z).float(), pixels.starts, mode="mean")


def pixel_rows(z: Float[Tensor, "B D h w"], pixels: Int64[Tensor, "*n"]) -> Float[Tensor, "*n D"]:
    """The vectors of these pixels (indices into B * h * w)."""
    return F.embedding(pixels, _flat(z))  # its backward adds up in one pass; that of an index with tensors is several times slower


def _flat(z: Tensor) -> Tensor:
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])  # no copy in channels_last


def _below(limits: Int64[Tensor, "V"], shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Whole numbers of shape (V, *shape), uniform in 0..limit-1 of their row."""
    device = generator.device if generator is not None else limits.device
    chance = torch.rand((len(limits), *shape), generator=generator, device=device).to(limits.device)
    ends = limits.view(-1, *[1] * len(shape))
    return torch.minimum((chance * ends).long(), ends - 1)  # rounding may reach the limit


def _reason(processed: bool, positives: int, anchors: int, queued: int) -> str:
    if processed:
        return ""
    return "no positive" if not positives else "no anchor" if not anchors else "empty queue" if not queued else "only class"
