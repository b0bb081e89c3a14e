"""A video's frames with their class distributions in; the same frames with the mean over their neighbours out, as a stream.

Neighbours are brought onto the frame by optical flow (`flow.py`).
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from semivss.temporal.flow import dis_flow, warp


class Labelled(NamedTuple):
    """A frame of a video and what models say of it."""

    stem: str
    frame: UInt8[np.ndarray, "H W 3"]  # RGB
    p: Float[Tensor, "C H W"]  # sums to 1 in each pixel


def window_mean(items: Iterable[Labelled], reach: int) -> Iterator[Labelled]:
    """Replace each distribution by the mean of its own and those of up to `reach` frames on either side, warped onto it.

    All count equally, a neighbour where the flow stays inside the picture: a further test, of the way there and back, kept no more pixels
    right. At the ends of a video there are fewer neighbours, and one of another size is left out. `reach` 0 gives the items back as they
    are. Each result sums to 1 in each pixel. 2 * reach + 1 frames are held with their full-size distributions: cells of 4 x 4 pixels
    would take less, but cost more mIoU than the window brings (docs/pseudo_labels.md).
    """
    if not reach:
        yield from items
        return
    past: deque[Labelled] = deque(maxlen=reach)
    ahead: deque[Labelled] = deque()
    for item in items:
        ahead.append(item)
        if len(ahead) > reach:
            yield _next(past, ahead)
    while ahead:
        yield _next(past, ahead)


def _next(past: deque[Labelled], ahead: deque[Labelled]) -> Labelled:
    """Take the oldest frame of `ahead` over into `past`, with its mean."""
    current = ahead.popleft()
    near = [other for other in (*past, *ahead) if other.frame.shape == current.frame.shape]
    past.append(current)
    return current._replace(p=_mean(current, near))


@torch.inference_mode()
def _mean(current: Labelled, neighbours: Sequence[Labelled]) -> Float[Tensor, "C H W"]:
    total, count = current.p.clone(), torch.ones_like(current.p[:1])
    for other in neighbours:
        flow = dis_flow(current.frame, other.frame).to(total.device)
        warped, inside = warp(other.p[None], flow[None])
        total += warped[0].mul_(inside[0])
        count += inside[0]
    return total.div_(count)
