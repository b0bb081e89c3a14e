"""A student, labelled crops and pseudo labels in; the terms of L = L_s + lambda_u L_u + lambda_c L_c out (arXiv 2406.00587, equation 3)."""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from semivss.losses.supervised import supervised_loss
from semivss.losses.unsupervised import unsupervised_loss
from semivss.models.segmenter import Segmenter, take_images
from semivss.settings import Semi
from semivss.train.contrast import Contrast, build_representation
from semivss.train.targets import Targets


class SemiObjective(nn.Module):
    """The student, with its representation head where L_c is on, and the whole loss: what DDP and autocast wrap."""

    def __init__(self, segmenter: Segmenter, semi: Semi) -> None:
        super().__init__()
        self.segmenter, self._semi = segmenter, semi
        self.representation = build_representation(segmenter, semi)

    def forward(
        self,
        frames: UInt8[Tensor, "B 3 H W"],
        labels: UInt8[Tensor, "B H W"],
        targets: Targets | None,
        contrast: Contrast | None,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Weighted terms of L_s; with `targets` also of L_u, with `contrast` (of this step) also L_c. One forward pass serves all.

        Raises:
            NonFiniteCost: as `supervised_loss` does, or the teacher's representation is not finite.
        """
        settings = self.segmenter.settings
        if targets is None:
            return supervised_loss(self.segmenter(frames), labels, settings, generator, self._semi.likelihood) | self._idle()
        views, crops = targets.strong.shape[:2]
        alter = None
        if views == 2 and self._semi.strong.complementary:
            dealt = torch.rand(crops, generator=generator) < self._semi.strong.complementary
            alter = functools.partial(deal_out_channels, dealt=dealt, generator=generator)
        output = self.segmenter(torch.cat([frames, *targets.strong]), alter)
        terms = supervised_loss(take_images(output, slice(len(frames))), labels, settings, generator, self._semi.likelihood)
        split = targets.split
        for view in range(views):
            own = slice(len(frames) + view * crops, len(frames) + (view + 1) * crops)
            for name, term in unsupervised_loss(take_images(output, own), split, settings, self._semi, generator).items():
                terms[f"unlabelled_{name}"] = terms.get(f"unlabelled_{name}", 0) + term / views
        if contrast is None or self.representation is None:
            return terms | self._idle()
        return terms | {"contrast": contrast.loss(self.representation, output, labels, targets, generator)}

    def _idle(self) -> dict[str, Tensor]:
        """A term of 0 that keeps an unused representation head in the graph: DDP waits for the gradient of every parameter."""
        if self.representation is None:
            return {}
        return {"contrast": 0 * torch.stack([parameter.sum() for parameter in self.representation.parameters()]).sum()}


def deal_out_channels(
    pyramid: Sequence[Float[Tensor, "_ _ _ _"]], dealt: Bool[Tensor, "N"], generator: torch.Generator
) -> list[Float[Tensor, "_ _ _ _"]]:
    """Give each channel of a crop's maps to one of its two strong views, at double strength (UniMatch V2, arXiv 2410.10777).

    Args:
        pyramid: maps of the labelled images, then of the first view's N crops, then of the second's.
        dealt: which crops; the others keep all channels.
        generator: on the CPU.
    """
    count = len(dealt)
    changed = []
    for maps in pyramid:
        first = 2 * torch.randint(2, (count, maps.shape[1]), generator=generator).float()
        first[~dealt] = 1
        factors = torch.ones(maps.shape[:2])
        factors[-2 * count : -count], factors[-count:] = first, 2 - first
        changed.append(maps * factors.to(maps.device, maps.dtype)[..., None, None])
    return changed
