"""Predictions and the frames they are for in; the zip that the VSPW challenge takes out, checked on the way in and read back.

``<video>/<stem>.png`` for every frame: 8-bit, one channel (grey or palette), value = training id, no 255, the frame's size. This form is
inferred from three public entries that agree; the challenge's own page was not available.
"""

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from semivss.atomic import atomic_file
from semivss.data.clips import Clip, VideoDataset
from semivss.data.images import read_mask
from semivss.errors import DataError, SemivssError
from semivss.progress import track

_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member: equal predictions make equal zips


@dataclass(frozen=True)
class _Frame:
    """One frame that needs a prediction."""

    clip: Clip
    index: int
    stem: str
    prediction: Path

    @property
    def member(self) -> str:
        return f"{self.clip.name}/{self.stem}.png"


def submit(predictions: Path, dataset: VideoDataset, out: Path) -> int:
    """Write the zip of all frames of `dataset` and return their number. The zip appears only when everything in it is right.

    Args:
        predictions: folder of `<video>/<stem>.png`, as `predict` writes it; other files there are left out.
        dataset: the frames asked for, such as the test split.
        out: the zip file.

    Raises:
        DataError: a video or frame without prediction, a PNG of wrong kind or size, an id that is no class; one line that names the first
            file and counts the rest.
        SemivssError: the zip cannot be written.
    """
    frames = [
        _Frame(clip, index, stem, predictions / clip.name / f"{stem}.png")
        for clip in dataset.clips
        for index, stem in enumerate(clip.stems)
    ]
    _check_complete(predictions, dataset, frames)
    with atomic_file(out) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
            for frame in track(frames, "submission", total=len(frames)):
                archive.writestr(zipfile.ZipInfo(frame.member, _EPOCH), _checked(frame, len(dataset.label_set)))
        file.flush()
        _check_written(file.fileno(), frames, out)
    return len(frames)


def _check_complete(predictions: Path, dataset: VideoDataset, frames: Sequence[_Frame]) -> None:
    if not predictions.is_dir():
        raise DataError(f"{predictions}: no such folder; predict {dataset.name} first")
    videos = [clip.name for clip in dataset.clips if not (predictions / clip.name).is_dir()]
    if videos:
        raise DataError(f"{predictions / videos[0]}: no predictions for video {videos[0]}{_more(videos, 'videos')}; predict them first")
    missing = [frame.prediction for frame in frames if not frame.prediction.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: no prediction for this frame{_more(missing, 'frames')}; predict that video again")


def _more(items: Sequence[object], what: str) -> str:
    return f" (and {len(items) - 1} more {what})" if len(items) > 1 else ""


def _checked(frame: _Frame, classes: int) -> bytes:
    """The PNG's content once it is known to be right."""
    path, labels = frame.prediction, read_mask(frame.prediction)
    data = path.read_bytes()
    if data[24] != 8:
        raise DataError(f"{path}: {data[24]} bits a pixel; the challenge takes 8: write it as an 8-bit grey or palette PNG")
    height, width = frame_size(frame.clip, frame.index)
    if labels.shape != (height, width):
        raise DataError(f"{path}: {labels.shape[1]}x{labels.shape[0]}, its frame is {width}x{height}; predict on these frames")
    highest = int(labels.max())
    if highest >= classes:
        raise DataError(
            f"{path}: id {highest} is not in 0..{classes - 1}; a submission has no ignored pixels and no ids beyond the classes"
        )
    return data


def frame_size(clip: Clip, index: int) -> tuple[int, int]:
    """Height and width of a frame; of a picture file only the header is read. Raises DefectError for a damaged frame."""
    paths = getattr(clip, "frames", None)
    if paths is not None:
        try:
            with Image.open(paths[index]) as image:
                return image.height, image.width
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            pass  # reading it whole names what is wrong
    height, width, _ = clip.frame(index).shape
    return height, width


def _check_written(handle: int, frames: Sequence[_Frame], out: Path) -> None:
    """Read the zip back: the members asked for, in order, with right checksums."""
    with os.fdopen(os.dup(handle), "rb") as file, zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
        if damaged or archive.namelist() != [frame.member for frame in frames]:
            raise SemivssError(f"{out}: reading the zip back failed at {damaged or 'its list of files'}; check the disk and try again")
