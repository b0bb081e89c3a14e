"""Models in, the same models out, with a clock that runs while one of them computes."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from semivss.data.labels import LabelSet
from semivss.infer.on_demand import ModelOnDemand
from semivss.infer.stream import FrameModel, Output


class ModelClock:
    """Seconds inside models since it was made, and since when."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.inside = 0.0

    def seconds(self) -> float:
        """Wall time since the clock was made."""
        return time.perf_counter() - self.began

    def share(self) -> float:
        """The part of the wall time, 0..1, that was spent inside models."""
        return self.inside / max(self.seconds(), 1e-9)


class TimedModel:
    """A model whose forward passes `clock` counts. Implements `FrameModel`; whatever else it is asked for comes from the model."""

    def __init__(self, model: FrameModel, clock: ModelClock) -> None:
        self._model, self._clock = model, clock

    @property
    def label_set(self) -> LabelSet:
        return self._model.label_set

    @property
    def rule(self) -> str:
        return self._model.rule

    @property
    def training(self) -> bool:
        return self._model.training

    def parameters(self) -> Iterator[Tensor]:
        return self._model.parameters()

    def __call__(self, frames: UInt8[Tensor, "B 3 H W"]) -> Output:
        if isinstance(self._model, ModelOnDemand):
            self._model.load()  # reading a folder is no computing
        began = time.perf_counter()
        try:
            return self._model(frames)
        finally:
            if frames.device.type == "cuda":
                torch.cuda.synchronize(frames.device)  # the call comes back before the GPU has computed
            self._clock.inside += time.perf_counter() - began

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
