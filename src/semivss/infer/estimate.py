"""The first frames of a long run in, a line that says what all of it takes out: windows, operations, time and disk.

The frames that are timed are those of the run itself. A run of less than a minute says nothing.
"""

import glob
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from numpy.polynomial import Polynomial

from semivss.cost.forward_cost import forward_cost
from semivss.cost.model_cost import build_meta
from semivss.errors import DefectError
from semivss.infer.inputs import InputVideo
from semivss.infer.on_demand import ModelOnDemand
from semivss.infer.stream import Fit, FrameModel, frames_together
from semivss.infer.views import Size, View
from semivss.infer.writer import MAPS, overlay_path
from semivss.models.segmenter import Segmenter
from semivss.progress import say_once
from semivss.ranks import world_size
from semivss.wording import counted, duration, operations, readable

LONG = 60.0  # seconds: a run that takes longer is told about
ENOUGH = 5.0  # seconds of frames that are timed
_COUNTED = 3  # sizes of windows whose operations are counted; those of others lie on the parabola through them


@dataclass(frozen=True)
class Work:
    """What is done with every frame, and where its files go."""

    models: Sequence[FrameModel]
    views: Sequence[View]
    precision: str
    out: Path
    fit: Callable[[Size], Fit]  # of frames of a size

    def windows(self, frame: Size) -> list[Size]:
        """Sizes of the windows that each model sees of a frame of size `frame`."""
        return [(window.height, window.width) for view in self.views for window in view.windows(frame)]

    def frames_at_a_time(self, frame: Size) -> int:
        """How many frames of a size are ready together: those that fill a batch of windows, or wait while models take turns."""
        fit = self.fit(frame)
        return frames_together(fit.batch, len(self.windows(frame))) if fit.together else fit.spilled


@dataclass(frozen=True)
class Forecast:
    """What the first frames of a run say of all of it."""

    work: Work
    size: Size  # of the first frame
    frames: int | None  # of the run; none = not known
    seconds: float  # a frame, in one worker
    stored: float  # bytes on disk a frame

    @property
    def run(self) -> float | None:
        """Seconds of the whole run, shared out among its workers; none where the number of frames is not known."""
        return None if self.frames is None else self.seconds * self.frames / world_size()

    def tell(self) -> None:
        """Two lines, unless the run is short."""
        if self.run is None or self.run > LONG:
            for line in self._lines():
                say_once(line)

    def _lines(self) -> Iterator[str]:
        windows, flops = self.work.windows(self.size), flops_a_frame(self.work, self.size)
        models = f" and each of {len(self.work.models)} models" if len(self.work.models) > 1 else ""
        looks = f"{counted(len(windows), 'window')} for a frame of {self.size[0]}x{self.size[1]}{models}"
        if flops is None:
            yield f"{looks}; not known how many operations, for a model is none of ours or was exported"
        else:
            yield f"{looks}, {operations(flops)}" + (f"; {operations(flops * self.frames)} in all" if self.frames else "")
        if self.frames is None or self.run is None:
            yield f"expected: {self.seconds:.2g} s and {readable(self.stored)} on disk a frame; how many frames there are is not known"
        else:
            workers = f" and {counted(world_size(), 'worker')}" if world_size() > 1 else ""
            yield (
                f"expected: {duration(self.run)} for {counted(self.frames, 'frame')}{workers} ({self.seconds:.2g} s a frame); "
                f"{readable(self.stored * self.frames)} on disk"
            )


def forecast(
    steps: Iterable[bool],
    work: Work,
    videos: Sequence[InputVideo],
    total: int | None,
    own: Sequence[str],
    tell: Callable[[Forecast], None] = Forecast.tell,
) -> Iterator[bool]:
    """Yield `steps`, and tell what the run takes once frames of `ENOUGH` seconds are done.

    Args:
        steps: whether a frame was made here, of each frame that is made.
        videos: that are to be made.
        total: their frames; none = not known.
        own: names of those that were begun here, a list that grows.
        tell: gets the forecast.
    """
    since, made, first, group = time.time(), 0, 0.0, 0
    size: Size | None = None
    for step in steps:
        yield step
        if not step or group < 0:
            continue
        made, now = made + 1, time.perf_counter()
        if size is None:
            first, size = now, frame_size(videos)
            group = -1 if size is None else work.frames_at_a_time(size)
        elif (made - 1) % group == 0 and now - first >= ENOUGH:
            # without the first frame, before which libraries get ready
            tell(Forecast(work, size, total, (now - first) / (made - 1), bytes_a_frame(work.out, own, since)))
            group = -1


def frame_size(videos: Iterable[InputVideo]) -> Size | None:
    """Height and width of the first frame that can be read; none where there is none."""
    for video in videos:
        frames = video.frames(_pass_over)
        for _, frame in frames:
            return frame.shape[0], frame.shape[1]
    return None


def _pass_over(error: DefectError) -> None:
    """What cannot be read is told when its turn comes."""


def flops_a_frame(work: Work, frame: Size) -> int | None:
    """Operations of all models' forward passes for a frame; none where a model's cannot be counted, as those of exported files."""
    windows = work.windows(frame)
    known = [model for model in work.models if isinstance(model, Segmenter | ModelOnDemand)]
    if len(known) < len(work.models):
        return None
    device = "gpu" if torch.cuda.is_available() else "cpu"
    total = 0.0
    for model in known:
        twin = build_meta(model.settings, model.label_set, device).eval()
        count = _parabola({size: forward_cost(twin, size, 1, work.precision).flops for size in _some(windows)})
        total += sum(float(count(height * width)) for height, width in windows)
    return round(total)


def _some(windows: Iterable[Size]) -> list[Size]:
    """The smallest, the largest and one in the middle of sizes with different numbers of pixels, or all where there are few."""
    sizes = sorted({height * width: (height, width) for height, width in windows}.items())
    if len(sizes) > _COUNTED:
        sizes = [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
    return [size for _, size in sizes]


def _parabola(counts: dict[Size, int]) -> Polynomial:
    """Operations as a function of pixels: convolutions grow with them, attention between all places with their square."""
    pixels = [height * width for height, width in counts]
    return Polynomial.fit(pixels, list(counts.values()), len(counts) - 1)


def bytes_a_frame(out: Path, videos: Sequence[str], since: float) -> float:
    """Bytes on disk of all files of a frame, the mean over those of `videos` written after `since` (as `time.time`)."""
    labels = [size for video in videos for size in _new(out / video, "[!.]*", since)]
    maps = [size for video in videos for kind in MAPS for size in _new(out / kind / video, "[!.]*", since)]
    overlays = [overlay_path(out, video) for video in videos]
    drawn = [
        size
        for path in overlays
        for name in (glob.escape(path.name), f".{glob.escape(path.name)}.*.tmp")
        for size in _new(path.parent, name, since)
    ]
    return (sum(labels) + sum(maps) + sum(drawn)) / max(1, len(labels))


def _new(folder: Path, pattern: str, since: float) -> list[int]:
    """Sizes of the files in a folder that are not older than `since`; file systems may keep whole seconds."""
    found = [path.stat() for path in folder.glob(pattern) if path.is_file()]
    return [file.st_size for file in found if file.st_mtime >= since - 1]
