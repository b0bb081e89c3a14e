"""A model in training in, a second model with its averaged weights out: the one that is evaluated and saved."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class AveragedModel(Generic[Model]):
    """Exponential moving average of a model's weights: a += (1 - d) * (w - a) after every step.

    With `ramp` the decay d grows as (1 + t) / (10 + t) up to its final value, so that short runs are not dominated by random initial
    weights. A model that starts from trained weights wants none: its first, large steps would replace the average that labels video.
    Floating buffers (running statistics) are averaged alike, since they belong to the averaged weights; counters are copied.
    """

    def __init__(self, model: Model, decay: float, *, ramp: bool = True) -> None:
        self.module: Model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay, self._ramp = decay, ramp

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Take in the weights of `model` after optimiser step `step` (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step)) if self._ramp else self._decay
        new = list(model.state_dict().values())
        own = list(self.module.state_dict().values())
        floating = [old.is_floating_point() for old in own]
        torch._foreach_lerp_(_where(own, floating), _where(new, floating), 1 - decay)
        for old, value, is_floating in zip(own, new, floating, strict=True):
            if not is_floating:
                old.copy_(value)


def _where(tensors: list[Tensor], chosen: list[bool]) -> list[Tensor]:
    return [tensor for tensor, wanted in zip(tensors, chosen, strict=True) if wanted]
