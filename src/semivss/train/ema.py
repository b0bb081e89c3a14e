"""A model in training in, a second model with its averaged weights out: the one that is evaluated and saved."""

import copy
import itertools
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.distributed.tensor import DTensor

Model = TypeVar("Model", bound=nn.Module)


class AveragedModel(Generic[Model]):
    """Exponential moving average of a model's weights: a += (1 - d) * (w - a) after every step.

    The decay d of weights that start at random grows as (1 + t) / (10 + t) up to its final value, so that short runs are not dominated
    by what they started from. Weights that were trained before want no such ramp: the first, large steps would replace the average that
    labels video. Floating buffers (running statistics) are averaged alike, since they belong to the averaged weights; counters are copied.
    """

    def __init__(self, model: Model, decay: float, *, random: str = "", begin: int = 0) -> None:
        """
        Args:
            decay: final one.
            random: weights whose name begins so start at random; "" = all of them.
            begin: optimiser step from which these are trained; t counts from there.
        """
        self.module: Model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay, self._begin = decay, begin
        values = self.module.state_dict()
        self._averaged = [value.is_floating_point() for value in values.values()]
        self._ramped = [name.startswith(random) for name in values]

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Take in the weights of `model` after optimiser step `step` (from 0); shared ones are put together, since the average is whole."""
        own = list(self.module.state_dict().values())
        new = [value.full_tensor() if isinstance(value, DTensor) else value for value in model.state_dict().values()]
        age = max(step - self._begin, 0)
        for ramped, decay in ((True, min(self._decay, (1 + age) / (10 + age))), (False, self._decay)):
            chosen = [averaged and kind == ramped for averaged, kind in zip(self._averaged, self._ramped, strict=True)]
            if any(chosen):
                torch._foreach_lerp_(list(itertools.compress(own, chosen)), list(itertools.compress(new, chosen)), 1 - decay)
        for old, value, averaged in zip(own, new, self._averaged, strict=True):
            if not averaged:
                old.copy_(value)
