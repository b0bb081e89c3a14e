"""Models and frames in; class distributions out, one a frame, as a stream."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from semivss.data.labels import LabelSet
from semivss.errors import DataError, SemivssError
from semivss.infer.score_map import FusedScores, ScoreMap, Scores
from semivss.infer.views import Size, View, Window
from semivss.tensors import Distribution, MaskLogits, PixelLogits
from semivss.wording import counted

Output = MaskLogits | PixelLogits | Distribution
Frame = UInt8[np.ndarray, "_ _ 3"]  # H, W; they may change from frame to frame


@runtime_checkable
class FrameModel(Protocol):
    """What `stream_distribution` needs of a model; `Segmenter` is one. In evaluation mode, and normalising for itself."""

    @property
    def label_set(self) -> LabelSet: ...

    @property
    def rule(self) -> str: ...

    @property
    def training(self) -> bool: ...

    def parameters(self) -> Iterator[Tensor]: ...

    def __call__(self, frames: UInt8[Tensor, "B 3 H W"]) -> Output: ...


class NotFiniteError(Exception):
    """Number `model` answered frame number `frame` of the stream with NaN or infinite values."""

    def __init__(self, model: int, frame: int) -> None:
        super().__init__(f"model {model + 1} gave values that are not finite for frame {frame + 1}")
        self.model, self.frame = model, frame


@dataclass(frozen=True)
class Fit:
    """How frames of one size are worked on in the memory that there is (`memory.py`)."""

    batch: int  # windows in a forward pass
    dtype: torch.dtype = torch.float32  # of the score maps' sums
    together: bool = True  # all models are in memory at once; else one after the other
    spilled: int = 1  # frames whose score maps wait on disk while models take turns


@dataclass(frozen=True)
class _Piece:
    """One model's answer to one window of one frame."""

    frame: int  # position in the chunk
    model: int
    view: View
    window: Window
    output: Output | None = None  # of this window alone; none = still to be computed


def stream_scores(
    models: Sequence[FrameModel],
    weights: Sequence[float] | None,
    frames: Iterable[Frame],
    views: Sequence[View] = (View(),),
    batch: int = 4,
    precision: str = "32",
    fit: Callable[[Size], Fit] | None = None,
    spill: Path | None = None,
) -> Iterator[Scores]:
    """The class distribution of each frame, in order, on the models' device; each may be read once, by any thread.

    A model's votes are added up over all windows of all views (windows equally, views equally), with flip, scale and windows undone, and
    become a distribution then; the weighted mean over the models is the result. A per-pixel head votes with its softmax. Nothing as large
    as a view's score map is held (`score_map.py`). Frames may differ in size.

    Args:
        models: in evaluation mode. Each gets uint8 frames and normalises for itself.
        weights: one a model, any scale; none = equal.
        frames: RGB.
        views: see `views_from`.
        batch: most windows in a forward pass; windows of equal size run together, across views and, where one frame does not fill
            a batch, across frames.
        precision: "32" leaves the models' forward pass as it is; "bf16" runs it under autocast, with results in float32.
        fit: of frames of a size, instead of `batch`; it may raise SemivssError.
        spill: folder for score maps that wait while models take turns, if `fit` asks for that.

    Raises:
        SemivssError: models with different classes, or weights that are no weights.
        NotFiniteError: a model's answer holds NaN or an infinite value.
    """
    shares = ensemble_shares(models, weights)
    seen = 0
    for chunk, chosen in _chunks(frames, views, fit or (lambda size: Fit(batch))):
        try:
            yield from _fused(models, shares, chunk, views, chosen, precision, spill)
        except NotFiniteError as error:
            raise NotFiniteError(error.model, seen + error.frame) from None
        seen += len(chunk)


def stream_distribution(
    models: Sequence[FrameModel],
    weights: Sequence[float] | None,
    frames: Iterable[Frame],
    views: Sequence[View] = (View(),),
    batch: int = 4,
    precision: str = "32",
) -> Iterator[Float[Tensor, "C _ _"]]:
    """As `stream_scores`, each distribution as one tensor, float32; it sums to 1 in each pixel."""
    return (scores.whole() for scores in stream_scores(models, weights, frames, views, batch, precision))


def ensemble_shares(models: Sequence[FrameModel], weights: Sequence[float] | None) -> list[float]:
    """Weights that sum to 1, one a model. Raises SemivssError as `stream_distribution` does."""
    if not models:
        raise SemivssError("no model given; name at least one model folder")
    for position, model in enumerate(models[1:], 2):
        _same_classes(models[0].label_set, model.label_set, position)
    weights = [1.0] * len(models) if weights is None else list(weights)
    if len(weights) != len(models):
        raise SemivssError(
            f"{counted(len(weights), 'weight')} for {counted(len(models), 'model')}; give one weight a model, such as --weights 2,1"
        )
    if not all(0 <= weight < float("inf") for weight in weights) or sum(weights) <= 0:
        raise SemivssError(f"model weights {', '.join(f'{weight:g}' for weight in weights)} must be finite, not negative and not all 0")
    return [weight / sum(weights) for weight in weights]


def _same_classes(first: LabelSet, other: LabelSet, position: int) -> None:
    if first.names == other.names:
        return
    index = next(
        (i for i, pair in enumerate(zip(first.names, other.names, strict=False)) if pair[0] != pair[1]), min(len(first), len(other))
    )
    names = [label_set.names[index] if index < len(label_set) else "nothing" for label_set in (first, other)]
    raise DataError(
        f"model 1 has {len(first)} classes and model {position} has {len(other)}; they differ first at id {index} "
        f"({names[0]!r} and {names[1]!r}); an ensemble needs models of the same classes"
    )


def _chunks(frames: Iterable[Frame], views: Sequence[View], fit: Callable[[Size], Fit]) -> Iterator[tuple[list[Tensor], Fit]]:
    """Consecutive frames of one size, as many as fill a batch (one frame where its windows fill it alone) or wait for the next model."""
    chunk: list[Tensor] = []
    chosen, room = Fit(1), 1
    for frame in frames:
        image = torch.from_numpy(np.require(frame, requirements=["C", "W"])).permute(2, 0, 1)
        if chunk and chunk[0].shape != image.shape:
            yield chunk, chosen
            chunk = []
        if not chunk:
            size = (image.shape[1], image.shape[2])
            chosen = fit(size)
            room = frames_together(chosen.batch, windows_of(views, size)) if chosen.together else chosen.spilled
        chunk.append(image)
        if len(chunk) >= room:
            yield chunk, chosen
            chunk = []
    if chunk:
        yield chunk, chosen


def windows_of(views: Sequence[View], size: Size) -> int:
    """How many windows of a frame of a size a model sees."""
    return sum(len(view.windows(size)) for view in views)


def frames_together(batch: int, windows: int) -> int:
    """Frames that go through a model together, each of so many windows."""
    return max(1, batch // windows)


def _fused(
    models: Sequence[FrameModel],
    shares: Sequence[float],
    chunk: list[Tensor],
    views: Sequence[View],
    fit: Fit,
    precision: str,
    spill: Path | None,
) -> Iterator[Scores]:
    members: list[list[tuple[float, str, ScoreMap]]] = [[] for _ in chunk]
    for number, model in enumerate(models):
        maps = (
            _votes(number, model, chunk, views, fit, precision)
            if fit.together
            else _in_turn(number, model, chunk, views, fit, precision, spill)
        )
        for frame, votes in enumerate(maps):
            members[frame].append((shares[number], model.rule, votes))
        del maps
    while members:
        yield FusedScores(members.pop(0))


def _in_turn(
    number: int, model: FrameModel, chunk: list[Tensor], views: Sequence[View], fit: Fit, precision: str, spill: Path | None
) -> list[ScoreMap]:
    """As `_votes`, frame by frame; the score maps go to disk, and then the model out of memory, where it can."""
    maps: list[ScoreMap] = []
    for frame, image in enumerate(chunk):
        try:
            maps += _votes(number, model, [image], views, fit, precision)
        except NotFiniteError as error:
            raise NotFiniteError(error.model, frame) from None
        maps[-1].spill(spill)
    if release := getattr(model, "release", None):
        release()
    return maps


def _votes(number: int, model: FrameModel, chunk: list[Tensor], views: Sequence[View], fit: Fit, precision: str) -> list[ScoreMap]:
    """One model's votes on each frame of a chunk."""
    size = (chunk[0].shape[1], chunk[0].shape[2])
    maps: list[ScoreMap] = []
    for piece in _pieces(number, model, chunk, views, fit.batch, precision):
        assert piece.output is not None
        # after the first forward pass, for a model that is read on demand has no device before
        maps = maps or [ScoreMap(size, len(model.label_set), device_of(model), fit.dtype) for _ in chunk]
        maps[piece.frame].add(piece.output, piece.view, piece.window, 1 / len(views))
    return maps


def _pieces(number: int, model: FrameModel, chunk: list[Tensor], views: Sequence[View], batch: int, precision: str) -> Iterator[_Piece]:
    """All pieces of a chunk with one model's outputs; windows of equal size go through it together."""
    size = (chunk[0].shape[1], chunk[0].shape[2])
    jobs = [_Piece(frame, number, view, window) for frame in range(len(chunk)) for view in views for window in view.windows(size)]
    jobs.sort(key=lambda job: (job.window.height, job.window.width))
    for _, group in itertools.groupby(jobs, key=lambda job: (job.window.height, job.window.width)):
        for together in _batched(group, batch):
            yield from _forward(model, together, chunk, precision)


def _batched(items: Iterable[_Piece], size: int) -> Iterator[list[_Piece]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


@torch.inference_mode()
def _forward(model: FrameModel, jobs: list[_Piece], chunk: list[Tensor], precision: str) -> list[_Piece]:
    assert not model.training, "call model.eval() before predicting"
    frames = _cut(jobs, chunk).to(device_of(model))
    if precision == "bf16":  # entered here, for what is set in a generator stays set outside it
        with torch.autocast(frames.device.type, torch.bfloat16):
            output = _in_float32(model(frames))
    else:
        output = model(frames)
    answered = [replace(job, output=_one(output, index)) for index, job in enumerate(jobs)]
    for job in answered if not _is_finite(output) else ():
        assert job.output is not None
        if not _is_finite(job.output):
            raise NotFiniteError(job.model, job.frame)
    return answered


def device_of(model: FrameModel) -> torch.device:
    """Where the weights lie; the CPU for a model that has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _in_float32(output: Output) -> Output:
    match output:
        case PixelLogits():
            return replace(output, logits=output.logits.float())
        case MaskLogits():
            return replace(output, class_logits=output.class_logits.float(), mask_logits=output.mask_logits.float())
        case Distribution():
            return Distribution(output.p.float())


def _is_finite(output: Output) -> bool:
    match output:
        case PixelLogits():
            return bool(output.logits.isfinite().all())
        case MaskLogits():
            return bool(output.class_logits.isfinite().all()) and bool(output.mask_logits.isfinite().all())
        case Distribution():
            return bool(output.p.isfinite().all())


def _cut(jobs: list[_Piece], chunk: list[Tensor]) -> UInt8[Tensor, "B 3 h w"]:
    """The jobs' windows as one batch; a view's picture is made once for its consecutive windows."""
    windows = []
    made: tuple[int, View] | None = None
    for job in jobs:
        if made != (job.frame, job.view):
            made, picture = (job.frame, job.view), job.view.apply(chunk[job.frame])
        w = job.window
        windows.append(picture[:, w.top : w.top + w.height, w.left : w.left + w.width])
    return torch.stack(windows)


def _one(output: Output, index: int) -> Output:
    """Number `index` of a batch, without what only the loss needs."""
    own = slice(index, index + 1)
    match output:
        case PixelLogits():
            return PixelLogits(output.logits[own], output.pixel_features[own], output.rows)
        case MaskLogits():
            return MaskLogits(output.class_logits[own], output.mask_logits[own], output.pixel_features[own])
        case Distribution():
            return Distribution(output.p[own])
