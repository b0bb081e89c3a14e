"""The record of a scored data set: what `score_folder` found in, JSON and tables for people out."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from semivss.errors import DataError
from semivss.metrics.confusion import ClassScores
from semivss.wording import counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class Consistency:
    """VC_n of a video or of all of them; None where there is no window to score."""

    n: int
    vc: float | None
    vc_correct: float | None  # not official: labelled pixels only, and the prediction must also be right
    windows: int  # windows of the published protocol
    empty: int  # of these, windows without a stable ground truth pixel: left out


@dataclass(frozen=True)
class VideoScores:
    """Scores of one video alone. Fractions; None where nothing was there to score."""

    name: str
    acc: float | None
    acc_class: float | None
    miou: float | None
    weighted_iou: float | None
    vc: tuple[Consistency, ...]
    stems: tuple[str, ...]  # scored frames
    frame_miou: tuple[float | None, ...]  # of each of them alone


@dataclass(frozen=True)
class Scores:
    """Scores of one data set: one confusion matrix over all frames of all videos, VC over all windows of all videos."""

    dataset: str
    classes: tuple[str, ...]
    overall: ClassScores
    vc: tuple[Consistency, ...]
    vc_labels: str  # convention: "reduced" or "raw"
    mean_video_miou: float | None
    mean_video_weighted_iou: float | None
    videos: tuple[VideoScores, ...]
    frames: int
    labelled_pixels: int
    invalid_pixels: int  # labelled pixels whose prediction is no class: wrong
    invalid_ignored_pixels: int  # ignored pixels whose prediction is no class: free
    missing: tuple[str, ...]  # <video>/<stem> without a prediction, counted as wrong
    missing_pixels: int  # labelled pixels of these
    defects: Mapping[str, int] = field(default_factory=dict)  # kind -> files: masks that are missing or that the policy left out
    confusion: Int64[np.ndarray, "C1 C1"] | None = field(default=None, compare=False)  # as `Confusion.counts`

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the confusion matrix as one line of text a row."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("overall", "vc", "videos", "confusion")}
        rows = [] if self.confusion is None else [" ".join(map(str, row)) for row in self.confusion.tolist()]
        headline = {name: getattr(self.overall, name) for name in ("miou", "weighted_iou", "acc", "acc_class")}
        headline |= {f"vc{part.n}": part.vc for part in self.vc}
        rest = {
            "vc": [asdict(part) for part in self.vc],
            "overall": asdict(self.overall),
            "videos": [asdict(video) for video in self.videos],
        }
        return {"dataset": self.dataset, **headline, **plain, "defects": dict(self.defects), **rest, "confusion": rows}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Scores":
        """What `to_dict` wrote, or JSON of it; keys of others are left aside. Raises DataError if it is no scores record."""
        try:
            plain = {f.name: value[f.name] for f in fields(cls) if f.name not in ("overall", "vc", "videos", "confusion")}
            plain |= {name: tuple(plain[name]) for name in ("classes", "missing")}
            rows = [list(map(int, row.split())) for row in value["confusion"]]
            return cls(
                **plain,
                overall=_class_scores(value["overall"]),
                vc=_parts(value["vc"]),
                videos=tuple(_video(entry) for entry in value["videos"]),
                confusion=np.array(rows, np.int64) if rows else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a scores record ({type(error).__name__} {error}); score again") from error


def _class_scores(entry: Mapping[str, Any]) -> ClassScores:
    values: dict[str, Any] = {name: entry[name] for name in ("acc", "acc_class", "miou", "weighted_iou")}
    values |= {name: tuple(entry[name]) for name in ("iou", "truth_pixels", "predicted_pixels", "correct_pixels")}
    return ClassScores(**values)


def _video(entry: Mapping[str, Any]) -> VideoScores:
    return VideoScores(**{**entry, "vc": _parts(entry["vc"]), "stems": tuple(entry["stems"]), "frame_miou": tuple(entry["frame_miou"])})


def _parts(entries: Any) -> tuple[Consistency, ...]:
    return tuple(Consistency(**entry) for entry in entries)


def percent(value: float | None) -> str:
    """A fraction as a person reads it, in percent."""
    return "-" if value is None else f"{100 * value:.2f}"


def render(scores: Scores, title: str = "", console: "Console | None" = None) -> None:
    """Print the tables: overall, per class, per video, and what has to be said about the input."""
    from rich.console import Console

    screen = console or Console(highlight=False)
    screen.print(title or scores.dataset, style="bold", markup=False, soft_wrap=True)
    for table in (_overall(scores), _per_class(scores), _per_video(scores)):
        screen.print(table)
    for line in notes(scores):
        screen.print(line, markup=False, soft_wrap=True)


def notes(scores: Scores) -> Iterator[str]:
    """What a reader must know beside the numbers, a sentence each."""
    windows = ", ".join(f"VC{part.n} over {part.windows - part.empty} windows" for part in scores.vc)
    sizes = {"video": len(scores.videos), "frame": scores.frames, "labelled pixel": scores.labelled_pixels}
    size = ", ".join(counted(number, noun) for noun, number in sizes.items())
    yield f"{size}; {windows} ({scores.vc_labels} labels)."
    if scores.invalid_pixels or scores.invalid_ignored_pixels:
        yield (
            f"{scores.invalid_pixels} labelled pixels have a prediction that is no class and count as wrong "
            f"({scores.invalid_ignored_pixels} more lie under ignored pixels)."
        )
    if scores.missing:
        some = ", ".join(scores.missing[:5]) + (f" and {len(scores.missing) - 5} more" if len(scores.missing) > 5 else "")
        yield f"{len(scores.missing)} predictions are missing, their {scores.missing_pixels} labelled pixels count as wrong: {some}."
    if scores.defects:
        yield "defects of the data set: " + ", ".join(f"{kind} {count}" for kind, count in scores.defects.items()) + "."


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _overall(scores: Scores) -> "Table":
    overall = scores.overall
    table = _table("score", "%")
    rows = {"mIoU": overall.miou, "weighted IoU": overall.weighted_iou, "Acc": overall.acc, "Acc_class": overall.acc_class}
    rows |= {f"VC{part.n}": part.vc for part in scores.vc} | {f"VC{part.n}, correct only": part.vc_correct for part in scores.vc}
    rows |= {"mean of the videos' mIoU": scores.mean_video_miou, "mean of the videos' weighted IoU": scores.mean_video_weighted_iou}
    for name, value in rows.items():
        table.add_row(name, percent(value))
    return table


def _per_class(scores: Scores) -> "Table":
    """Classes that occur, the largest first. Names are no markup."""
    from rich.text import Text

    overall = scores.overall
    table = _table("class", "IoU %", "truth px", "predicted px", "correct px")
    for k in sorted(range(len(scores.classes)), key=lambda k: (-overall.truth_pixels[k], k)):
        if overall.iou[k] is not None:
            pixels = (overall.truth_pixels[k], overall.predicted_pixels[k], overall.correct_pixels[k])
            table.add_row(Text(f"{k} {scores.classes[k]}"), percent(overall.iou[k]), *map(str, pixels))
    return table


def _per_video(scores: Scores) -> "Table":
    from rich.text import Text

    table = _table("video", "frames", "mIoU", "weighted", "Acc", *(f"VC{part.n}" for part in scores.vc))
    for video in scores.videos:
        values = (video.miou, video.weighted_iou, video.acc, *(part.vc for part in video.vc))
        table.add_row(Text(video.name), str(len(video.stems)), *map(percent, values))
    return table
