"""A model that trains in bfloat16 on a CPU in; the same model, whose depthwise convolutions stay in float32.

torch's gradient of a depthwise convolution takes twice to three times as long in bfloat16 on a CPU as in float32 where its kernel is
larger than 3 x 3, with or without matrix instructions: nothing is multiplied there that these could speed up.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def keep_depthwise_exact(model: nn.Module) -> None:
    """Run them without autocast while gradients are wanted. Parameters' names stay; a deep copy computes with its own weights."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels:
            setattr(module, "forward", partial(_exactly, module.forward))  # noqa: B010  # as in models/recompute.py


def _exactly(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(x)
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float())
