"""Logits and labels at shared points in, the best one-to-one assignment of queries to classes out.

Letters: B images, L decoder layers, Q queries, T target classes of an image (padded to the batch's largest), K points.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class NonFiniteCost(ArithmeticError):  # noqa: N818, says what is wrong with which quantity
    """Logits are NaN or infinite, so that no assignment has a meaning. Skip the step and count it; ten in a row mean divergence."""


@dataclass(frozen=True)
class Matches:
    """M matched pairs of all layers and images in one list, sorted by image."""

    layer: Int64[Tensor, "M"]
    image: Int64[Tensor, "M"]
    query: Int64[Tensor, "M"]
    target: Int64[Tensor, "M"]  # class id


@torch.no_grad()
def matching_costs(
    logits: Float[Tensor, "B L Q K"],
    targets: Float[Tensor, "B T K"],
    probabilities: Float[Tensor, "B L Q T"],
    weights: tuple[float, float, float],
) -> Float[Tensor, "B L Q T"]:
    """Weighted sum of -probability, mean binary cross-entropy and dice loss for each query and target, over the points given.

    Args:
        logits: mask logits at the points.
        targets: 1 where a point lies on the target's class.
        probabilities: of each target's class, by each query.
        weights: of class, mask and dice.
    """
    points = logits.shape[-1]
    transposed = targets[:, None].transpose(-1, -2)
    # BCE(x, y) = softplus(x) - x y: one product serves all pairs
    bce = (F.softplus(logits).sum(-1, keepdim=True) - logits @ transposed) / points
    masks = logits.sigmoid()
    dice = 1 - (2 * masks @ transposed + 1) / (masks.sum(-1, keepdim=True) + targets.sum(-1)[:, None, None] + 1)
    return -weights[0] * probabilities + weights[1] * bce + weights[2] * dice


def mean_count(count: int, costs: Tensor) -> Tensor:
    """Number of target masks of a process' batch, averaged over all processes, at least 1.

    Raises:
        NonFiniteCost: on every process, when a cost is not finite on any of them: they skip the step together.
    """
    report = torch.stack([costs.new_tensor(float(count)), (~costs.isfinite()).any().float()])
    processes = 1
    if dist.is_available() and dist.is_initialized():
        processes = dist.get_world_size()
        dist.all_reduce(report)
    if report[1] > 0:
        raise NonFiniteCost("the logits of this batch are NaN or infinite")
    return (report[0] / processes).clamp_min(1)


def assign(costs: Float[Tensor, "B L Q T"], classes: list[list[int]]) -> Matches:
    """The cheapest one-to-one assignment for each image and layer: min(Q, number of classes) pairs each.

    Args:
        costs: finite; only the first len(classes[b]) columns of image b count.
        classes: target class ids of each image.
    """
    table = costs.cpu().numpy()  # one copy for all layers and images
    pairs: list[tuple[int, int, int, int]] = []
    for image, ids in enumerate(classes):
        for layer in range(table.shape[1] if ids else 0):
            queries, columns = linear_sum_assignment(table[image, layer, :, : len(ids)])
            pairs += [(layer, image, int(query), ids[column]) for query, column in zip(queries, columns, strict=True)]
    return Matches(*torch.tensor(pairs, dtype=torch.int64).view(-1, 4).to(costs.device).unbind(1))
