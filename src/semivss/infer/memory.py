"""A limit on a process's memory, models and views in; how many windows go through together and how sums are held, out.

What is counted: what the process holds before the models run; weights that are not in memory yet; the activations of one batch, with what
the allocator keeps of freed blocks (`cost/forward_cost.py`); the frames' score maps; pictures and answers that wait in queues. Counting
needs no values and takes about a second.
"""

import contextlib
import ctypes
import functools
import gc
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from semivss.cost.forward_cost import allocator_reserve, forward_cost
from semivss.cost.model_cost import build_meta
from semivss.errors import SemivssError
from semivss.infer.on_demand import ModelOnDemand
from semivss.infer.stream import Fit, FrameModel, frames_together, windows_of
from semivss.infer.views import Size, View, Window, views_from
from semivss.models.bias_memory import biases_of
from semivss.models.segmenter import Segmenter
from semivss.posterior import STRIDE
from semivss.progress import say_once
from semivss.settings import Predict, PseudoLabels
from semivss.wording import megabytes

SPILL = 2 << 30  # bytes of score maps that may wait on disk while models take turns, and ...
SPILLED = 64  # ... frames, each of which is an open file a model
_QUEUED = 16  # pictures and answers that wait to be seen or written, at most
_UNSTEADY = 10_000_000  # bytes that a process holds more or less before its models run, from call to call
_ROOM = 192 << 20  # bytes for everything small, and what the count is off by: up to 75 MB in 160 frames


def resident() -> int:
    """Bytes of this process in memory now."""
    return _status("VmRSS")


def peak() -> int:
    """The most bytes that this process has held."""
    return _status("VmHWM")


def give_back() -> None:
    """Have the C library give back what it keeps of freed memory, where it can (glibc): the next count begins below it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        raise SemivssError("a memory limit needs Linux, where /proc tells what a process holds; leave memory out") from None
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def limit_of(models: Sequence[FrameModel], settings: Predict | PseudoLabels) -> "MemoryLimit | None":
    """The limit that the settings ask for. Raises SemivssError where it cannot be obeyed."""
    if settings.memory is None:
        return None
    probabilities = {"none": 0, "uint8": 1, "float16": 2}[settings.probabilities] if isinstance(settings, Predict) else 0
    window = settings.window if isinstance(settings, PseudoLabels) else 0
    views = views_from(settings.views)
    aligned = isinstance(settings, PseudoLabels) and settings.align
    others = (replace(views[0], scale=1.0, flip=False),) if aligned else ()  # which the alignment looks at
    return MemoryLimit(settings.memory, models, views, settings.precision, others=others, probabilities=probabilities, window=window)


class MemoryLimit:
    """What a process may take, and what its models and views would."""

    def __init__(
        self,
        limit: int,
        models: Sequence[FrameModel],
        views: Sequence[View],
        precision: str,
        *,
        others: Sequence[View] = (),
        probabilities: int = 0,
        window: int = 0,
    ) -> None:
        """
        Args:
            limit: bytes of the whole process, the interpreter and its libraries included.
            models: those whose needs cannot be counted (exported ones) are taken to need none.
            views: of each frame.
            precision: of the forward pass, 32 or bf16.
            others: views that frames are seen in at another time.
            probabilities: bytes that are written of each probability.
            window: frames on either side that join a distribution.
        """
        self._limit, self._models, self._views, self._precision = limit, models, views, precision
        self._others, self._probabilities, self._window = others, probabilities, window
        self._before = resident()
        self._known = [model for model in models if isinstance(model, Segmenter | ModelOnDemand)]
        self._twins = [build_meta(model.settings, model.label_set, "cpu").eval() for model in self._known]
        self._columns = max((_columns(twin) for twin in self._twins), default=len(models[0].label_set))
        self._activations = functools.cache(self._count_activations)
        self.fit = functools.cache(self._fit)

    def tell(self) -> None:
        """What was really taken."""
        over = peak() - self._limit
        told = f"; {megabytes(over)} too much, for the count was too low: leave more room below the limit" if over > 0 else ""
        say_once(f"memory: {megabytes(peak())} at the most, {megabytes(self._limit)} allowed{told}")

    def _fit(self, size: Size, most: int) -> Fit:
        """For frames of `size`: up to `most` windows at a time, sums in half precision only if they must be.

        Raises SemivssError if the least that is needed is more than the limit.
        """
        batches = [batch for batch in (most, *(1 << power for power in range(most.bit_length(), -1, -1))) if batch <= most]
        tries = [(batch, torch.float32, True) for batch in batches] + [(1, torch.float16, True)]
        if sum(isinstance(model, ModelOnDemand) for model in self._models) > 1:
            tries += [(batch, torch.float32, False) for batch in batches] + [(1, torch.float16, False)]
        for batch, dtype, together in tries:
            needed = self._needed(size, batch, dtype, together)
            if needed <= self._limit:
                self._leave_to_biases(self._limit - needed)
                fit = Fit(batch, dtype, together, self._spilled(size))
                told = f"memory for frames of {size[0]}x{size[1]}: {megabytes(needed)} expected of {megabytes(self._limit)}; {_words(fit)}"
                say_once(told if len(self._known) == len(self._models) else f"{told}; what exported models take is not counted")
                return fit
        least, before = megabytes(needed + _UNSTEADY), megabytes(self._before)
        raise SemivssError(
            f"memory {megabytes(self._limit)} is too little for frames of {size[0]}x{size[1]}: {least} are needed at least, {before} of "
            "them before the models run; allow more, cut smaller windows (views.crop) or take smaller scales"
        )

    def _leave_to_biases(self, room: int) -> None:
        """What is left may hold relative-position biases."""
        memories = [memory for model in self._known if isinstance(model, Segmenter) for memory in biases_of(model)]
        for memory in memories:
            memory.shrink(room // len(memories))

    def _spilled(self, size: Size) -> int:
        """Frames that wait while models take turns."""
        return max(1, min(SPILLED, SPILL // (2 * math.prod(size) * len(self._models[0].label_set) * len(self._models))))

    def _stored(self) -> list[int]:
        """Bytes of the weights that are not in memory for good."""
        pairs = zip(self._known, self._twins, strict=True)
        missing = [twin for model, twin in pairs if isinstance(model, ModelOnDemand) and not model.is_loaded]
        return [sum(tensor.nbytes for tensor in twin.state_dict().values()) for twin in missing]

    def _needed(self, size: Size, batch: int, dtype: torch.dtype, together: bool) -> int:
        classes, pixels = len(self._models[0].label_set), math.prod(size)
        views = (*self._views, *self._others)
        windows = [window for view in views for window in view.windows(size)]
        largest = max(windows, key=lambda window: window.height * window.width)
        chunk = frames_together(batch, windows_of(self._views, size)) if together else 1
        frames = 2 * chunk if together else 1  # those of a batch are read while the next are computed
        total = pixels * classes * dtype.itemsize
        tables = sum(map(self._table, windows))
        maps = tables if 4 * tables <= total and together else total + total // 4 + self._table(largest)
        maps = maps * len(self._models) if together else maps + 2 * pixels * classes  # in half precision on its way to disk
        smoothed = 4 * pixels * classes * (2 * self._window + 3) if self._window else 0  # whole distributions, their sum and a warped one
        waiting = 0 if together else pixels * (3 * self._spilled(size) + 2 * classes * len(self._models))
        pictures = 3 * max(math.prod(view.size(size)) for view in views)
        answers = (_QUEUED + 2 * chunk) * pixels * (3 + 7 + classes * self._probabilities)
        stored = self._stored()
        weights = (sum(stored) if together else max(stored)) if stored else 0
        activations = self._activations((largest.height, largest.width), batch) if self._twins else 0
        outputs = 2 * batch * self._table(largest)
        return self._before + weights + activations + outputs + frames * maps + smoothed + waiting + 5 * pictures + answers + _ROOM

    def _table(self, window: Window) -> int:
        """Bytes of a window's maps."""
        return 4 * self._columns * -(-window.height // STRIDE) * -(-window.width // STRIDE)

    def _count_activations(self, window: Size, batch: int) -> int:
        counted = max(forward_cost(twin, window, batch, self._precision).activations for twin in self._twins)
        return counted + allocator_reserve(counted)


def _columns(twin: Segmenter) -> int:
    settings = twin.settings
    return settings.mask2former.queries if settings.head == "mask2former" else len(twin.label_set)


def _words(fit: Fit) -> str:
    windows = "1 window" if fit.batch == 1 else f"{fit.batch} windows"
    halves = ", sums in half precision" if fit.dtype == torch.float16 else ""
    turns = "" if fit.together else f", models take turns every {fit.spilled} frames"
    return f"{windows} at a time{halves}{turns}"
