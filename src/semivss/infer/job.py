"""Models, videos and what to keep of each frame in; a folder of files with records and a manifest out.

What `predict` and `pseudo_label` share: finished videos are skipped, few frames are held at a time, damaged ones follow the policy, and
every process that is given the same job takes the next video that none has begun.
"""

import hashlib
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from semivss.accelerator import choose_accelerator, own_device
from semivss.data.clips import VideoDataset
from semivss.data.labels import LabelSet
from semivss.data.policy import Defect, DefectCounter, Policy
from semivss.errors import DataError, DefectError, SemivssError
from semivss.infer.ahead import map_behind, read_ahead
from semivss.infer.estimate import Work, forecast
from semivss.infer.finished import is_finished
from semivss.infer.inputs import ClipInput, Frames, InputVideo, from_dataset
from semivss.infer.manifest import summaries, versions, write_manifest
from semivss.infer.memory import MemoryLimit
from semivss.infer.model_time import ModelClock, TimedModel
from semivss.infer.onnx_model import FrameSizeError, OnnxModel
from semivss.infer.score_map import Scores, WholeScores
from semivss.infer.stream import Fit, FrameModel, NotFiniteError, device_of, frames_together, stream_scores, windows_of
from semivss.infer.views import Size, View, demand_size
from semivss.infer.writer import RESERVED, Product, VideoFiles, clear_leftovers, clear_shared, overlay_path, read_record, record_path
from semivss.lock import Crew, joined
from semivss.out_of_memory import is_out_of_memory, not_fitting, told
from semivss.progress import say, say_once, track
from semivss.temporal.window import Labelled, window_mean
from semivss.wording import counted

_READ = 4  # frames that may be read before the models ask for them
_LOOK_EVERY = 0.2  # seconds between looks at the videos that other workers make, and after which ...
_PATIENCE = 10.0  # a line says what is waited for


class Scored(NamedTuple):
    """A frame of a video and what models say of it."""

    stem: str
    frame: np.ndarray  # H W 3, RGB
    scores: Scores


@dataclass(frozen=True)
class Predicted:
    """What a call did."""

    predicted: tuple[str, ...]  # videos that this process made
    skipped: tuple[str, ...]  # videos that were finished before
    frames: int  # that this process made
    defects: dict[str, int]  # kind -> files left out, over all videos
    seconds: float  # of this process, from the first look at the videos to the last frame
    model_seconds: float  # of them, inside the models


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
    automatic: bool = False  # the precision was left to the machine: a video made in another one stays
    limit: MemoryLimit | None = None  # on the memory of the process
    window: int = 0  # frames on either side that join a distribution
    overlay: str = "none"
    fps: float = 15.0  # of overlays made from frame folders
    histogram: bool = False  # count the entropy codes
    keep_corrections: bool = False  # label files changed by hand are not made anew
    head: Callable[[Sequence[str]], dict[str, Any]] = field(default=lambda videos: {})  # further entries of the manifest, once all is made
    # the job once the videos and those who share them are known
    prepare: "Callable[[Job, Sequence[InputVideo], Crew], Job] | None" = None
    clock: ModelClock = field(default_factory=ModelClock)

    @property
    def label_set(self) -> LabelSet:
        return self.models[0].label_set

    @property
    def at_once(self) -> int:
        """Most windows in a forward pass: an exported model takes one, and answers at full size, which is much to hold for several."""
        return 1 if any(isinstance(model, OnnxModel) for model in self.models) else self.batch

    def fit(self, size: Size) -> Fit:
        """How frames of a size are worked on. Raises SemivssError where there is not memory enough."""
        return Fit(self.at_once) if self.limit is None else self.limit.fit(size, most=self.at_once)

    def waiting(self, one: Scored) -> int:
        """Frames that may wait to be read while the models run: those of a batch; of whole distributions, and of maps on disk, one."""
        size = one.scores.size
        fit = self.fit(size)
        return frames_together(fit.batch, windows_of(self.views, size)) if fit.together and not self.window else 1

    def is_finished(self, video: str, key: dict[str, Any], tell: Callable[[str], None] | None = None) -> bool:
        """Whether the video was made from `key`. Raises as `finished.is_finished`, which see."""
        asked = {name: value for name, value in key.items() if not (self.automatic and name == "precision")}
        return is_finished(self.out, video, asked, keep_corrections=self.keep_corrections, absent=self.absent, tell=tell)


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
    identities = {video.name: video.identity() for video in videos}
    inputs_hash = hashlib.sha256(json.dumps(identities).encode()).hexdigest()
    device = choose_accelerator()
    threads = {} if device == "cuda" else {"threads (--threads)": torch.get_num_threads()}  # sums in another order: other last bits
    terms = {"input videos": inputs_hash, "policy": job.policy, "device": device, **threads, "versions": versions()}
    with joined(job.out, job.made_from | terms) as crew:
        job = job.prepare(job, videos, crew) if job.prepare else job
        keys = {name: job.made_from | {"input": identity} for name, identity in identities.items()}
        return _make_all(replace(job, clock=ModelClock()), videos, keys, left_out, crew)


def _make_all(job: Job, videos: Sequence[InputVideo], keys: dict[str, Any], left_out: DefectCounter, crew: Crew) -> Predicted:
    todo = [video for video in videos if not _is_finished(job, crew, video.name, keys[video.name])]
    counts = [video.count() for video in todo]
    total = sum(count or 0 for count in counts) if None not in counts else None
    own: list[str] = []
    with closing(_shared_out(job, todo, keys, crew, own)) as steps:
        share = lambda: f"{job.clock.share():.0%} of the time in the model"  # noqa: E731
        work = Work(job.models, job.views, job.precision, job.out, job.fit)
        frames = sum(track(forecast(steps, work, todo, total, own), job.title, total=total, note=share))
    seconds, inside = job.clock.seconds(), job.clock.inside
    names = [video.name for video in videos]
    with crew.alone("manifest"):
        clear_shared(job.out)
        if not own or not (job.out / "manifest.json").is_file():  # else another worker has written it since
            made_from = job.made_from | _precisions(job, names)
            write_manifest(job.out, names, made_from, job.label_set, left_out, job.head(names))
        counter = summaries(job.out, names, left_out)[1]
    done = tuple(name for name in names if name not in {video.name for video in todo})
    made = Predicted(tuple(own), done, frames, counter.counts(), seconds, inside)
    _tell(made, len(todo))
    if job.limit is not None and frames:
        job.limit.tell()
    if counter:
        say_once(f"frames or videos left out, named in {job.out / 'manifest.json'}: {counter}")
    return made


def _precisions(job: Job, videos: Sequence[str]) -> dict[str, Any]:
    """That of the videos, which may be another one than this machine's; several if they were made on different machines."""
    if not job.automatic:
        return {}
    heads = (next(read_record(job.out, video)) for video in videos)
    found = sorted({head["made_from"].get("precision", job.precision) for head in heads})
    return {"precision": found[0] if len(found) == 1 else found} if found else {}


def _tell(made: Predicted, todo: int) -> None:
    """What was done of `todo` videos that were not finished."""
    if done := len(made.skipped):
        say_once(f"{done} of {done + todo} videos were made before and are kept")
    if others := todo - len(made.predicted):
        say_once(f"{others} of {counted(todo, 'video')} were made by other workers")
    if made.frames:
        rate, share = made.frames / made.seconds, made.model_seconds / made.seconds
        say_once(f"{counted(made.frames, 'frame')} in {made.seconds:.1f} s, {rate:.1f} a second, {share:.0%} of the time in the model")


def _is_finished(job: Job, crew: Crew, video: str, key: dict[str, Any]) -> bool:
    """Whether the video is finished; one that another worker holds at the moment counts as not finished."""
    with crew.claim(video) as claim:
        tell = say if crew.first else None
        return claim is not None and job.is_finished(video, key, tell)


def _shared_out(job: Job, todo: Sequence[InputVideo], keys: dict[str, Any], crew: Crew, own: list[str]) -> Generator[bool, None, None]:
    """Make the videos that no other worker has made, and wait for those that others are making: if one dies, its video is made here.

    Yields whether a frame was made here for each frame that is made; the names of the videos made here go into `own`.
    """
    waiting = deque(todo)
    patience = _PATIENCE
    while waiting:
        idle = True
        for _ in range(len(waiting)):
            video = waiting.popleft()
            with crew.claim(video.name) as claim:
                if claim is None:
                    waiting.append(video)
                    continue
                idle, patience = False, _PATIENCE
                key = keys[video.name]
                if job.is_finished(video.name, key):
                    yield from itertools.repeat(False, video.count() or 0)
                    continue
                own.append(video.name)
                with claim.begun() as dead:
                    if dead:
                        say(f"{video.name}: {dead} began it and is gone; what it left is cleared up and the video made here")
                    for _ in make_video(job, video, key):
                        yield True
        if idle:
            time.sleep(_LOOK_EVERY)
            before, patience = patience, patience - _LOOK_EVERY
            if before > 0 >= patience:
                say(f"waiting for {waiting[0].name}: {crew.holder(waiting[0].name)} makes it")


def make_video(job: Job, video: InputVideo, key: dict[str, Any]) -> Iterator[str]:
    """Write one video; yields the stem of each frame when its turn is over.

    What an earlier call has made of it stays until the first frame is there to take its place: a model that fails at once costs nothing.
    """
    before = {line["path"] for line in read_record(job.out, video.name) if "path" in line}
    defects = DefectCounter()
    frames = video.frames(lambda error: _on_defect(error, job.policy, defects))
    pixels = hashlib.sha256()
    made = map_behind(partial(_finish, job, video.name, pixels), _smoothed(scored_frames(job, video.name, frames), job.window), job.waiting)
    first = list(itertools.islice(made, 1))
    (job.out / "manifest.json").unlink(missing_ok=True)  # whoever finds none knows that the folder is unfinished
    record_path(job.out, video.name).unlink(missing_ok=True)
    clear_leftovers(job.out, video.name, maps=not before)
    writer = VideoFiles(job.out, video.name, job.label_set, key, job.overlay, lambda: video.fps() or job.fps, histogram=job.histogram)
    with writer as files:
        for product in itertools.chain(first, made):
            files.write(product)
            yield product.stem
        files.finish({"input_sha256": pixels.hexdigest(), "defects": defects.to_dict(limit=None)})
    for left in before - {line["path"] for line in read_record(job.out, video.name) if "path" in line} if before else ():
        (job.out / left).unlink(missing_ok=True)  # of an earlier call with other settings


def _finish(job: Job, video: str, pixels: "hashlib._Hash", one: Scored) -> Product:
    """What is kept of a frame; its pixels join the hash of the video's. Raises SemivssError where it does not fit memory."""
    pixels.update(np.ascontiguousarray(one.frame).data)
    with told(lambda: _not_fitting(job, f"{video}, frame {one.stem}")):
        return job.product(*one)


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
                model.to(own_device(choose_accelerator()))
        timed = [TimedModel(model, job.clock) for model in job.models]
        ahead = _noted(read_ahead(frames, _READ), waiting, job.views)
        for scores in stream_scores(timed, job.shares, ahead, job.views, precision=job.precision, fit=job.fit, spill=job.out):
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
        raise _not_fitting(job, f"{video}, frame {done + 1}") from error


def _not_fitting(job: Job, where: str) -> SemivssError:
    """A line for work that does not fit memory."""
    remedies = [] if job.at_once == 1 else [f"lower {job.section}.batch in the recipe"]
    remedies += ['set precision = "bf16"'] if job.precision == "32" and device_of(job.models[0]).type == "cuda" else []
    remedies += ["cut smaller windows (views.crop)", "take smaller scales"]
    return not_fitting(where, f"{counted(job.at_once, 'window')} at a time", remedies, device_of(job.models[0]))


def _noted(frames: Frames, waiting: deque[tuple[str, np.ndarray]], views: Sequence[View]) -> Iterator[np.ndarray]:
    for stem, frame in frames:
        demand_size(views, (frame.shape[0], frame.shape[1]))
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
        among_frames = isinstance(video, ClipInput) and source.resolve().parent == out.resolve()
        if among_frames or {source.resolve(), *source.resolve().parents} & targets:
            raise DataError(
                f"{source}: predictions in {out} would replace this input or lie in its folder; choose another folder with --out"
            )
