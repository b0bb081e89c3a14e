"""A budget of time, views to choose from and videos in; the largest views that fit out. Frames of the videos are timed for it.

Each choice is timed as the run will do it: frames are read, transformed, predicted and written, into a folder that is thrown away.
The folder of the run keeps what was chosen in ``.views.json``, so that it goes on with that, and other workers take the same.
"""

import itertools
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import nn

from semivss.atomic import atomic_json
from semivss.errors import SemivssError
from semivss.infer.estimate import Work, frame_size
from semivss.infer.inputs import Frames, InputVideo, OnDefect
from semivss.infer.job import Job, make_video
from semivss.infer.memory import give_back
from semivss.infer.model_time import ModelClock
from semivss.infer.on_demand import ModelOnDemand
from semivss.infer.stream import FrameModel
from semivss.models.bias_memory import biases_of
from semivss.presets import Budget
from semivss.progress import say_once
from semivss.ranks import world_size
from semivss.settings import Views
from semivss.wording import duration

FILE = ".views.json"
_TIMING = ".timing_"  # how names of folders begin that are thrown away
TIMED = 10.0  # seconds that each choice is timed for, and no more than ...
SHARE = 0.03  # of the budget, as far as single frames allow
MOST = 64  # frames that are timed, ...
GROUP = 16  # of them at least, if so many come out together
HOPELESS = 2.0  # times what is left: views that take longer by the number of their pixels are not timed


@dataclass(frozen=True)
class Expected:
    """What a choice would take from now on."""

    seconds: float  # all frames that are not finished with it, and all workers
    timed: bool  # else reckoned by the pixels of its windows


def choose_views(budget: Budget, job_of: Callable[[Views], Job], videos: Sequence[InputVideo]) -> Views:
    """The largest views whose run is expected to fit the budget, the timing included; a line says which, and what each would take.

    A folder in which videos are finished with views that were chosen before goes on with these, and so does one that is given the same
    budget again. Videos that are finished do not count.

    Args:
        budget: with the views, cheapest first.
        job_of: the job with given views, its models in evaluation mode; nothing of it is done here but frames that are timed.
        videos: of the run.

    Raises:
        SemivssError: not even the smallest views fit, or nobody knows how many frames there are. Nothing is written then.
    """
    jobs = {name: job_of(views) for name, views in budget.views.items()}
    out = next(iter(jobs.values())).out
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / f"{FILE}.lock"):
        kept = _kept(out, budget, jobs, videos)
        if kept is not None:
            say_once(
                f"views: {kept}, as was chosen for {out} (expected then: {_record_of(out)['told']}); another folder would be timed anew"
            )
            return budget.views[kept]
        for folder in out.glob(f"{_TIMING}*"):
            shutil.rmtree(folder, ignore_errors=True)  # of a process that died
        began = time.perf_counter()
        with _undone(jobs[next(iter(jobs))].models):
            expected = _expected(budget, jobs, videos)
        left = max(0.0, budget.seconds - (time.perf_counter() - began))
        fitting = [name for name, one in expected.items() if one.timed and one.seconds <= left]
        if not fitting:
            raise SemivssError(
                f"--budget of {duration(budget.seconds)}: too little, {_told(expected)}; allow more, give fewer frames, "
                "or leave the budget out and resize them with a smaller --base"
            )
        chosen = fitting[-1]
        say_once(f"views: {chosen}, the largest that fits {duration(budget.seconds)}; expected: {_told(expected)}")
        record = {"chosen": chosen, "seconds": budget.seconds, "told": _told(expected), "made_from": jobs[chosen].made_from}
        atomic_json(out / FILE, record)
    return budget.views[chosen]


@contextmanager
def _undone(models: Sequence[FrameModel]) -> Iterator[None]:
    """Whoever counts memory after the block finds what was there before it: no weights, biases and limits of the timing."""
    memories = [memory for model in models if isinstance(model, nn.Module) for memory in biases_of(model)]
    limits = [memory.limit for memory in memories]
    try:
        yield
    finally:
        for memory, limit in zip(memories, limits, strict=True):
            memory.clear()
            memory.limit = limit
        for model in models:
            if isinstance(model, ModelOnDemand):
                model.release()
        give_back()


def _told(expected: Mapping[str, Expected]) -> str:
    return ", ".join(f"{name} {'' if one.timed else 'about '}{duration(one.seconds)}" for name, one in expected.items())


def _record_of(out: Path) -> dict[str, Any]:
    """What was chosen for a folder; empty where nobody knows."""
    try:
        record = dict(json.loads((out / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return {}
    return record if {"chosen", "seconds", "told", "made_from"} <= set(record) else {}


def _kept(out: Path, budget: Budget, jobs: Mapping[str, Job], videos: Iterable[InputVideo]) -> str | None:
    """The views that the folder is to go on with; none where there are none, or they were chosen for other models or settings."""
    record = _record_of(out)
    chosen = str(record.get("chosen"))
    job = jobs.get(chosen)
    if job is None or json.loads(json.dumps(job.made_from)) != record["made_from"]:
        return None
    same = bool(record["seconds"] == budget.seconds)
    return chosen if same or any(_is_finished(job, video) for video in videos) else None


def _is_finished(job: Job, video: InputVideo) -> bool:
    return job.is_finished(video.name, job.made_from | {"input": video.identity()})


def _expected(budget: Budget, jobs: Mapping[str, Job], videos: Sequence[InputVideo]) -> dict[str, Expected]:
    """What each choice takes. Raises SemivssError for an unknown number of frames, and for what the smallest views cannot do."""
    began, found = time.perf_counter(), dict[str, Expected]()
    sizes, pace = frame_size(videos), 0.0  # seconds a pixel of all windows
    for name, job in jobs.items():
        todo = [video for video in videos if not _is_finished(job, video)]
        frames = _count(todo)
        pixels = sum(math.prod(window) for window in _work(job).windows(sizes)) if sizes is not None else 0
        left = budget.seconds - (time.perf_counter() - began)
        guess = pace * pixels * frames / world_size()
        if guess > HOPELESS * left or not frames:
            found[name] = Expected(guess, timed=not frames)
            continue
        try:
            a_frame = seconds_a_frame(job, todo, min(TIMED, SHARE * budget.seconds), warm=not pace)
        except SemivssError as error:
            if not found:
                raise
            say_once(f"views: {name} left out, {error}")
            continue
        found[name] = Expected(a_frame * frames / world_size(), timed=True)
        pace = a_frame / max(1, pixels)
    return found


def _count(videos: Sequence[InputVideo]) -> int:
    total = 0
    for video in videos:
        count = video.count()
        if count is None:
            raise SemivssError(f"{video.name}: how many frames it has is not known, so no budget can be kept; name the views with --views")
        total += count
    return total


def _work(job: Job) -> Work:
    return Work(job.models, job.views, job.precision, job.out, job.fit)


def seconds_a_frame(job: Job, videos: Sequence[InputVideo], target: float = TIMED, *, warm: bool = False) -> float:
    """Seconds that the job takes for a frame, measured on the first ones of `videos` for about `target` seconds.

    With `warm` a first pass is not counted, in which libraries get ready. Raises SemivssError as the job does, or where there is no frame.
    """
    for video in videos:
        size = frame_size([video])
        if size is None:
            continue
        group = min(GROUP, _work(job).frames_at_a_time(size))  # that come out together
        if warm:
            _time(job, video, group)
        seconds, frames = _time(job, video, group)
        if seconds < target and frames == group:
            more = min(MOST, math.ceil(target / seconds)) * group
            seconds, frames = _time(job, video, more)
        return seconds / frames
    raise SemivssError("none of the videos has a frame that could be timed; look at them with semivss data check")


def _time(job: Job, video: InputVideo, most: int) -> tuple[float, int]:
    """Seconds for the first `most` frames of a video, and how many there were."""
    place = job.out if job.out.is_dir() else None  # where the run will write too
    with tempfile.TemporaryDirectory(prefix=_TIMING, dir=place) as folder:
        began = time.perf_counter()
        steps = make_video(replace(job, out=Path(folder), clock=ModelClock()), _FirstFrames(video, most), {})
        frames = sum(1 for _ in steps)
        return time.perf_counter() - began, max(1, frames)


@dataclass(frozen=True)
class _FirstFrames:
    """The beginning of a video as a video. Implements `InputVideo`."""

    video: InputVideo
    most: int
    name: str = "timed"

    def frames(self, on_defect: OnDefect) -> Frames:
        return itertools.islice(self.video.frames(on_defect), self.most)

    def count(self) -> int | None:
        return self.most

    def fps(self) -> float | None:
        return self.video.fps()

    def identity(self) -> str:
        return self.video.identity()

    def sources(self) -> Iterable[Path]:
        return self.video.sources()
