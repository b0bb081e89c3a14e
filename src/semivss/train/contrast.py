"""The student's representation and a teacher's view of the same crops in, L_c out: what has to be kept from step to step for it."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from semivss.data.labels import LabelSet
from semivss.errors import RecipeError
from semivss.losses.bank import MemoryBank
from semivss.losses.contrast_sets import RankWindow, contrast_sets, nearest, regions
from semivss.losses.contrast_watch import ContrastWatch
from semivss.losses.contrastive import MomentumPrototypes, PoolSampler, contrastive_loss
from semivss.models.representation import RepresentationHead
from semivss.models.segmenter import Segmenter
from semivss.posterior import class_distribution
from semivss.progress import say
from semivss.settings import Contrast as Settings
from semivss.settings import Semi
from semivss.tensors import MaskLogits, PixelLogits


def build_representation(segmenter: Segmenter, semi: Semi) -> RepresentationHead | None:
    """A fresh head on the segmenter's pixel features; none where L_c is off."""
    settings = segmenter.settings
    if not semi.contrast.weight or semi.mode == "supervised":
        return None
    width = settings.pixel.channels if settings.head == "pixel" else settings.mask2former.channels
    return RepresentationHead(width, semi.contrast.channels, stride=semi.contrast.stride)


class Contrast:
    """Bank, prototypes and the teacher's last view. Not a module: a copy of the student must not copy the bank."""

    def __init__(self, settings: Settings, label_set: LabelSet, rule: str, device: torch.device, loud: bool = True) -> None:
        """`loud`: whether this process is the one that warns."""
        classes = len(label_set)
        self._settings, self._rule, self._loud = settings, rule, loud
        try:
            self._window = RankWindow.scaled(classes, settings.low_rank, settings.high_rank)
        except ValueError as error:
            raise RecipeError(
                f"semi.contrast: nothing to contrast among {classes} classes ({error}); leave out low_rank and high_rank, "
                "or with a single class set semi.contrast.weight = 0"
            ) from error
        self._bank = MemoryBank(classes, settings.channels, settings.bank, most=settings.keys, device=device)
        self._prototypes = MomentumPrototypes(classes, settings.channels, device=device) if settings.prototypes else None
        self._watch = ContrastWatch(label_set.names)
        self._view: tuple[Tensor, Tensor] | None = None  # the teacher's distribution and representation

    def crops(self, labelled: int, unlabelled: int) -> tuple[int, int]:
        """How many of the labelled and of the unlabelled crops L_c sees: the first ones of each."""
        first, second = (max(1, round(self._settings.share * crops)) for crops in (labelled, unlabelled))
        return first, second

    @torch.no_grad()
    def look(self, average: nn.Module | None, frames: UInt8[Tensor, "N 3 H W"]) -> None:
        """Let the teacher see the crops of L_c, which the student is about to see. With teacher "self" the student's own view will do."""
        self._view = None
        if self._settings.teacher == "ema":
            assert average is not None
            segmenter, representation = cast(Segmenter, average.segmenter), cast(RepresentationHead, average.representation)
            output = segmenter(frames)
            self._view = class_distribution(output, rule=self._rule), representation(output.pixel_features)

    def loss(
        self,
        z: Float[Tensor, "N D h w"],
        output: MaskLogits | PixelLogits,
        labels: UInt8[Tensor, "N H W"],
        targets: Any,
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """lambda_c L_c; the bank takes in this step's keys.

        Args:
            z: representation of the labelled and unlabelled crops that it sees.
            output: the student's logits of the same crops.
            labels: of people, then pseudo labels before the split; 255 = none.
            targets: `semi.Targets` of the unlabelled ones.
            generator: on the CPU.

        Raises:
            NonFiniteCost: the teacher's representation is not finite.
        """
        settings = self._settings
        with torch.no_grad():
            p, teacher = self._view or (class_distribution(output, rule=self._rule), z.detach())
            size = (z.shape[2], z.shape[3])
            cells = regions(labels, targets.doubt, size, targets.gamma, targets.low)
            sets = contrast_sets(nearest_maps(p, size), cells, self._window, settings.confidence)
        sampler = PoolSampler(generator, settings.anchors, settings.negatives)
        more: Any = {"temperature": settings.temperature, "generator": generator, "prototypes": self._prototypes}
        result = contrastive_loss(z, teacher, sets, self._bank, sampler, **more)
        for line in self._watch.update(result.reasons()):
            if self._loud:
                say(line)
        return settings.weight * result.loss

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


def nearest_maps(p: Float[Tensor, "N C h w"], size: tuple[int, int]) -> Float[Tensor, "N C h2 w2"]:
    """The distribution at the representation's cells, where that is coarser than the logits."""
    return p if p.shape[-2:] == size else nearest(p.flatten(0, 1), size).view(*p.shape[:2], *size)
