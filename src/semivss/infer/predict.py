"""Models and videos in; a folder of label PNGs, entropy maps, probabilities and overlay videos out, with a manifest."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semivss.data.clips import VideoDataset
from semivss.data.labels import LabelSet
from semivss.data.policy import Defect, DefectCounter, Policy
from semivss.errors import DataError, DefectError
from semivss.infer.inputs import Frames, InputVideo, from_dataset
from semivss.infer.manifest import made_from, write_manifest
from semivss.infer.stream import FrameModel, ensemble_shares
from semivss.infer.stream import stream_distribution as stream_distribution
from semivss.infer.views import View, views_from
from semivss.infer.writer import RESERVED, Product, VideoFiles, clear_leftovers, overlay_path, read_record, record_path
from semivss.lock import locked
from semivss.posterior import entropy
from semivss.progress import say, track
from semivss.settings import Predict


@dataclass(frozen=True)
class Predicted:
    """What a call did."""

    predicted: tuple[str, ...]  # videos of this call
    skipped: tuple[str, ...]  # videos that were finished before
    frames: int  # of this call
    defects: dict[str, int]  # kind -> files left out, over all videos


@dataclass(frozen=True)
class _Job:
    """Everything that is the same for all videos."""

    models: Sequence[FrameModel]
    shares: list[float]
    views: tuple[View, ...]
    settings: Predict
    policy: Policy
    out: Path
    made_from: dict[str, Any]

    @property
    def label_set(self) -> LabelSet:
        return self.models[0].label_set


def predict(
    models: Sequence[FrameModel],
    inputs: VideoDataset | Sequence[InputVideo],
    out: Path,
    settings: Predict,
    weights: Sequence[float] | None = None,
    *,
    policy: Policy = "strict",
    left_out: DefectCounter | None = None,
) -> Predicted:
    """Segment every frame of every video into `out`; `writer.py` describes the files. Memory does not grow with a video's length.

    A video with a record is finished: it is skipped when models, weights, views, settings and input are still the same and its files are
    there, and made anew (one line says why) otherwise. The frame rate of an overlay is that of the video file, else `settings.fps`.

    Args:
        models: one, or an ensemble of models of the same classes. They are set to evaluation mode.
        inputs: a data set, or what `open_inputs` found.
        out: folder; one process at a time writes into it.
        settings: views, and what to write.
        weights: one a model, any scale; none = equal.
        policy: strict stops at the first frame that cannot be read; skip and ignore leave it out and count it.
        left_out: what `open_inputs` met; the manifest counts it, as it counts the defects of a data set.

    Raises:
        DefectError: a damaged frame, under strict. Everything written before it stays.
        SemivssError: models that do not fit together, a folder that cannot be written or is in use, outputs that would replace inputs.
    """
    left_out = left_out or DefectCounter()
    videos = from_dataset(inputs, left_out) if isinstance(inputs, VideoDataset) else tuple(inputs)
    out, shares, views = Path(out), ensemble_shares(models, weights), views_from(settings.views)
    for video in videos:
        _check_target(video, out)
    for model in models:
        if isinstance(model, nn.Module):
            model.eval()
    job = _Job(models, shares, views, settings, policy, out, made_from(models, shares, settings))
    with locked(out):
        return _predict_all(job, videos, left_out)


def _predict_all(job: _Job, videos: Sequence[InputVideo], left_out: DefectCounter) -> Predicted:
    todo = [(video, key) for video in videos if not _is_finished(job, video, key := job.made_from | {"input": video.identity()})]
    counts = [video.count() for video, _ in todo]
    total = sum(count or 0 for count in counts) if None not in counts else None
    frames = sum(1 for _ in track(_frames_of(job, todo), "predict", total=total))
    waiting = {video.name for video, _ in todo}
    counter = write_manifest(job.out, [video.name for video in videos], job.made_from, job.label_set, left_out)
    done = tuple(video.name for video in videos if video.name not in waiting)
    if done:
        say(f"{len(done)} of {len(videos)} videos were predicted before and are kept")
    if counter:
        say(f"frames or videos left out, named in {job.out / 'manifest.json'}: {counter}")
    return Predicted(tuple(video.name for video, _ in todo), done, frames, counter.counts())


def _frames_of(job: _Job, todo: Sequence[tuple[InputVideo, dict[str, Any]]]) -> Iterator[str]:
    for video, key in todo:
        yield from _predict_video(job, video, key)


def _predict_video(job: _Job, video: InputVideo, key: dict[str, Any]) -> Iterator[str]:
    """Write one video; yields the stem of each frame when its turn is over."""
    before = {line["path"] for line in read_record(job.out, video.name) if "path" in line}
    record_path(job.out, video.name).unlink(missing_ok=True)
    clear_leftovers(job.out, video.name)
    defects = DefectCounter()
    waiting: deque[tuple[str, np.ndarray]] = deque()  # frames that the stream has read ahead
    frames = _noted(video.frames(lambda error: _on_defect(error, job.policy, defects)), waiting)
    with VideoFiles(job.out, video.name, job.label_set, job.settings, lambda: video.fps() or job.settings.fps, key) as files:
        for p in stream_distribution(job.models, job.shares, frames, job.views, job.settings.batch):
            stem, frame = waiting.popleft()
            files.write(_product(stem, frame, p, job.settings))
            yield stem
        files.finish({"defects": defects.to_dict(limit=None)})
    for left in before - {line["path"] for line in read_record(job.out, video.name) if "path" in line} if before else ():
        (job.out / left).unlink(missing_ok=True)  # of an earlier call with other settings


def _noted(frames: Frames, waiting: deque[tuple[str, np.ndarray]]) -> Iterator[np.ndarray]:
    for stem, frame in frames:
        waiting.append((stem, frame))
        yield frame


def _on_defect(error: DefectError, policy: Policy, defects: DefectCounter) -> None:
    if policy == "strict":
        raise error
    defects.add([Defect(error.kind, error.path)])


@torch.inference_mode()
def _product(stem: str, frame: np.ndarray, p: Tensor, settings: Predict) -> Product:
    doubt = (entropy(p[None])[0] / math.log(p.shape[0])).float().cpu().numpy() if settings.entropy else None
    probabilities: np.ndarray | None = None
    match settings.probabilities:
        case "uint8":
            probabilities = (p * 255).round_().to(torch.uint8).cpu().numpy()
        case "float16":
            probabilities = p.half().cpu().numpy()
    labels = p.max(0).indices.to(torch.uint8)  # the same as argmax, in less than half of its time
    return Product(stem, frame, labels.cpu().numpy(), doubt, probabilities)


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


def _is_finished(job: _Job, video: InputVideo, key: dict[str, Any]) -> bool:
    """Whether the video's record is of the same making and its files have the recorded sizes; says why not."""
    lines = read_record(job.out, video.name)
    head = next(lines, None)
    if head is None:
        return False
    changed = [name for name in key if head.get("made_from", {}).get(name) != key[name]]
    if changed:
        say(f"{video.name}: predicted before with other {', '.join(changed)}; predicting it again")
        return False
    for line in lines:
        if "path" in line and not _is_there(job.out / line["path"], line["size"]):
            say(f"{video.name}: {line['path']} is gone or has another size; predicting the video again")
            return False
    return True


def _is_there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
