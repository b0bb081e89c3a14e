"""A model in training in, a second model with its averaged weights out: the one that is evaluated and saved."""

import copy
import itertools
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
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
        own, new = list(self.module.state_dict().values()), list(model.state_dict().values())
        age = max(step - self._begin, 0)
        size = 1 if any(isinstance(value, DTensor) for value in new) else len(new)  # one whole tensor at a time beside the shared ones
        for begin in range(0, len(new), size):
            self._take_in(own, new, slice(begin, begin + size), age)

    def _take_in(self, own: list[Tensor], new: list[Tensor], part: slice, age: int) -> None:
        values = [value.full_tensor() if isinstance(value, DTensor) else value for value in new[part]]
        averaged, kinds = self._averaged[part], self._ramped[part]
        for ramped, decay in ((True, min(self._decay, (1 + age) / (10 + age))), (False, self._decay)):
            chosen = [floating and kind == ramped for floating, kind in zip(averaged, kinds, strict=True)]
            if any(chosen):
                torch._foreach_lerp_(list(itertools.compress(own[part], chosen)), list(itertools.compress(values, chosen)), 1 - decay)
        for old, value, floating in zip(own[part], values, averaged, strict=True):
            if not floating:
                old.copy_(value)
