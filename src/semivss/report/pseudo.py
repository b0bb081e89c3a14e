"""A folder of pseudo labels, and masks where there are some, in; numbers, a histogram and a sheet of the worst frames out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from semivss.atomic import atomic_json
from semivss.data.clips import Clip, VideoDataset
from semivss.data.codes import ABOVE, entropy_of_code, relative_entropy, reliable
from semivss.data.policy import DefectCounter, Policy, read_labels
from semivss.data.pseudo import PseudoFolder, check_classes
from semivss.errors import DataError
from semivss.metrics.confusion import size_text
from semivss.metrics.reliability import Reliability
from semivss.progress import say, track
from semivss.report.pseudo_pictures import Row, write_histogram, write_sheet

ALPHAS = (0.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0)  # rows of the table
_KEPT = 0.8  # share at which accuracies of different labellings are compared


@dataclass(frozen=True)
class Inspection:
    """All numbers about a folder of pseudo labels. Shares and accuracies are fractions, None where nothing was there to divide by."""

    alpha: float  # percent of the pixels that are unreliable
    gamma: tuple[float | None, ...]  # threshold of each class in nats; all the same unless per class; none: all its pixels are reliable
    overall: dict[str, float | None]  # kept, accuracy, accuracy_rest, accuracy_all, accuracy_at_80, auroc
    classes: dict[str, dict[str, float | None]]  # share of all pixels, kept, accuracy, accuracy_rest
    videos: dict[str, dict[str, float | None]]  # kept, accuracy, accuracy_rest
    table: tuple[dict[str, float | None], ...]  # alpha, gamma, kept, accuracy, accuracy_rest
    worst: tuple[str, ...]  # <video>/<stem>
    frames: int
    frames_with_truth: int
    edited: tuple[str, ...]
    made_from: dict[str, Any]
    defects: dict[str, int]


def inspect_pseudo(
    folder: PseudoFolder,
    out: Path,
    *,
    alpha: float = 20.0,
    per_class: bool = False,
    dataset: VideoDataset | None = None,
    policy: Policy = "strict",
    worst: int = 6,
) -> Inspection:
    """Read every frame of `folder` and write <out>/pseudo.json, histogram.png and worst.png.

    Args:
        alpha: percent of all pixels above the threshold, a percentile of the whole folder as it was labelled.
        per_class: the percentile of each class instead.
        dataset: frames, for the sheet, and masks, for accuracies; videos are matched by name. None = neither.
        policy: what a damaged mask of `dataset` does.
        worst: frames on the sheet: those with most wrong pixels below the threshold; without masks, those with fewest pixels
            below it; of different videos as far as there are enough.

    Raises:
        DataError: the data set has other classes or none of the videos, or a mask has another size than its pseudo label.
    """
    clips = {} if dataset is None else _clips(folder, dataset)
    thresholds = folder.thresholds(alpha, per_class)
    videos: dict[str, Reliability] = {}
    marks: list[tuple[float, str, str]] = []
    counter, masks = DefectCounter(), 0
    for video, stem in track(list(_frames(folder)), "inspect", total=sum(map(len, folder.stems.values()))):
        labels, codes = folder.labels(video, stem), folder.codes(video, stem)
        truth = _truth(clips.get(video), video, stem, labels, policy, counter)
        frame = Reliability(len(folder.label_set))
        frame.update(labels, codes, truth)
        counts = videos.setdefault(video, Reliability(frame.num_classes))
        counts += frame
        marks.append((_badness(frame, thresholds, truth is not None), video, stem))
        masks += truth is not None
    shown = _worst(marks, worst)
    found = _inspection(folder, alpha, per_class, videos, shown, masks, counter)
    _write(
        folder, out, found, videos, thresholds, [_row(folder, clips.get(video), video, stem, thresholds, policy) for video, stem in shown]
    )
    return found


def _write(
    folder: PseudoFolder,
    out: Path,
    found: Inspection,
    videos: dict[str, Reliability],
    thresholds: Int64[np.ndarray, "C"],
    rows: Sequence[Row],
) -> None:
    atomic_json(out / "pseudo.json", asdict(found))
    write_histogram(out / "histogram.png", _total(folder, videos), thresholds)
    if rows:
        write_sheet(out / "worst.png", rows, folder.label_set)
    say(f"{out}: pseudo.json, histogram.png{', worst.png' if rows else ''}")


def _clips(folder: PseudoFolder, dataset: VideoDataset) -> dict[str, Clip]:
    if any(clip.is_labelled(index) for clip in dataset.clips for index in range(len(clip.stems))):  # else it is there for its frames
        check_classes(folder.folder, folder.label_set.names, dataset.label_set)
    clips = {clip.name: clip for clip in dataset.clips if clip.name in folder.stems}
    if not clips:
        raise DataError(
            f"{dataset.name}: none of the {len(folder.stems)} videos in {folder.folder} is there; give the data set they come from"
        )
    return clips


def _frames(folder: PseudoFolder) -> Iterator[tuple[str, str]]:
    for video in sorted(folder.stems):
        for stem in sorted(folder.stems[video]):
            yield video, stem


def _truth(
    clip: Clip | None, video: str, stem: str, labels: UInt8[np.ndarray, "H W"], policy: Policy, counter: DefectCounter
) -> UInt8[np.ndarray, "H W"] | None:
    """The mask of the frame, none where there is none to read."""
    index = list(clip.stems).index(stem) if clip is not None and stem in clip.stems else None
    if clip is None or index is None or not clip.is_labelled(index):
        return None
    truth, defects = read_labels(clip, index, policy)
    counter.add(defects)
    if truth is not None and truth.shape != labels.shape:
        sizes = f"the pseudo label is {size_text(labels)}, its mask {size_text(truth)}"
        raise DataError(f"{video}/{stem}: {sizes}; label frames of the size of their masks")
    return truth


def _badness(frame: Reliability, thresholds: Int64[np.ndarray, "C"], scored: bool) -> float:
    """Share of the frame's pixels that are reliable and wrong; without a mask, below 0 and the lower the more are reliable."""
    kept = frame.kept(thresholds)
    if scored:
        return (1 - kept.accuracy) * (kept.kept or 0.0) if kept.accuracy is not None else 0.0
    return -(kept.kept or 0.0)


def _worst(marks: Sequence[tuple[float, str, str]], most: int) -> list[tuple[str, str]]:
    """The frames with the highest marks, one of each video before a second one of any: neighbouring frames look alike."""
    seen: Counter[str] = Counter()
    ranked = []
    for mark, video, stem in sorted(marks, key=lambda item: -item[0]):
        ranked.append((seen[video], -mark, video, stem))
        seen[video] += 1
    return [(video, stem) for _, _, video, stem in sorted(ranked)[:most]]


def _inspection(
    folder: PseudoFolder,
    alpha: float,
    per_class: bool,
    videos: dict[str, Reliability],
    shown: Sequence[tuple[str, str]],
    masks: int,
    counter: DefectCounter,
) -> Inspection:
    total, thresholds = _total(folder, videos), folder.thresholds(alpha, per_class)
    everything = {"accuracy_all": total.accuracy(), "accuracy_at_80": total.accuracy_at(_KEPT), "auroc": total.auroc()}
    pixels = max(int(total.pixels.sum()), 1)
    classes = {
        name: {"share": float(total.pixels[index].sum()) / pixels, **asdict(total.kept(thresholds, index))}
        for index, name in enumerate(folder.label_set.names)
    }
    return Inspection(
        alpha=alpha,
        gamma=tuple(_nats(folder, int(code)) for code in thresholds),
        overall=asdict(total.kept(thresholds)) | everything,
        classes=classes,
        videos={video: asdict(counts.kept(thresholds)) for video, counts in videos.items()},
        table=tuple(_table_row(folder, total, value, per_class) for value in ALPHAS),
        worst=tuple("/".join(name) for name in shown),
        frames=sum(map(len, folder.stems.values())),
        frames_with_truth=masks,
        edited=folder.edited,
        made_from=dict(folder.made_from),
        defects=counter.counts(),
    )


def _table_row(folder: PseudoFolder, total: Reliability, alpha: float, per_class: bool) -> dict[str, float | None]:
    thresholds = folder.thresholds(alpha, per_class)
    gamma = None if per_class else _nats(folder, int(thresholds[0]))
    return {"alpha": alpha, "gamma": gamma, **asdict(total.kept(thresholds))}


def _nats(folder: PseudoFolder, code: int) -> float | None:
    return float(entropy_of_code(code, len(folder.label_set))) if code < ABOVE else None


def _total(folder: PseudoFolder, videos: dict[str, Reliability]) -> Reliability:
    total = Reliability(len(folder.label_set))
    for counts in videos.values():
        total += counts
    return total


def _row(folder: PseudoFolder, clip: Clip | None, video: str, stem: str, thresholds: Int64[np.ndarray, "C"], policy: Policy) -> Row:
    labels, codes = folder.labels(video, stem), folder.codes(video, stem)
    there = clip is not None and stem in clip.stems
    return Row(
        title=f"{video}/{stem}",
        frame=clip.frame(list(clip.stems).index(stem)) if clip is not None and there else None,
        labels=labels,
        doubt=np.sqrt(relative_entropy(codes)),
        reliable=reliable(labels, codes, thresholds),
        truth=_truth(clip, video, stem, labels, policy, DefectCounter()),
    )
