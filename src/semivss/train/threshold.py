"""Pseudo labels with their entropies in, the cut between reliable and unreliable pixels out, as the recipe and the step say."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from semivss.data.codes import code_of_entropy
from semivss.data.pseudo import PseudoFolder, dataset_thresholds
from semivss.posterior import entropy_percentile, unreliability_threshold, unreliability_thresholds
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


def labels_of_models(
    labels: UInt8[Tensor, "N H W"], doubt: Float[Tensor, "N H W"], stored: Sequence[PseudoFolder] | None
) -> UInt8[Tensor, "N H W"]:
    """The labels without those of frames corrected by hand, which move no percentile."""
    return labels if stored is None else labels.masked_fill(doubt < LEAST, IGNORE)


def surest(alpha: float, labels: UInt8[Tensor, "N H W"], doubt: Float[Tensor, "N H W"], stored: Sequence[PseudoFolder] | None) -> float:
    """The doubt below which lie `alpha` percent of what models labelled: anchors of L_c as in U2PL's code. Arguments as of `cut`."""
    return entropy_percentile(doubt, labels_of_models(labels, doubt, stored), alpha)


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
            by_models, least = (
                labels_of_models(labels, doubt, stored),
                0.0 if stored is None else LEAST,
            )  # what people say is below every cut
            if not threshold.per_class:
                return max(unreliability_threshold(doubt, by_models, alpha), least)
            return unreliability_thresholds(doubt, by_models, alpha, num_classes).clamp_min(least)
