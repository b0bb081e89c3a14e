"""Logits of a classifier whose rows were learned for other classes in, logits of the classes out; probabilities of merged rows add up.

A model of ADE20K has rows for "wall", "house" and "skyscraper"; asked for the classes of VSPW, several rows count for one class. The sum
of their probabilities is exp(l1) + exp(l2) over the same total, so the class's logit is log(exp(l1) + exp(l2)), which no linear
classifier gives. The rows therefore stay as they were learned, and are merged here.
"""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from semivss.full_precision import full_precision

warnings.filterwarnings("ignore", r"index_reduce\(\) is in beta")  # once a process, in the middle of a user's output
NEW_BIAS = -20.0  # of the row of a class that the classifier never learned: probability 2e-9 at most, and yet a full gradient


def merge_rows(logits: Shaped[Tensor, "..."], rows: Sequence[int], classes: int, dim: int = -1) -> Shaped[Tensor, "..."]:
    """Logits of `classes` classes, in float32 at least. A softmax over them gives each class the sum over its rows.

    Args:
        logits: of the rows, along `dim`.
        rows: the class that each row counts for, 0..classes-1; every class has one row at least.
        classes: number of classes.
        dim: of the rows.
    """
    with full_precision(logits):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        index = torch.tensor(rows, device=logits.device)
        shape = list(logits.shape)
        shape[dim] = classes
        peak = logits.new_full(shape, -torch.inf).index_reduce_(dim, index, logits.detach(), "amax")
        sums = logits.new_zeros(shape).index_add_(dim, index, (logits - peak.index_select(dim, index)).exp())
        return peak + sums.log()
