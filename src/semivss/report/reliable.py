"""Pseudo labels of a run in; pictures of the pixels that the recipe's threshold keeps and drops out, with how right both are.

The masks of unlabelled video, where a data set has them, are opened here for the reader of the report; those that training saw are not.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt16

from semivss.data.clips import Clip
from semivss.data.codes import BIN_WIDTH, code_of_entropy, cuts_of, entropy_of_code, relative_entropy, reliable
from semivss.data.labels import IGNORE
from semivss.data.overlap import without_learned
from semivss.data.palette import colorize
from semivss.data.policy import read_labels
from semivss.data.pseudo import PseudoFolder, dataset_thresholds, open_pseudo
from semivss.data.source import open_source
from semivss.errors import DefectError, SemivssError
from semivss.layout import pseudo_folders, rounds
from semivss.metrics.reliability import Kept, Reliability
from semivss.progress import track
from semivss.recipe import Recipe
from semivss.report.pictures import PANEL_WIDTH, fit, heat, jpeg, legend, png
from semivss.settings import Source, Threshold

MOST_FRAMES = 100  # that are looked at to rank them
MOST_CORRECTED = 2  # rows of frames corrected by hand
_STRIPES = np.array([(241, 245, 249), (203, 213, 225)], np.uint8)


@dataclass(frozen=True)
class FrameRow:
    """One pseudo-labelled frame."""

    rank: str  # least, median, most or corrected
    name: str  # <folder>/<video>/<stem>
    counts: Kept
    pictures: tuple[tuple[str, str], ...]  # caption, data URI
    legend: tuple[tuple[str, str], ...]  # class name, CSS colour


@dataclass(frozen=True)
class Reliable:
    """What the page shows of the pseudo labels that the final models were retrained with."""

    cut: str  # where the threshold comes from
    frames: int  # that were looked at
    of: int  # frames whose pseudo label is the models'
    corrected: int  # frames whose pseudo label is a person's
    counts: Kept  # of all frames that were looked at
    rows: tuple[FrameRow, ...]
    edited_since: tuple[str, ...]  # frames corrected by hand that the scores do not know of
    gap: str  # why there is nothing to see, or why frames and truth are missing


@dataclass(frozen=True)
class _Labelled:
    """A folder of pseudo labels and the clips it belongs to; without clips there are neither frames nor masks."""

    folder: PseudoFolder
    clips: dict[str, Clip]
    name: str

    def truth(self, video: str, stem: str, shape: tuple[int, ...]) -> UInt8[np.ndarray, "H W"] | None:
        """The mask of a frame, where there is one of that shape that can be read."""
        clip = self.clips.get(video)
        index = list(clip.stems).index(stem) if clip is not None and stem in clip.stems else None
        if clip is None or index is None or not clip.is_labelled(index):
            return None
        truth = read_labels(clip, index, "ignore")[0]
        return truth if truth is not None and truth.shape == shape else None

    def frame(self, video: str, stem: str) -> UInt8[np.ndarray, "H W 3"] | None:
        """The picture itself. Raises DefectError."""
        clip = self.clips.get(video)
        return clip.frame(list(clip.stems).index(stem)) if clip is not None and stem in clip.stems else None


_Name = tuple[_Labelled, str, str]  # video, stem


def reliable_pixels(run: Path, recipe: Recipe, known_edits: Sequence[str] = ()) -> Reliable | None:
    """Pictures of the frames with the smallest, the median and the largest share of kept pixels, of the last round that has been labelled.

    None where the recipe stores no pseudo labels. `known_edits` are those that the scores name: `<folder>/<video>/<stem>`.
    """
    made = [
        names for number in rounds(recipe) if (names := pseudo_folders(recipe, number)) and (run / names[0] / "manifest.json").is_file()
    ]
    if recipe.semi is None or recipe.semi.mode != "offline":
        return None
    if not made:
        return _nothing("No pictures: this run has no finished pseudo labels yet.")
    labelled, gaps = [], []
    for name, source in zip(made[-1], recipe.data.unlabelled, strict=True):
        try:
            folder = open_pseudo(run / name, accept_edited=True)
        except SemivssError as error:  # the numbers are worth a page without these pictures
            return _nothing(f"No pictures: {error}")
        clips, gap = _clips(folder, source, recipe)
        labelled.append(_Labelled(folder, clips, name))
        gaps += [gap] * bool(gap)
    since = [f"{one.name}/{name}" for one in labelled for name in one.folder.edited]
    return _shown(labelled, recipe.semi.threshold, tuple(name for name in since if name not in known_edits), " ".join(gaps))


def _nothing(gap: str) -> Reliable:
    return Reliable("", 0, 0, 0, Kept(None, None, None), (), (), gap)


def _clips(folder: PseudoFolder, source: Source, recipe: Recipe) -> tuple[dict[str, Clip], str]:
    policy = recipe.data.policy
    try:
        dataset = without_learned(recipe.data.train, source, open_source(source, policy), policy)
    except SemivssError as error:
        return {}, f"Without frames and truth: {error}"
    if dataset.label_set.names != folder.label_set.names:
        return {}, f"Without frames and truth: {dataset.name} has other classes than the pseudo labels now."
    return {clip.name: clip for clip in dataset.clips}, ""


def _shown(labelled: Sequence[_Labelled], threshold: Threshold, since: tuple[str, ...], gap: str) -> Reliable:
    names = [(one, video, stem) for one in labelled for video in sorted(one.folder.stems) for stem in sorted(one.folder.stems[video])]
    own = [(one, video, stem) for one, video, stem in names if not one.folder.is_edited(video, stem)]  # a person's are all certain
    corrected = [(one, video, stem) for one, video, stem in names if one.folder.is_edited(video, stem)]
    looked_at = [own[round(float(place))] for place in np.linspace(0, len(own) - 1, min(MOST_FRAMES, len(own)))] if own else []
    cuts = thresholds([one.folder for one in labelled], threshold)
    total, counted = Reliability(len(cuts)), []
    for name in track(looked_at, "pseudo labels", total=len(looked_at), unit="frames"):
        with contextlib.suppress(DefectError):  # a damaged file is named where it is needed
            frame = _counts(name)
            total += frame
            counted.append((frame.kept(cuts), name))
    rows = (*_ranked(counted, cuts), *_corrected(corrected[:MOST_CORRECTED], cuts))
    return Reliable(_cut_text(threshold, cuts), len(counted), len(own), len(corrected), total.kept(cuts), rows, since, gap)


def thresholds(folders: Sequence[PseudoFolder], threshold: Threshold) -> Int64[np.ndarray, "C"]:
    """Codes from which on a pixel of each pseudo class is unreliable, at the alpha of the first step, as edges of the histogram's bins.

    Percentiles are those over all pixels of `folders`; training with `batch_percentile` takes them within each batch instead.
    """
    if threshold.kind == "absolute":
        classes = len(folders[0].label_set)
        bins = math.ceil(int(code_of_entropy(threshold.gamma, classes)) / BIN_WIDTH)
        return np.full(classes, bins * BIN_WIDTH, np.int64)
    return dataset_thresholds(folders, threshold.alpha, threshold.per_class)


def _cut_text(threshold: Threshold, cuts: Int64[np.ndarray, "C"]) -> str:
    shown = [float(entropy_of_code(code, len(cuts))) for code in cuts_of(cuts)]
    nats = " to ".join(f"{cut:.3f}" for cut in (*shown[:1], *shown[1:][-1:]))
    where = f"from {nats} nats on a pixel is unreliable" if shown else "every pixel is reliable"
    if threshold.kind == "absolute":
        return f"Threshold: the entropy set in the recipe, {where}."
    start = " at the start of training" if threshold.schedule == "linear" else ""
    over = "within each pseudo class" if threshold.per_class else "over all pseudo-labelled pixels"
    text = f"Threshold: alpha = {threshold.alpha:g} %{start}, as a percentile {over}: {where}."
    if threshold.kind == "batch_percentile":
        text += " In training each batch has the percentile of its own pixels, which scatters around this one."
    return text + (" Alpha falls to 0 towards the end of training." if threshold.schedule == "linear" else "")


def _counts(name: _Name) -> Reliability:
    one, video, stem = name
    labels = one.folder.labels(video, stem)
    counts = Reliability(len(one.folder.label_set))
    counts.update(labels, one.folder.codes(video, stem), one.truth(video, stem, labels.shape))
    return counts


def _dropped(labels: UInt8[np.ndarray, "H W"], codes: UInt16[np.ndarray, "H W"], cuts: Int64[np.ndarray, "C"]) -> Bool[np.ndarray, "H W"]:
    """Pixels with a pseudo label that is unreliable."""
    return (labels != IGNORE) & ~reliable(labels, codes, cuts)


def _ranked(counted: Sequence[tuple[Kept, _Name]], cuts: Int64[np.ndarray, "C"]) -> Iterator[FrameRow]:
    ranked = sorted((entry for entry in counted if entry[0].kept is not None), key=lambda entry: entry[0].kept or 0.0)
    if not ranked:
        return
    seen: set[int] = set()
    for rank, place in (("least", 0), ("median", len(ranked) // 2), ("most", len(ranked) - 1)):
        if place not in seen:
            seen.add(place)
            with contextlib.suppress(DefectError):
                yield _row(rank, *ranked[place], cuts)


def _corrected(names: Sequence[_Name], cuts: Int64[np.ndarray, "C"]) -> Iterator[FrameRow]:
    for name in names:
        with contextlib.suppress(DefectError):
            yield _row("corrected", _counts(name).kept(cuts), name, cuts)


def _row(rank: str, counts: Kept, name: _Name, cuts: Int64[np.ndarray, "C"]) -> FrameRow:
    one, video, stem = name
    labels, codes = one.folder.labels(video, stem), one.folder.codes(video, stem)
    frame, truth, label_set = one.frame(video, stem), one.truth(video, stem, labels.shape), one.folder.label_set
    colored = fit(colorize(labels, label_set.colors), PANEL_WIDTH, smooth=False)
    dropped = fit(_dropped(labels, codes, cuts)[..., None].repeat(3, 2).astype(np.uint8), PANEL_WIDTH, smooth=False)
    pictures = [] if frame is None else [("frame", jpeg(fit(frame, PANEL_WIDTH)))]
    pictures += [("pseudo label", png(colored)), ("entropy", jpeg(fit(heat(relative_entropy(codes)), PANEL_WIDTH)))]
    pictures += [("reliable pixels", png(np.where(dropped > 0, _stripes(colored.shape[:2]), colored)))]
    pictures += [] if truth is None else [("truth", png(fit(colorize(truth, label_set.colors), PANEL_WIDTH, smooth=False)))]
    shown = legend(label_set, *([labels] if truth is None else [labels, truth]))
    return FrameRow(rank, f"{one.name}/{video}/{stem}", counts, tuple(pictures), shown)


def _stripes(shape: tuple[int, ...]) -> UInt8[np.ndarray, "H W 3"]:
    """Grey stripes: no class looks like that."""
    rows, columns = np.indices(shape)
    return _STRIPES[(rows + columns) // 3 % 2]
