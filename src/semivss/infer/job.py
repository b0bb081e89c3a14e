"""Models, videos and what to keep of each frame in; a folder of files with records and a manifest out.

What `predict` and `pseudo_label` share: finished videos are skipped, few frames are held at a time, damaged ones follow the policy.
"""

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from semivss.accelerator import choose_accelerator
from semivss.data.clips import VideoDataset
from semivss.data.labels import LabelSet
from semivss.data.policy import Defect, DefectCounter, Policy
from semivss.errors import DataError, DefectError, SemivssError
from semivss.infer.finished import is_finished
from semivss.infer.inputs import Frames, InputVideo, from_dataset
from semivss.infer.manifest import write_manifest
from semivss.infer.onnx_model import FrameSizeError, OnnxModel
from semivss.infer.score_map import Scores, WholeScores
from semivss.infer.stream import FrameModel, NotFiniteError, device_of, stream_scores
from semivss.infer.views import View
from semivss.infer.writer import RESERVED, Product, VideoFiles, clear_leftovers, overlay_path, read_record, record_path
from semivss.lock import locked
from semivss.out_of_memory import is_out_of_memory, not_fitting
from semivss.progress import say, track
from semivss.temporal.window import Labelled, window_mean


class Scored(NamedTuple):
    """A frame of a video and what models say of it."""

    stem: str
    frame: np.ndarray  # H W 3, RGB
    scores: Scores


@dataclass(frozen=True)
class Predicted:
    """What a call did."""

    predicted: tuple[str, ...]  # videos of this call
    skipped: tuple[str, ...]  # videos that were finished before
    frames: int  # of this call
    defects: dict[str, int]  # kind -> files left out, over all videos


@dataclass(frozen=True)
class Job:
    """Everything that is the same for all videos."""

    title: str  # of the progress bar
    section: str  # of the recipe
    models: Sequence[FrameModel]
    shares: Sequence[float]
    views: tuple[View, ...]
    batch: int
    policy: Policy
    out: Path
    made_from: dict[str, Any]  # a video made from anything else is made anew
    absent: dict[str, Any]  # what holds of parts of `made_from` that records of an earlier version do not name
    product: Callable[[str, np.ndarray, Scores], Product]  # of stem, frame and scores
    precision: str = "32"
    window: int = 0  # frames on either side that join a distribution
    overlay: str = "none"
    fps: float = 15.0  # of overlays made from frame folders
    histogram: bool = False  # count the entropy codes
    keep_corrections: bool = False  # label files changed by hand are not made anew
    head: Callable[[Sequence[str]], dict[str, Any]] = field(default=lambda videos: {})  # further entries of the manifest, once all is made
    prepare: "Callable[[Job, Sequence[InputVideo]], Job] | None" = None  # the job once the folder is its own and the videos are known

    @property
    def label_set(self) -> LabelSet:
        return self.models[0].label_set


def run_job(job: Job, inputs: VideoDataset | Sequence[InputVideo], left_out: DefectCounter | None) -> Predicted:
    """Make every video of `inputs` that is not finished, then the manifest. Raises what `predict` says."""
    left_out = left_out or DefectCounter()
    videos = from_dataset(inputs, left_out) if isinstance(inputs, VideoDataset) else tuple(inputs)
    for video in videos:
        _check_target(video, job.out)
    for model in job.models:
        if isinstance(model, nn.Module):
            model.eval()
        if isinstance(model, OnnxModel) and job.precision != "32":
            raise SemivssError(f"{model.path}: runs in float32 alone; leave precision {job.precision} out, or take the model folder")
    with locked(job.out):
        return _make_all(job.prepare(job, videos) if job.prepare else job, videos, left_out)


def _make_all(job: Job, videos: Sequence[InputVideo], left_out: DefectCounter) -> Predicted:
    keys = {video.name: job.made_from | {"input": video.identity()} for video in videos}
    todo = [video for video in videos if not _is_finished(job, video.name, keys[video.name])]
    counts = [video.count() for video in todo]
    total = sum(count or 0 for count in counts) if None not in counts else None
    steps = (stem for video in todo for stem in _make_video(job, video, keys[video.name]))
    frames = sum(1 for _ in track(steps, job.title, total=total))
    waiting = {video.name for video in todo}
    names = [video.name for video in videos]
    counter = write_manifest(job.out, names, job.made_from, job.label_set, left_out, job.head(names))
    done = tuple(name for name in names if name not in waiting)
    if done:
        say(f"{len(done)} of {len(videos)} videos were made before and are kept")
    if counter:
        say(f"frames or videos left out, named in {job.out / 'manifest.json'}: {counter}")
    return Predicted(tuple(video.name for video in todo), done, frames, counter.counts())


def _is_finished(job: Job, video: str, key: dict[str, Any]) -> bool:
    return is_finished(job.out, video, key, keep_corrections=job.keep_corrections, absent=job.absent)


def _make_video(job: Job, video: InputVideo, key: dict[str, Any]) -> Iterator[str]:
    """Write one video; yields the stem of each frame when its turn is over.

    What an earlier call has made of it stays until the first frame is there to take its place: a model that fails at once costs nothing.
    """
    before = {line["path"] for line in read_record(job.out, video.name) if "path" in line}
    defects = DefectCounter()
    frames = video.frames(lambda error: _on_defect(error, job.policy, defects))
    made = _smoothed(scored_frames(job, video.name, frames), job.window)
    first = list(itertools.islice(made, 1))
    (job.out / "manifest.json").unlink(missing_ok=True)  # whoever finds none knows that the folder is unfinished
    record_path(job.out, video.name).unlink(missing_ok=True)
    clear_leftovers(job.out, video.name, maps=not before)
    writer = VideoFiles(job.out, video.name, job.label_set, key, job.overlay, lambda: video.fps() or job.fps, histogram=job.histogram)
    pixels = hashlib.sha256()
    with writer as files:
        for stem, frame, scores in itertools.chain(first, made):
            pixels.update(np.ascontiguousarray(frame).data)
            files.write(job.product(stem, frame, scores))
            yield stem
        files.finish({"input_sha256": pixels.hexdigest(), "defects": defects.to_dict(limit=None)})
    for left in before - {line["path"] for line in read_record(job.out, video.name) if "path" in line} if before else ():
        (job.out / left).unlink(missing_ok=True)  # of an earlier call with other settings


def _smoothed(items: Iterator[Scored], reach: int) -> Iterator[Scored]:
    """With the mean over `reach` neighbours on either side, which takes whole distributions."""
    if not reach:
        return items
    labelled = (Labelled(stem, frame, scores.whole()) for stem, frame, scores in items)
    return (Scored(stem, frame, WholeScores(p)) for stem, frame, p in window_mean(labelled, reach))


def scored_frames(job: Job, video: str, frames: Frames) -> Iterator[Scored]:
    """Each frame with its scores; models that lie on the CPU are brought to the GPU first, where there is one.

    Raises SemivssError for a model whose values are not finite, for frames of another size than an exported model takes, and where there
    is not memory enough.
    """
    waiting: deque[tuple[str, np.ndarray]] = deque()  # frames that the stream has read ahead
    done = 0
    try:
        for model in job.models:
            if isinstance(model, nn.Module) and device_of(model).type == "cpu":
                model.to(choose_accelerator())
        # an exported model takes one frame at a time, and answers at full size, which is much to hold for several
        batch = 1 if any(isinstance(model, OnnxModel) for model in job.models) else job.batch
        for scores in stream_scores(job.models, job.shares, _noted(frames, waiting), job.views, batch, job.precision):
            done += 1
            yield Scored(*waiting.popleft(), scores)
    except NotFiniteError as error:
        stem, digest = waiting[error.frame - done][0], job.made_from["models"][error.model]
        raise SemivssError(
            f"{video}/{stem}: model {error.model + 1} of {len(job.models)} (SHA-256 {digest[:12]}) gives values that are not finite; "
            "its weights are damaged or its training diverged: train it again with a smaller rate, or leave it out"
        ) from error
    except FrameSizeError as error:
        raise SemivssError(f"{video}, frame {done + 1}: {error}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        remedies = [] if job.batch == 1 else [f"lower {job.section}.batch in the recipe"]
        remedies += ['set precision = "bf16"'] if job.precision == "32" and device_of(job.models[0]).type == "cuda" else []
        remedies += ["cut smaller windows (views.crop)", "take smaller scales"]
        raise not_fitting(f"{video}, frame {done + 1}", f"{job.batch} windows at a time", remedies, device_of(job.models[0])) from error


def _noted(frames: Frames, waiting: deque[tuple[str, np.ndarray]]) -> Iterator[np.ndarray]:
    for stem, frame in frames:
        waiting.append((stem, frame))
        yield frame


def _on_defect(error: DefectError, policy: Policy, defects: DefectCounter) -> None:
    if policy == "strict":
        raise error
    defects.add([Defect(error.kind, error.path)])


def _check_target(video: InputVideo, out: Path) -> None:
    """Refuse names that leave the folder or meet our own, and outputs that would lie on the inputs."""
    parts = Path(video.name).parts
    if not parts or ".." in parts or Path(video.name).is_absolute() or parts[0].startswith(".") or parts[0] in RESERVED:
        raise DataError(f"video {video.name!r}: its predictions cannot have that name; rename the video")
    targets = {(out / video.name).resolve(), overlay_path(out, video.name).resolve()}
    for source in video.sources():
        if {source.resolve(), *source.resolve().parents} & targets:
            raise DataError(
                f"{source}: predictions in {out} would replace this input or lie in its folder; choose another folder with --out"
            )
