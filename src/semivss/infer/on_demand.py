"""A model folder in, a model out that is in memory only while it is used."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from semivss.accelerator import choose_accelerator, own_device
from semivss.models.folder import read_description
from semivss.models.segmenter import Segmenter
from semivss.tensors import MaskLogits, PixelLogits


class ModelOnDemand:
    """A `FrameModel` that reads its folder when it is first needed. Whoever has not memory enough for all models lets it go after use."""

    training = False

    def __init__(self, folder: Path) -> None:
        """Raises WeightsError for a folder whose description cannot be read."""
        self.folder = folder
        self.settings, self.label_set = read_description(folder)
        self.on_load: Callable[[Segmenter], None] = lambda model: None  # what is done to the model each time it is read
        self._model: Segmenter | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether it is in memory now."""
        return self._model is not None

    @property
    def rule(self) -> str:
        """How its mask votes become a distribution."""
        return self.settings.rule

    def parameters(self) -> Iterator[Tensor]:
        """None while it is not in memory."""
        return iter(()) if self._model is None else self._model.parameters()

    def __call__(self, frames: UInt8[Tensor, "B 3 H W"]) -> MaskLogits | PixelLogits:
        output: MaskLogits | PixelLogits = self.load()(frames)
        return output

    def load(self) -> Segmenter:
        """The model, on the machine's GPU if there is one. Raises WeightsError for damaged weights."""
        if self._model is None:
            self._model = Segmenter.from_pretrained(self.folder).eval()
            self._model.to(own_device(choose_accelerator()))
            self.on_load(self._model)
        return self._model

    def release(self) -> None:
        """Give its memory back."""
        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextmanager
    def lent(self) -> Iterator[Segmenter]:
        """The model, for the length of a block; it stays in memory only if it was there before."""
        there = self._model is not None
        try:
            yield self.load()
        finally:
            if not there:
                self.release()
