"""The contrastive loss as one would first write it: a loop over classes, boolean masks, a list of queues that grow by concatenation.

The peer of `contrastive_speed.py`. It takes and gives what `semivss.losses.contrastive` does with rows of the queues drawn afresh for each
anchor, every new key kept, and 30,000 rows a class.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from semivss.losses.contrast_sets import RankWindow, Regions


class PlainContrast:
    """Queues of all classes, and the loss."""

    def __init__(self, queues: list[Tensor], size: int, window: RankWindow, confidence: float, anchors: int, negatives: int) -> None:
        self.queues, self.size, self.window, self.confidence = queues, size, window, confidence
        self.anchors, self.negatives = anchors, negatives

    def __call__(self, z: Tensor, teacher: Tensor, p: Tensor, cells: Regions) -> Tensor:
        student, keys, order = z.permute(0, 2, 3, 1), teacher.permute(0, 2, 3, 1), p.permute(0, 2, 3, 1).argsort(dim=-1, descending=True)
        losses, present = [], 0
        for number in range(p.shape[1]):
            self._enqueue(number, keys[self._negative(number, order, cells)])
            positive = (cells.labels == number) & cells.sure
            if positive.any():
                present += 1
                anchor = positive & (p[:, number] > self.confidence)
                if anchor.any() and len(self.queues[number]):
                    losses.append(self._info_nce(student[anchor], keys[positive].mean(0), self.queues[number]))
        return sum(losses) / present

    def _negative(self, number: int, order: Tensor, cells: Regions) -> Tensor:
        """Pixels that are negatives of a class."""
        confusable = (order[: cells.labelled, ..., : self.window.low] == number).any(-1) & (cells.labels[: cells.labelled] != number)
        unlikely = (order[cells.labelled :, ..., self.window.low : self.window.high] == number).any(-1)
        return torch.cat([confusable, unlikely]) & cells.unsure

    def _enqueue(self, number: int, rows: Tensor) -> None:
        self.queues[number] = torch.cat([self.queues[number], rows])[-self.size :]

    def _info_nce(self, candidates: Tensor, mean: Tensor, queue: Tensor) -> Tensor:
        drawn = candidates[torch.randint(len(candidates), (self.anchors,))]
        rows = queue[torch.randint(len(queue), (self.anchors * self.negatives,))].view(self.anchors, self.negatives, -1)
        others = torch.cat([mean.expand(self.anchors, 1, -1), rows], 1)
        scores = F.cosine_similarity(drawn[:, None], others, dim=2) / 0.5
        return F.cross_entropy(scores, torch.zeros(self.anchors, dtype=torch.int64))
