"""Logits and labels at shared points in, the best one-to-one assignment of queries to classes out.

Letters: B images, L decoder layers, Q queries, T target classes of an image (padded to the batch's largest), K points.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from semivss.losses.whole_batch import processes, summed


class NonFiniteCost(ArithmeticError):  # noqa: N818, says what is wrong with which quantity
    """Logits are NaN or infinite, so that no assignment has a meaning. Skip the step and count it; ten in a row mean divergence."""


@dataclass(frozen=True)
class Matches:
    """M matched pairs of all layers and images in one list, sorted by image."""

    layer: Int64[Tensor, "M"]
    image: Int64[Tensor, "M"]
    query: Int64[Tensor, "M"]
    target: Int64[Tensor, "M"]  # class id
    counts: tuple[int, ...]  # pairs of each image, known without asking the device


@torch.no_grad()
def matching_costs(
    logits: Float[Tensor, "B K L Q"],
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
    points, queries = logits.shape[1], logits.shape[2:]
    masks = logits.sigmoid()
    # BCE(x, y) = softplus(x) - x y: one product serves all pairs
    at_targets, in_targets = (torch.unflatten(targets @ part.flatten(2), 2, queries).permute(0, 2, 3, 1) for part in (logits, masks))
    bce = (F.softplus(logits).sum(1)[..., None] - at_targets) / points
    dice = 1 - (2 * in_targets + 1) / (masks.sum(1)[..., None] + targets.sum(-1)[:, None, None] + 1)
    return -weights[0] * probabilities + weights[1] * bce + weights[2] * dice


def match(costs: Float[Tensor, "B L Q T"], classes: list[list[int]]) -> tuple[Matches, Float[Tensor, ""]]:
    """The cheapest assignment of all layers and images, and what their sums are divided by: the target masks of a process, averaged over
    all processes.

    The device is asked once: costs, and whether any of them is not finite on any process, come in one copy.

    Args:
        costs: only the first len(classes[b]) columns of image b count.
        classes: target class ids of each image.

    Raises:
        NonFiniteCost: on every process, when a cost is not finite on any of them: they skip the step together.
    """
    masks = costs.new_full((), sum(map(len, classes)))
    report = summed(torch.stack([masks, (~costs.isfinite()).any().to(costs.dtype)]))
    copy = torch.cat([costs.flatten(), report[1:]]).cpu()
    if copy[-1] > 0:
        raise NonFiniteCost("the logits of this batch are NaN or infinite")
    return assign(copy[:-1].view(costs.shape), classes, costs.device), report[0].clamp_min(1) / processes()


def assign(costs: Float[Tensor, "B L Q T"], classes: list[list[int]], device: torch.device | None = None) -> Matches:
    """The cheapest one-to-one assignment for each image and layer: min(Q, number of classes) pairs each.

    Args:
        costs: finite, on the CPU; columns as in `match`.
        classes: as in `match`.
        device: of the result; none = the CPU.
    """
    table = costs.numpy()
    pairs: list[tuple[int, int, int, int]] = []
    counts = []
    for image, ids in enumerate(classes):
        before = len(pairs)
        for layer in range(table.shape[1] if ids else 0):
            queries, columns = linear_sum_assignment(table[image, layer, :, : len(ids)])
            pairs += [(layer, image, int(query), ids[column]) for query, column in zip(queries, columns, strict=True)]
        counts.append(len(pairs) - before)
    layers, images, chosen, targets = torch.tensor(pairs, dtype=torch.int64).view(-1, 4).to(device).unbind(1)
    return Matches(layers, images, chosen, targets, tuple(counts))
