"""Frames, masks and predictions of one evaluation set in, small pictures out: rows of example frames and film strips."""

import contextlib
import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from semivss.data.clips import Clip, VideoDataset
from semivss.data.codes import relative_entropy
from semivss.data.images import read_codes, read_mask
from semivss.data.labels import IGNORE, LabelSet
from semivss.data.palette import blend, colorize
from semivss.data.policy import read_labels
from semivss.errors import DefectError
from semivss.metrics.scores import Scores
from semivss.report.plots import data_uri

PANEL_WIDTH = 420
FILM_WIDTHS = (320, 240, 176)  # of each half of a film frame: the widest that leaves enough frames
ENOUGH_FRAMES = 16
MOST_FRAMES = 120  # of a film
_Frame = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Panel:
    """One example frame."""

    rank: str  # best, median or worst
    name: str  # <video>/<stem>
    miou: float
    pictures: tuple[tuple[str, str], ...]  # caption, data URI
    legend: tuple[tuple[str, str], ...]  # class name, CSS colour; the largest first


@dataclass(frozen=True)
class FilmFrame:
    """One picture of a film: truth on the left, prediction on the right."""

    stem: str
    miou: float | None
    source: str  # data URI


@dataclass(frozen=True)
class Film:
    """Evenly spaced frames of one video."""

    video: str
    frames: tuple[FilmFrame, ...]
    length: int  # frames of the whole video


@dataclass(frozen=True)
class Material:
    """What pictures of a set are made of."""

    dataset: VideoDataset
    predictions: Path
    scores: Scores

    @functools.cached_property
    def clips(self) -> dict[str, Clip]:
        """By name."""
        return {clip.name: clip for clip in self.dataset.clips}

    def prediction(self, video: str, stem: str) -> UInt8[np.ndarray, "H W"]:
        """Predicted labels. Raises DefectError."""
        return read_mask(self.predictions / video / f"{stem}.png")

    def entropy(self, video: str, stem: str) -> Float[np.ndarray, "H W"] | None:
        """Entropy as a share of its maximum, 0..1; None where none was written."""
        path = self.predictions / "entropy" / video / f"{stem}.png"
        if not path.is_file():
            return None
        try:
            return relative_entropy(read_codes(path))
        except DefectError:  # a damaged picture of doubt is no reason to do without a report
            return None

    def truth(self, clip: Clip, index: int) -> UInt8[np.ndarray, "H W"]:
        """Labels of a frame; all ignored where it has none that can be read. Raises DefectError."""
        labels = read_labels(clip, index, "ignore")[0] if clip.is_labelled(index) else None
        return np.full(clip.frame(index).shape[:2], IGNORE, np.uint8) if labels is None else labels


def panels(material: Material) -> list[Panel]:
    """The frames with the best, the median and the worst mIoU of their own; fewer where the set has fewer."""
    frames = [
        (miou, video.name, stem)
        for video in material.scores.videos
        for stem, miou in zip(video.stems, video.frame_miou, strict=True)
        if miou is not None and video.name in material.clips and (material.predictions / video.name / f"{stem}.png").is_file()
    ]
    frames.sort(key=lambda frame: -frame[0])
    chosen = dict.fromkeys(zip(("best", "median", "worst"), (0, len(frames) // 2, len(frames) - 1), strict=True)) if frames else {}
    seen: set[int] = set()
    found = []
    for rank, place in chosen:
        if place in seen:
            continue
        seen.add(place)
        with contextlib.suppress(DefectError):  # a damaged frame has been reported where it was read first
            found.append(_panel(material, rank, *frames[place]))
    return found


def _panel(material: Material, rank: str, miou: float, video: str, stem: str) -> Panel:
    clip = material.clips[video]
    index = list(clip.stems).index(stem)
    colors = material.dataset.label_set.colors
    frame, truth, prediction = clip.frame(index), material.truth(clip, index), material.prediction(video, stem)
    pictures = [
        ("frame", jpeg(fit(frame, PANEL_WIDTH))),
        ("truth", png(fit(colorize(truth, colors), PANEL_WIDTH, smooth=False))),
        ("prediction", png(fit(colorize(prediction, colors), PANEL_WIDTH, smooth=False))),
    ]
    entropy = material.entropy(video, stem)
    if entropy is not None:
        pictures.append(("entropy", jpeg(fit(heat(entropy), PANEL_WIDTH))))
    return Panel(rank, f"{video}/{stem}", miou, tuple(pictures), legend(material.dataset.label_set, truth, prediction))


def legend(label_set: LabelSet, *maps: UInt8[np.ndarray, "..."], most: int = 14) -> tuple[tuple[str, str], ...]:
    """Name and CSS colour of the classes in label maps, the largest first."""
    names, colors = label_set.names, label_set.colors
    counts = sum(np.bincount(labels.ravel(), minlength=256) for labels in maps)
    order = [int(k) for k in np.argsort(-counts[: len(names)], kind="stable") if counts[k]]  # type: ignore[index]
    rest = [(f"and {len(order) - most} more", "transparent")] if len(order) > most else []
    return (*((names[k], css(colors[k])) for k in order[:most]), *rest)


def films(material: Material, most: int, budget: int) -> list[Film]:
    """Film strips of up to `most` videos, spread evenly from the best to the worst, within `budget` bytes of picture data."""
    videos = [video for video in material.scores.videos if video.name in material.clips]
    ranked = sorted(range(len(videos)), key=lambda k: -(videos[k].miou or 0.0))
    places = sorted({ranked[round(float(k))] for k in np.linspace(0, len(ranked) - 1, min(most, len(ranked)))}) if ranked else []
    found = []
    for place in places:
        video = videos[place]
        known = dict(zip(video.stems, video.frame_miou, strict=True))
        found.append(_film(material, material.clips[video.name], known, budget // len(places)))
    return [film for film in found if film.frames]


def _film(material: Material, clip: Clip, known: dict[str, float | None], budget: int) -> Film:
    there = [k for k, stem in enumerate(clip.stems) if (material.predictions / clip.name / f"{stem}.png").is_file()]
    width, count = _film_plan(material, clip, there, budget)
    frames = []
    for k in dict.fromkeys(there[round(float(place))] for place in np.linspace(0, len(there) - 1, count)) if count else ():
        with contextlib.suppress(DefectError):
            frames.append(FilmFrame(clip.stems[k], known.get(clip.stems[k]), _film_picture(material, clip, k, width)))
    return Film(clip.name, tuple(frames), len(clip.stems))


def _film_plan(material: Material, clip: Clip, there: Sequence[int], budget: int) -> tuple[int, int]:
    """Width of the halves, and how many frames fit into the budget."""
    width, count = FILM_WIDTHS[-1], 0
    for width in FILM_WIDTHS if there else ():
        try:
            size = len(_film_picture(material, clip, there[len(there) // 2], width))
        except DefectError:
            return FILM_WIDTHS[-1], min(len(there), ENOUGH_FRAMES)
        count = min(len(there), MOST_FRAMES, max(budget // size, 2))
        if count >= min(len(there), ENOUGH_FRAMES):
            break
    return width, count


def _film_picture(material: Material, clip: Clip, index: int, width: int) -> str:
    colors = material.dataset.label_set.colors
    frame = clip.frame(index)
    prediction = material.prediction(clip.name, clip.stems[index])
    pair = (material.truth(clip, index), prediction)
    halves = [fit(blend(frame, labels, colors, 0.6), width) for labels in pair]
    gap = np.full((halves[0].shape[0], 4, 3), 255, np.uint8)
    return jpeg(np.concatenate([halves[0], gap, halves[-1]], axis=1), quality=72)


def css(color: tuple[int, int, int]) -> str:
    """RGB as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def fit(picture: _Frame, width: int, *, smooth: bool = True) -> UInt8[np.ndarray, "h w 3"]:
    """Not wider than `width`, and not higher than that either."""
    height, full = picture.shape[:2]
    share = min(1.0, width / full, width / height)
    if math.isclose(share, 1.0):
        return picture
    size = (max(round(full * share), 1), max(round(height * share), 1))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST))


def heat(share: Float[np.ndarray, "H W"]) -> _Frame:
    """Colours of 0..1, from dark to bright."""
    import matplotlib

    colored = matplotlib.colormaps["magma"](np.clip(share, 0, 1))[..., :3]
    return np.asarray(np.round(255 * colored), np.uint8)


def jpeg(picture: _Frame, quality: int = 84) -> str:
    """A photograph as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return data_uri(buffer.getvalue(), "image/jpeg")


def png(picture: _Frame) -> str:
    """A picture of few colours as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")
