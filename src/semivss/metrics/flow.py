"""A folder of predictions and one of optical flow in, TC out: how far neighbouring predictions agree along the flow."""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from semivss.data.clips import Clip, VideoDataset
from semivss.data.images import read_mask
from semivss.errors import DataError, DefectError
from semivss.metrics.confusion import Confusion
from semivss.metrics.consistency import FlowConsistency
from semivss.metrics.gather import gathered
from semivss.progress import track
from semivss.ranks import rank, world_size


@dataclass(frozen=True)
class FlowScore:
    """TC as a fraction, none without a pair, and the number of pairs it was taken over."""

    tc: float | None
    pairs: int


def score_flow(predictions: Path, dataset: VideoDataset, flow: Path) -> FlowScore:
    """TC of <predictions>/<video>/<stem>.png over all pairs of neighbouring frames of all videos; no mask is opened.

    Args:
        flow: `flow` of <flow>/<video>/<stem>.npz, or of <flow>/data/<video>/flow/<stem>.npz as `semivss data toy --flow` writes it: float
            2 H W (x, y in pixels) from frame <stem> to the next one. The last frame of a video needs none.

    Raises:
        DataError: a prediction or flow file is missing, damaged, or does not fit the others in size.
    """
    return _total(dataset, [_counts(predictions, dataset, flow)])


def score_flow_together(predictions: Path, dataset: VideoDataset, flow: Path) -> FlowScore | None:
    """As `score_flow`, with the videos dealt out to the processes that torchrun has started: the first has the score, the others none."""
    parts = gathered(lambda: _counts(predictions, dataset, flow, rank(), world_size()))
    return None if parts is None else _total(dataset, parts)


def _counts(predictions: Path, dataset: VideoDataset, flow: Path, first: int = 0, step: int = 1) -> Confusion:
    """Of every `step`-th video from number `first` on."""
    consistency, own = FlowConsistency(len(dataset.label_set)), dataset.clips[first::step]
    steps = (step for clip in own for step in _video(predictions, clip, flow, consistency))
    for _ in track(steps, f"TC of {dataset.name}", total=_pairs(own), unit="pairs"):
        pass
    return consistency.confusion


def _total(dataset: VideoDataset, parts: Sequence[Confusion]) -> FlowScore:
    return FlowScore(sum(parts, Confusion(len(dataset.label_set))).scores().miou, _pairs(dataset.clips))


def _pairs(clips: Sequence[Clip]) -> int:
    return sum(max(len(clip.stems) - 1, 0) for clip in clips)


def _video(predictions: Path, clip: Clip, flow: Path, consistency: FlowConsistency) -> Iterator[None]:
    before: np.ndarray | None = None
    for index, stem in enumerate(clip.stems):
        path = predictions / clip.name / f"{stem}.png"
        try:
            now = read_mask(path)
        except DefectError as error:
            raise DataError(f"{path}: {error.detail}; run predict again") from error
        if before is not None:
            field = read_flow(flow, clip.name, clip.stems[index - 1])
            try:
                consistency.update(before, now, field)
            except DataError as error:
                raise DataError(f"{clip.name}/{clip.stems[index - 1]}: {error}") from error
            yield
        before = now


def read_flow(folder: Path, video: str, stem: str) -> Float32[np.ndarray, "2 H W"]:
    """The flow of one frame; see `score_flow`. Raises DataError."""
    path = folder / video / f"{stem}.npz"
    if not path.is_file() and (toy := folder / "data" / video / "flow" / f"{stem}.npz").is_file():
        path = toy
    remedy = "give a folder of <video>/<stem>.npz with `flow`, 2 x height x width numbers"
    try:
        with np.load(path, allow_pickle=False) as file:
            field = np.asarray(file["flow"], np.float32)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no flow for this frame; {remedy}") from error
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not readable as flow ({type(error).__name__}); {remedy}") from error
    if field.ndim != 3 or len(field) != 2 or not np.isfinite(field).all():
        raise DataError(f"{path}: its flow has the shape {field.shape} or numbers that are not finite; {remedy}")
    return field
