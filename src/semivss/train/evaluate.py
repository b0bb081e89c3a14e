"""A model and a validation set in, one confusion matrix and some rows for a picture out."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from semivss.data.clips import VideoDataset
from semivss.data.codes import relative_entropy
from semivss.data.policy import DefectCounter, Pair, Policy, read_pair
from semivss.infer.answers import read_answers
from semivss.infer.stream import stream_scores
from semivss.infer.views import View
from semivss.metrics.confusion import Confusion
from semivss.models.segmenter import Segmenter
from semivss.settings import Augment
from semivss.train.panels import Row


def evaluation_view(augment: Augment) -> View:
    """Whole frames, at the size that they have for training crops at scale 1."""
    return View(base=augment.base, short_side=augment.short_side)


@dataclass(frozen=True)
class Validation:
    """Which frames of a data set are scored during training, by which process, and at which size the model sees them."""

    dataset: VideoDataset
    frames: tuple[tuple[int, int], ...]  # (clip, frame) of labelled frames
    policy: Policy
    view: View = field(default_factory=View)  # scores are always at the size of the mask

    @classmethod
    def of(
        cls,
        dataset: VideoDataset,
        policy: Policy,
        view: View,
        *,
        stride: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> "Validation":
        """Every `stride`-th frame of each clip, dealt out to the processes in turn."""
        frames = [
            (number, index)
            for number, clip in enumerate(dataset.clips)
            for index in range(0, len(clip.stems), stride)
            if clip.is_labelled(index)
        ]
        return cls(dataset, tuple(frames[rank::world]), policy, view)


def evaluate(
    model: Segmenter,
    validation: Validation,
    panel_frames: int,
    defects: DefectCounter,
    stopped: Callable[[], bool] = lambda: False,
    *,
    batch: int = 4,
    precision: str = "32",
) -> tuple[Confusion, list[Row]] | None:
    """Single-view predictions of all frames against their masks, and `panel_frames` of them, evenly spread, as picture rows.

    `batch` frames go through the model together, in `precision` as `stream_scores` has it. Defects met under the policies skip and
    ignore are counted in `defects`. Returns none when `stopped` says so on the way.
    """
    classes = len(validation.dataset.label_set)
    confusion, rows = Confusion(classes), []
    shown = set(np.linspace(0, len(validation.frames) - 1, panel_frames).round().astype(int).tolist()) if validation.frames else set()
    waiting: deque[tuple[int, Pair]] = deque()  # read ahead by the predictor
    frames = _frames(validation, waiting, defects)
    for scores in stream_scores([model], None, frames, [validation.view], batch, precision):
        number, pair = waiting.popleft()
        answers = read_answers(scores, entropy=number in shown)
        assert pair.labels is not None
        confusion.update(pair.labels, answers.labels)
        if number in shown:
            clip, index = validation.frames[number]
            name = f"{validation.dataset.clips[clip].name}/{validation.dataset.clips[clip].stems[index]}"
            assert answers.codes is not None
            rows.append(Row(name, pair.frame, pair.labels, answers.labels, relative_entropy(answers.codes).astype(np.float32)))
        if stopped():
            return None
    return confusion, rows


def _frames(validation: Validation, waiting: deque[tuple[int, Pair]], defects: DefectCounter) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    for number, (clip, index) in enumerate(validation.frames):
        pair, found = read_pair(validation.dataset.clips[clip], index, validation.policy)
        defects.add(found)
        if pair is not None:
            waiting.append((number, pair))
            yield pair.frame
