"""A folder of predictions and a data set with masks in, every score out, one frame in memory at a time."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from semivss.data.clips import Clip, VideoDataset
from semivss.data.files import FileClip
from semivss.data.images import read_mask
from semivss.data.labels import IGNORE
from semivss.data.policy import DefectCounter, Policy, read_labels
from semivss.errors import DataError, DefectError
from semivss.metrics.confusion import Confusion, size_text
from semivss.metrics.consistency import VideoConsistency, Windows, window_mean
from semivss.metrics.gather import gathered
from semivss.metrics.scores import Consistency, Scores, VideoScores, render
from semivss.progress import track
from semivss.ranks import rank, world_size
from semivss.settings import Score

__all__ = ["Scores", "render", "score_folder", "score_together"]

Missing = Literal["error", "wrong"]


def score_folder(
    predictions: Path, dataset: VideoDataset, settings: Score, policy: Policy = "strict", missing: Missing = "error"
) -> Scores:
    """Score <predictions>/<video>/<stem>.png against every labelled frame of `dataset`, in the order of its frames.

    Args:
        policy: what a damaged mask of the ground truth does. A damaged prediction is always an error.
        missing: "wrong" scores the pixels of missing predictions as wrong instead of stopping.

    Raises:
        DataError: there is no such folder, or no labelled frame; the predictions' manifest names other classes; or a prediction is
            missing, unreadable or of another size than its mask.
    """
    task = _task(predictions, dataset, settings, policy, missing)
    return task.total([task.part()])


def score_together(
    predictions: Path, dataset: VideoDataset, settings: Score, policy: Policy = "strict", missing: Missing = "error"
) -> Scores | None:
    """As `score_folder`, with the videos dealt out to the processes that torchrun has started: the first has the scores, the others none.

    Counts are integers and means exact, so that the number of processes changes no bit of them.
    """
    parts = gathered(lambda: _task(predictions, dataset, settings, policy, missing).part(rank(), world_size()))
    return None if parts is None else _task(predictions, dataset, settings, policy, missing).total(parts)


def _task(predictions: Path, dataset: VideoDataset, settings: Score, policy: Policy, missing: Missing) -> "_Task":
    if not predictions.is_dir():
        raise DataError(f"{predictions}: no such folder; give the one that semivss predict wrote, or <video>/<stem>.png of anybody")
    frames = [(clip, [index for index in range(len(clip.stems)) if clip.is_labelled(index)]) for clip in dataset.clips]
    total = sum(len(indices) for _, indices in frames)
    if not total:
        raise DataError(f"data set {dataset.name}: no frame has a mask to score against; choose a split or a set with masks")
    _check_classes(predictions / "manifest.json", dataset)
    gone = _missing(predictions, frames)
    if gone and missing == "error":
        raise DataError(_missing_line(predictions, gone, total))
    return _Task(predictions, dataset, settings, policy, dict.fromkeys(gone), [(clip, indices) for clip, indices in frames if indices])


def _check_classes(manifest: Path, dataset: VideoDataset) -> None:
    """Ids of other classes would be compared without a sign. Predictions from elsewhere have no such manifest: taken as they are."""
    if not manifest.is_file():
        return
    try:
        classes = tuple(json.loads(manifest.read_bytes()).get("classes", dataset.label_set.names))
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{manifest}: not readable as a manifest of predictions; run predict again, or remove it") from error
    if classes != dataset.label_set.names:
        theirs, ours = f"{len(classes)} classes ({', '.join(classes[:3])}, ...)", f"{len(dataset.label_set)} of {dataset.label_set.name}"
        remedy = "bring them to its classes with `semivss data remap --source-ids`, or score against the model's own data"
        raise DataError(f"{manifest}: predictions of {theirs}, but {dataset.name} has the {ours}; {remedy}")


def _missing(predictions: Path, frames: list[tuple[Clip, list[int]]]) -> list[str]:
    gone = []
    for clip, indices in frames:
        folder = predictions / clip.name
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        gone += [f"{clip.name}/{clip.stems[index]}" for index in indices if f"{clip.stems[index]}.png" not in there]
    return gone


def _missing_line(predictions: Path, gone: list[str], total: int) -> str:
    some = ", ".join(f"{name}.png" for name in gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
    remedy = "run predict again, or count them as wrong with --missing wrong"
    return f"{predictions}: {len(gone)} of {total} predictions are missing: {some}; {remedy}"


@dataclass
class _Part:
    """What was counted in some videos."""

    confusion: Confusion
    videos: list[tuple[VideoScores, dict[int, Windows]]] = field(default_factory=list)  # with their windows by length
    missing_pixels: int = 0
    defects: DefectCounter = field(default_factory=DefectCounter)


class _Task:
    """Videos to score, and how."""

    def __init__(
        self,
        predictions: Path,
        dataset: VideoDataset,
        settings: Score,
        policy: Policy,
        gone: dict[str, None],
        frames: Sequence[tuple[Clip, list[int]]],
    ) -> None:
        self.predictions, self.dataset, self.settings, self.policy = predictions, dataset, settings, policy
        self.gone, self.frames = gone, frames  # <video>/<stem> without a prediction, in order; labelled frames

    def part(self, first: int = 0, step: int = 1) -> _Part:
        """Score every `step`-th video from number `first` on."""
        own, part = self.frames[first::step], _Part(Confusion(len(self.dataset.label_set)))
        steps = (frame for clip, indices in own for frame in self._video(clip, indices, part))
        for _ in track(steps, f"scoring {self.dataset.name}", total=sum(len(indices) for _, indices in own)):
            pass
        return part

    def _video(self, clip: Clip, indices: list[int], part: _Part) -> Iterator[None]:
        """Score one video into `part`, a step a frame."""
        confusion, consistency = Confusion(part.confusion.num_classes), VideoConsistency(self.settings.vc)
        stems: list[str] = []
        frame_miou: list[float | None] = []
        for index in indices:
            truth, defects = read_labels(clip, index, self.policy)
            part.defects.add(defects)
            if truth is not None:
                here = f"{clip.name}/{clip.stems[index]}" not in self.gone
                frame = self._frame(clip, index, truth, consistency, here)
                part.missing_pixels += 0 if here else frame.labelled_pixels
                confusion += frame
                stems.append(clip.stems[index])
                frame_miou.append(frame.scores().miou)
            yield
        part.confusion += confusion
        parts = tuple(_consistency(n, windows.ratios(), windows.ratios(correct=True)) for n, windows in consistency.windows.items())
        own = confusion.scores()
        four = (own.acc, own.acc_class, own.miou, own.weighted_iou)
        part.videos.append((VideoScores(clip.name, *four, parts, tuple(stems), tuple(frame_miou)), consistency.windows))

    def _frame(self, clip: Clip, index: int, truth: UInt8[np.ndarray, "H W"], consistency: VideoConsistency, here: bool) -> Confusion:
        stem = clip.stems[index]
        prediction = _read_prediction(self.predictions / clip.name / f"{stem}.png", truth) if here else None
        frame = Confusion(len(self.dataset.label_set))
        try:
            frame.update(truth, np.full_like(truth, IGNORE) if prediction is None else prediction)
            consistency.update(truth, prediction, _raw(clip, index) if self.settings.vc_labels == "raw" else None)
        except DataError as error:
            raise DataError(f"{clip.name}/{stem}: {error}") from error
        if not here:
            frame.counts[-1, -1] = 0  # ignored pixels of a missing file are nobody's invalid prediction
        return frame

    def total(self, parts: Sequence[_Part]) -> Scores:
        """The scores of all videos, which were dealt out to the parts in turn."""
        counts, defects = Confusion(len(self.dataset.label_set)), DefectCounter(self.dataset.defects)
        for part in parts:
            counts += part.confusion
            defects.merge(part.defects)
        missing_pixels = sum(part.missing_pixels for part in parts)
        turns = zip_longest(*(part.videos for part in parts))
        videos, windows = zip(*(video for turn in turns for video in turn if video is not None), strict=True)
        return Scores(
            dataset=self.dataset.name,
            classes=self.dataset.label_set.names,
            overall=counts.scores(),
            vc=tuple(_consistency(n, *_ratios([by_length[n] for by_length in windows])) for n in self.settings.vc),
            vc_labels=self.settings.vc_labels,
            mean_video_miou=window_mean([video.miou for video in videos]),
            mean_video_weighted_iou=window_mean([video.weighted_iou for video in videos]),
            videos=videos,
            frames=sum(len(video.stems) for video in videos),
            labelled_pixels=counts.labelled_pixels,
            invalid_pixels=counts.invalid_pixels - missing_pixels,
            invalid_ignored_pixels=counts.invalid_ignored_pixels,
            missing=tuple(self.gone),
            missing_pixels=missing_pixels,
            defects=defects.counts(),
            confusion=counts.counts,
        )


def _ratios(videos: Sequence[Windows]) -> tuple[list[float | None], list[float | None]]:
    """All windows of all videos: official values, and those that must also be right."""
    official, correct = ([value for windows in videos for value in windows.ratios(correct=right)] for right in (False, True))
    return official, correct


def _consistency(n: int, windows: list[float | None], correct: list[float | None]) -> Consistency:
    return Consistency(n, window_mean(windows), window_mean(correct), len(windows), windows.count(None))


def _read_prediction(path: Path, truth: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    try:
        prediction = read_mask(path)
    except DefectError as error:
        raise DataError(f"{path}: {error.detail}; run predict again") from error
    if prediction.shape != truth.shape:
        sizes = f"the prediction is {size_text(prediction)}, its mask {size_text(truth)}"
        raise DataError(f"{path}: {sizes}; predict at the size of the mask")
    return prediction


def _raw(clip: Clip, index: int) -> UInt8[np.ndarray, "H W"]:
    path = clip.masks[index] if isinstance(clip, FileClip) else None
    if path is None:
        raise DataError("this kind of data has no mask files, whose values the raw VC convention compares; score with vc_labels reduced")
    return read_mask(path)
