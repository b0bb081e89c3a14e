"""A folder of predictions and a data set with masks in, every score out, one frame in memory at a time."""

import json
from collections.abc import Iterator
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
from semivss.metrics.consistency import VideoConsistency, window_mean
from semivss.metrics.scores import Consistency, Scores, VideoScores, render
from semivss.progress import track
from semivss.settings import Score

__all__ = ["Scores", "render", "score_folder"]

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
    run = _Run(predictions, dataset, settings, policy, frozenset(gone))
    steps = (frame for clip, indices in frames if indices for frame in run.video(clip, indices))
    for _ in track(steps, f"scoring {dataset.name}", total=total):
        pass
    return run.scores(tuple(gone))


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


class _Run:
    """Counts of a data set while its frames go by."""

    def __init__(self, predictions: Path, dataset: VideoDataset, settings: Score, policy: Policy, gone: frozenset[str]) -> None:
        self.predictions, self.dataset, self.settings, self.policy, self.gone = predictions, dataset, settings, policy, gone
        self.total = Confusion(len(dataset.label_set))
        self.videos: list[VideoScores] = []
        self.windows: dict[int, tuple[list[float | None], list[float | None]]] = {n: ([], []) for n in settings.vc}
        self.missing_pixels = 0
        self.defects = DefectCounter(dataset.defects)

    def video(self, clip: Clip, indices: list[int]) -> Iterator[None]:
        """Score one video, a step a frame."""
        confusion, consistency = Confusion(self.total.num_classes), VideoConsistency(self.settings.vc)
        stems: list[str] = []
        frame_miou: list[float | None] = []
        for index in indices:
            truth, defects = read_labels(clip, index, self.policy)
            self.defects.add(defects)
            if truth is not None:
                frame = self._frame(clip, index, truth, consistency)
                confusion += frame
                stems.append(clip.stems[index])
                frame_miou.append(frame.scores().miou)
            yield
        self.total += confusion
        for n, windows in consistency.windows.items():
            self.windows[n][0].extend(windows.ratios())
            self.windows[n][1].extend(windows.ratios(correct=True))
        parts = tuple(_consistency(n, windows.ratios(), windows.ratios(correct=True)) for n, windows in consistency.windows.items())
        own = confusion.scores()
        four = (own.acc, own.acc_class, own.miou, own.weighted_iou)
        self.videos.append(VideoScores(clip.name, *four, parts, tuple(stems), tuple(frame_miou)))

    def _frame(self, clip: Clip, index: int, truth: UInt8[np.ndarray, "H W"], consistency: VideoConsistency) -> Confusion:
        stem = clip.stems[index]
        path = self.predictions / clip.name / f"{stem}.png"
        here = f"{clip.name}/{stem}" not in self.gone
        prediction = _read_prediction(path, truth) if here else None
        frame = Confusion(self.total.num_classes)
        try:
            frame.update(truth, np.full_like(truth, IGNORE) if prediction is None else prediction)
            consistency.update(truth, prediction, _raw(clip, index) if self.settings.vc_labels == "raw" else None)
        except DataError as error:
            raise DataError(f"{clip.name}/{stem}: {error}") from error
        if not here:
            self.missing_pixels += frame.labelled_pixels
            frame.counts[-1, -1] = 0  # ignored pixels of a missing file are nobody's invalid prediction
        return frame

    def scores(self, gone: tuple[str, ...]) -> Scores:
        return Scores(
            dataset=self.dataset.name,
            classes=self.dataset.label_set.names,
            overall=self.total.scores(),
            vc=tuple(_consistency(n, *windows) for n, windows in self.windows.items()),
            vc_labels=self.settings.vc_labels,
            mean_video_miou=window_mean([video.miou for video in self.videos]),
            mean_video_weighted_iou=window_mean([video.weighted_iou for video in self.videos]),
            videos=tuple(self.videos),
            frames=sum(len(video.stems) for video in self.videos),
            labelled_pixels=self.total.labelled_pixels,
            invalid_pixels=self.total.invalid_pixels - self.missing_pixels,
            invalid_ignored_pixels=self.total.invalid_ignored_pixels,
            missing=gone,
            missing_pixels=self.missing_pixels,
            defects=self.defects.counts(),
            confusion=self.total.counts,
        )


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
