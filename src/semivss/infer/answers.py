"""A frame's scores in, all that is kept of them out, in one pass: labels, codes of the entropy, confidence, likely classes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor

from semivss.data.codes import code_of_entropy
from semivss.infer.score_map import BAND, Scores
from semivss.posterior import pixel_entropy

TOP_STRIDE = BAND  # pixels a side of a cell of the likely classes


@dataclass(frozen=True)
class Answers:
    """What is known of one frame; none = was not asked for."""

    labels: UInt8[np.ndarray, "H W"]  # the most likely class
    codes: UInt16[np.ndarray, "H W"] | None  # of the entropy
    confidence: UInt8[np.ndarray, "H W"] | None  # 255 * largest probability
    top_classes: UInt8[np.ndarray, "K h w"] | None  # most likely first, in cells of TOP_STRIDE pixels a side
    probabilities: np.ndarray | None  # C H W, uint8 (times 1/255) or float16


@torch.inference_mode()
def read_answers(
    scores: Scores,
    *,
    entropy: bool = False,
    confidence: bool = False,
    top_classes: int = 0,
    probabilities: Literal["none", "uint8", "float16"] = "none",
) -> Answers:
    """Labels, and what else is asked for; `top_classes` is the number of likely classes, or as many as there are."""
    found: list[dict[str, np.ndarray]] = []
    for _, p in scores.bands():
        band = {"labels": _most_likely(p)}
        if entropy:
            band["codes"] = code_of_entropy(pixel_entropy(p).cpu().numpy(), p.shape[-1])
        if confidence:
            band["confidence"] = _array((p.amax(-1) * 255).round_().to(torch.uint8))
        if top_classes:
            band["top_classes"] = _likely(p, top_classes)
        match probabilities:
            case "uint8":
                band["probabilities"] = _array((p * 255).round_().to(torch.uint8).permute(2, 0, 1))
            case "float16":
                band["probabilities"] = _array(p.half().permute(2, 0, 1))
        found.append(band)
    joined = {name: np.concatenate([band[name] for band in found], -2) for name in found[0]}
    rest = (joined.get(name) for name in ("codes", "confidence", "top_classes", "probabilities"))
    return Answers(joined["labels"], *rest)


def _most_likely(p: Float[Tensor, "r W C"]) -> UInt8[np.ndarray, "r W"]:
    if p.device.type == "cpu":
        return p.numpy().argmax(-1).astype(np.uint8)  # less than half of torch's time
    return _array(p.argmax(-1).to(torch.uint8))


def _likely(p: Float[Tensor, "r W C"], count: int) -> UInt8[np.ndarray, "K h w"]:
    """Classes with the largest mean probability in each cell."""
    cells = F.avg_pool2d(p.permute(2, 0, 1)[None], TOP_STRIDE, ceil_mode=True, count_include_pad=False)[0]
    return _array(cells.topk(min(count, len(cells)), 0).indices.to(torch.uint8))


def _array(values: Tensor) -> np.ndarray:
    return np.asarray(values.cpu())
