"""The averaged student of a step in, one of its earlier states out: a second teacher, which errs differently (PrevMatch)."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class PreviousTeachers:
    """The last `most` states of a model, one every `every` steps."""

    def __init__(self, model: nn.Module, most: int, every: int, device: torch.device) -> None:
        """`model` may still lie elsewhere than on `device`, where the kept states are to work."""
        self._template = copy.deepcopy(model).to(device).eval().requires_grad_(False)
        self._most, self._every = most, every
        self._kept: list[nn.Module] = []
        self._seen = -1

    def look(self, model: nn.Module, step: int) -> None:
        """Keep the state that `model` has before optimiser step `step` where it is due; the oldest makes room."""
        if step > 0 and step % self._every == 0 and step != self._seen:
            self._kept = [*self._kept, self._copy(model.state_dict())][-self._most :]
            self._seen = step

    def draw(self, generator: torch.Generator) -> list[nn.Module]:
        """One of the kept states, each as likely; none before the first."""
        if not self._kept:
            return []
        return [self._kept[int(torch.randint(len(self._kept), (), generator=generator))]]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"kept": [model.state_dict() for model in self._kept], "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._kept, self._seen = [self._copy(kept) for kept in state["kept"]], state["seen"]

    def _copy(self, state: Mapping[str, Any]) -> nn.Module:
        model = copy.deepcopy(self._template)
        model.load_state_dict(state)
        return model
