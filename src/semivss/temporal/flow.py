"""Two frames in, optical flow out; maps and a flow in, warped maps and where they are valid out. The one home of the convention.

A flow F from frame a to frame b has two channels, x then y, in pixels of its own grid: what is at p in a is at p + F(p) in b. So maps of b
are brought onto a by reading them at p + F(p) (backward warping, no holes).
"""

from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

_SMALLEST = 48  # pixels a side: OpenCV's DIS reads beyond the coarsest level of narrow pictures


def dis_flow(current: UInt8[np.ndarray, "H W 3"], reference: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "2 H W"]:
    """Flow from `current` to `reference`, RGB frames of one size: DIS (Kroeger et al. 2016), preset medium, float32 on the CPU."""
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = finder.calc(_grey(current), _grey(reference), None)[: current.shape[0], : current.shape[1]]
    return torch.from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1)))


def _grey(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H2 W2"]:
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    missing = [max(0, _SMALLEST - side) for side in grey.shape]
    return np.pad(grey, [(0, missing[0]), (0, missing[1])], "edge") if any(missing) else grey


def warp(
    maps: Float[Tensor, "B C H W"], flow: Float[Tensor, "B 2 H W"], padding: Literal["border", "zeros"] = "border"
) -> tuple[Float[Tensor, "B C H W"], Bool[Tensor, "B 1 H W"]]:
    """`maps` read bilinearly at p + flow(p), and where that point lies inside the grid.

    Args:
        padding: what lies outside the grid: its edge again (NetWarp), or zeros (DFF).
    """
    height, width = maps.shape[-2:]
    x = flow[:, 0] + torch.arange(width, device=flow.device)
    y = flow[:, 1] + torch.arange(height, device=flow.device)[:, None]
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
    valid = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode=padding, align_corners=False), valid[:, None]
