"""A batch of unlabelled crops in, the same batch with parts of other crops pasted in out (CutMix, ClassMix, CutOut as in U2PL)."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from semivss.tensors import IGNORE, UnlabelledBatch


def mix(batch: UnlabelledBatch, kind: Literal["none", "cutmix", "classmix", "cutout"], generator: torch.Generator) -> UnlabelledBatch:
    """Strong views, labels and doubts mixed alike; the weak view and what is inside of it stay as they are.

    cutmix pastes a box of half the area from the next crop, classmix the pixels of half of the next crop's classes, cutout erases the
    box: frames 0, labels 255. `labels` must hold what the student is to learn, 255 outside of the frames. A single crop stays: it has no
    next one.

    Args:
        batch: N crops.
        generator: on the CPU; the number of draws depends on N and, for classmix, on the classes.
    """
    size = batch.labels.shape
    match kind:
        case "none":
            return batch
        case "cutout":
            box = boxes(size, generator).to(batch.labels.device)
            return replace(batch, strong=batch.strong.masked_fill(box[:, None], 0), labels=batch.labels.masked_fill(box, IGNORE))
        case "cutmix":
            pasted = boxes(size, generator).to(batch.labels.device)
        case "classmix":
            pasted = class_masks(batch.labels.roll(-1, 0), generator)
    if size[0] == 1:
        return batch
    return replace(
        batch,
        strong=torch.where(pasted[:, None], batch.strong.roll(-1, 1), batch.strong),
        labels=torch.where(pasted, batch.labels.roll(-1, 0), batch.labels),
        doubt=torch.where(pasted, batch.doubt.roll(-1, 0), batch.doubt),
    )


def boxes(size: tuple[int, ...], generator: torch.Generator) -> Bool[Tensor, "N H W"]:
    """One box an image of about half its area: width uniform in W/2..W, the height follows, place uniform."""
    count, height, width = size
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask in masks:
        wide = int(torch.randint(width // 2 + 1, max(width, width // 2 + 2), (), generator=generator))
        high = min(height, round(height * width / 2 / wide))
        top = int(torch.randint(height - high + 1, (), generator=generator))
        left = int(torch.randint(max(width - wide, 0) + 1, (), generator=generator))
        mask[top : top + high, left : left + wide] = True
    return masks


def class_masks(labels: UInt8[Tensor, "N H W"], generator: torch.Generator) -> Bool[Tensor, "N H W"]:
    """The pixels of a random half (rounded up) of each image's classes; pixels of 255 are never chosen."""
    masks = []
    for one in labels:
        present = one.unique()
        present = present[present != IGNORE]
        chosen = present[torch.randperm(len(present), generator=generator)[: (len(present) + 1) // 2].to(present.device)]
        masks.append(torch.isin(one, chosen))
    return torch.stack(masks)
