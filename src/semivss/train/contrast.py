"""The student's representation and a teacher's view of the same crops in, L_c out: what has to be kept from step to step for it."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from semivss.data.labels import LabelSet
from semivss.errors import RecipeError
from semivss.losses.bank import MemoryBank
from semivss.losses.contrast_sets import RankWindow, contrast_sets, nearest, regions
from semivss.losses.contrast_watch import MEANINGS, ContrastWatch
from semivss.losses.contrastive import MomentumPrototypes, PoolSampler, contrastive_loss
from semivss.models.representation import RepresentationHead
from semivss.models.segmenter import Segmenter, take_images
from semivss.posterior import class_distribution
from semivss.progress import say
from semivss.settings import Contrast as Settings
from semivss.settings import Semi
from semivss.tensors import MaskLogits, PixelLogits
from semivss.train.targets import Targets


def build_representation(segmenter: Segmenter, semi: Semi) -> RepresentationHead | None:
    """A fresh head on the segmenter's pixel features; none where L_c is off."""
    settings = segmenter.settings
    if not semi.contrast.weight or semi.mode == "supervised":
        return None
    masks = settings.mask2former
    width = settings.pixel.channels if settings.head == "pixel" else masks.mask_channels or masks.channels
    return RepresentationHead(width, semi.contrast.channels, stride=semi.contrast.stride)


def rank_window(settings: Settings, classes: int) -> RankWindow:
    """The ranks of negatives for so many classes. Raises RecipeError for ranks that leave nothing to contrast."""
    try:
        return RankWindow.scaled(classes, settings.low_rank, settings.high_rank)
    except ValueError as error:
        raise RecipeError(
            f"semi.contrast: nothing to contrast among {classes} classes ({error}); leave out low_rank and high_rank, "
            "or with a single class set semi.contrast.weight = 0"
        ) from error


class Contrast:
    """Bank, prototypes and the teacher's last view. Not a module: a copy of the student must not copy the bank."""

    def __init__(self, settings: Settings, label_set: LabelSet, rule: str, patience: int, device: torch.device, loud: bool = True) -> None:
        """
        Args:
            settings: the recipe's section.
            label_set: the classes.
            rule: of the class distribution.
            patience: steps without a share in the loss until a class is named.
            device: of the bank.
            loud: whether this process is the one that warns.
        """
        classes = len(label_set)
        self._settings, self._rule, self._loud = settings, rule, loud
        self._window = rank_window(settings, classes)
        kind = torch.bfloat16 if settings.bank_precision == "bf16" else torch.float32
        self._bank = MemoryBank(classes, settings.channels, settings.bank, most=settings.keys, dtype=kind, device=device)
        self._prototypes = MomentumPrototypes(classes, settings.channels, device=device) if settings.prototypes else None
        self._watch = ContrastWatch(label_set.names, patience)
        self._view: tuple[Tensor, Tensor] | None = None  # the teacher's distribution and representation

    @torch.no_grad()
    def look(self, average: nn.Module | None, frames: UInt8[Tensor, "L 3 H W"], targets: Targets) -> None:
        """Let the teacher see the crops of L_c, which the student is about to see. With teacher "self" the student's own view will do.

        Args:
            average: the averaged student with its representation head.
            frames: labelled crops.
            targets: the unlabelled ones, of which the first strong view counts.
        """
        self._view = None
        if self._settings.teacher == "ema":
            assert average is not None
            images = torch.cat([frames, targets.strong[0]])[self._seen(len(frames), len(targets.labels))[0]]
            segmenter, representation = cast(Segmenter, average.segmenter), cast(RepresentationHead, average.representation)
            output = segmenter(images)
            self._view = class_distribution(output, rule=self._rule), representation(output.pixel_features)

    def loss(
        self,
        representation: nn.Module,
        output: MaskLogits | PixelLogits,
        labels: UInt8[Tensor, "L H W"],
        targets: Targets,
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """lambda_c L_c; the bank takes in this step's keys.

        Args:
            representation: the student's head.
            output: the student's, of the labelled crops, then of the first strong view of the unlabelled ones; what follows is not read.
            labels: of people.
            targets: of the unlabelled crops.
            generator: on the CPU.

        Raises:
            NonFiniteCost: the teacher's representation is not finite.
        """
        settings = self._settings
        images, given, guessed = self._seen(len(labels), len(targets.labels))
        seen, targets = take_images(output, images), targets.first(guessed)
        z = representation(seen.pixel_features)
        with torch.no_grad():
            p, teacher = self._view or (class_distribution(seen, rule=self._rule), z.detach())
            size = (z.shape[2], z.shape[3])
            cells = regions(torch.cat([labels[:given], targets.labels]), targets.doubt, size, targets.gamma, targets.low)
            sets = contrast_sets(nearest_maps(p, size), cells, self._window, settings.confidence)
        sampler = PoolSampler(generator, settings.anchors, settings.negatives)
        result = contrastive_loss(
            z,
            teacher,
            sets,
            self._bank,
            sampler,
            temperature=settings.temperature,
            generator=generator,
            prototypes=self._prototypes,
        )
        for line in self._watch.update(anywhere(result.reasons(), z.device)):
            if self._loud:
                say(line)
        return settings.weight * result.loss

    def _seen(self, labelled: int, unlabelled: int) -> tuple[slice | Int64[Tensor, "n"], int, int]:
        """Which images of a step L_c sees, and how many labelled and unlabelled ones these are: the first ones of each kind."""
        given, guessed = (max(1, round(self._settings.share * crops)) for crops in (labelled, unlabelled))
        if given == labelled:  # no copy where one stretch will do
            return slice(given + guessed), given, guessed
        return torch.cat([torch.arange(given), labelled + torch.arange(guessed)]), given, guessed

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        kept = {"bank": self._bank.state_dict(), "watch": self._watch.state_dict()}
        return kept | ({"prototypes": self._prototypes.state_dict()} if self._prototypes else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._bank.load_state_dict(state["bank"])
        self._watch.load_state_dict(state["watch"])
        if self._prototypes is not None:
            self._prototypes.load_state_dict(state["prototypes"])


def anywhere(reasons: Sequence[str], device: torch.device) -> list[str]:
    """Of each class the reason of the process where it came nearest to a part, empty if it took part on one. All must call it."""
    ranks = [*MEANINGS, ""]
    nearest_part = torch.tensor([ranks.index(reason) for reason in reasons], device=device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(nearest_part, dist.ReduceOp.MAX)
    return [ranks[rank] for rank in nearest_part.tolist()]


def nearest_maps(p: Float[Tensor, "N C h w"], size: tuple[int, int]) -> Float[Tensor, "N C h2 w2"]:
    """The distribution at the representation's cells, where that is coarser than the logits."""
    return p if p.shape[-2:] == size else nearest(p.flatten(0, 1), size).view(*p.shape[:2], *size)
