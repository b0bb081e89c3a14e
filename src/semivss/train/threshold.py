"""Pseudo labels with their entropies in, the cut between reliable and unreliable pixels out, as the recipe and the step say."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from semivss.data.codes import code_of_entropy
from semivss.data.pseudo import PseudoFolder, dataset_thresholds
from semivss.posterior import unreliability_threshold, unreliability_thresholds
from semivss.settings import Threshold
from semivss.tensors import IGNORE

LEAST = 1.0  # code above that of a frame corrected by hand, which is 0


def alpha_at(threshold: Threshold, step: int, steps: int) -> float:
    """Percent of unreliable pixels in optimiser step `step` of `steps` (arXiv 2203.03884: alpha_0 (1 - t / T))."""
    match threshold.schedule:
        case "constant":
            return threshold.alpha
        case "linear":
            return threshold.alpha * (1 - step / steps)


def cut(
    threshold: Threshold,
    alpha: float,
    labels: UInt8[Tensor, "N H W"],
    doubt: Float[Tensor, "N H W"],
    num_classes: int,
    stored: Sequence[PseudoFolder] | None,
) -> float | Shaped[Tensor, "C"]:
    """What `posterior.split_labels` takes as gamma: one number, or one a class. A doubt at the cut or above it is unreliable.

    Args:
        alpha: from `alpha_at`.
        labels: pseudo labels of the batch, 255 = none.
        doubt: codes of the entropy where `stored` is given, nats otherwise.
        stored: the folders that the labels come from.
    """
    match threshold.kind:
        case "absolute":
            return threshold.gamma if stored is None else max(float(code_of_entropy(threshold.gamma, num_classes)), LEAST)
        case "dataset_percentile":
            assert stored is not None, "the recipe refuses dataset percentiles without stored labels"
            codes = dataset_thresholds(stored, alpha, threshold.per_class)
            return torch.tensor(codes, dtype=torch.float32, device=labels.device).clamp_min(LEAST)
        case "batch_percentile":
            unsure = labels if stored is None else labels.masked_fill(doubt < LEAST, IGNORE)  # corrected by hand: moves no threshold
            least = 0.0 if stored is None else LEAST  # and is below every one
            if not threshold.per_class:
                return max(unreliability_threshold(doubt, unsure, alpha), least)
            return unreliability_thresholds(doubt, unsure, alpha, num_classes).clamp_min(least)
