"""Logits of a classifier whose rows were learned for other classes in, logits of the classes out; probabilities of merged rows add up.

A model of ADE20K has rows for "wall", "house" and "skyscraper"; asked for the classes of VSPW, several rows count for one class. The sum
of their probabilities is exp(l1) + exp(l2) over the same total, so the class's logit is log(exp(l1) + exp(l2)), which no linear
classifier gives. The rows therefore stay as they were learned, and are merged here.
"""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from semivss.full_precision import full_precision


def merge_rows(logits: Shaped[Tensor, "..."], rows: Sequence[int], classes: int, dim: int = -1) -> Shaped[Tensor, "..."]:
    """Logits of `classes` classes, in float32 at least. A softmax over them gives each class the sum over its rows.

    Args:
        logits: of the rows, along `dim`.
        rows: the class that each row counts for, 0..classes-1; every class has one row at least.
        classes: number of classes.
        dim: of the rows.
    """
    dim %= logits.ndim
    groups, places = _groups(tuple(rows), classes, logits.device)
    with full_precision(logits):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # classes of equally many rows at once: no padding, and every row is read once, so the gradient is the same each time on a GPU too
        parts = [torch.unflatten(logits.index_select(dim, index.flatten()), dim, index.shape).logsumexp(dim + 1) for index in groups]
        return torch.cat(parts, dim).index_select(dim, places)


@functools.lru_cache(maxsize=32)
def _groups(rows: tuple[int, ...], classes: int, device: torch.device) -> tuple[tuple[Tensor, ...], Tensor]:
    """Rows of the classes that have 1, 2, ... of them, one line a class; and where each class comes out, all groups in one line."""
    of_class: list[list[int]] = [[] for _ in range(classes)]
    for row, goal in enumerate(rows):
        of_class[goal].append(row)
    members = [[goal for goal in range(classes) if len(of_class[goal]) == count] for count in sorted(set(map(len, of_class)))]
    order = [goal for group in members for goal in group]
    with torch.inference_mode(False):  # what prediction made first must serve training too
        groups = tuple(torch.tensor([of_class[goal] for goal in group], device=device) for group in members)
        return groups, torch.tensor(order, device=device).argsort()
