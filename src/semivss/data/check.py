"""A path in, what semivss makes of it out: kind, splits, sizes, pixels a class, and every defect with its file and remedy.

Everything is read once. The table and the picture that show it are in `check_view`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from semivss.data.check_result import CheckResult, DefectLine, Sample, SplitResult
from semivss.data.check_view import render, write_preview
from semivss.data.clips import Clip, VideoDataset
from semivss.data.description import FILE_NAME
from semivss.data.detect import detect_kind, other_kinds, shared_videos, splits_of
from semivss.data.folder import LEFT_OUT
from semivss.data.labels import IGNORE, LabelSet
from semivss.data.policy import Pair, Policy, read_labels, read_pair
from semivss.data.source import open_source
from semivss.data.video import SUFFIXES, VideoFile
from semivss.data.video_clip import VideoClip
from semivss.errors import DefectError
from semivss.progress import say, track
from semivss.settings import Source
from semivss.wording import counted

_SAMPLES = 6  # frames in the preview
_MUCH_IGNORED = 0.5  # share of the labelled frames' pixels from which a warning is due
_REMEDY = {  # of defects that are known by name only, because they were found while listing files
    "missing_mask": "the frame has no mask; add the mask, or name the labelled frames in a list",
    "missing_frame": "; ".join(LEFT_OUT["missing_frame"]),
    "listed_frame": "the frame is listed but not there; correct the list, or add the frame",
    "missing_video": "the video is listed but not there; correct the list, or add the video",
    "empty_video": "the folder holds no frames; add .jpg or .png frames, or take it off the list",
}


def run_check(path: Path, *, split: str | None = None, kind: str = "auto", policy: Policy = "strict", out: Path | None = None) -> int:
    """Check `path`, print the tables and every defect, write the preview picture, and return the exit code.

    Returns:
        2 if there are defects and the policy is strict, else 0.

    Raises:
        DataError: it is no data set or video, or cannot be opened at all.
    """
    result = check(path, split=split, kind=kind, policy=policy)
    render(result)
    target = out or Path(f"check_{_short_name(Path(path).resolve())}.png")
    if write_preview(result, target):
        say(f"preview: {target}")
    defects = len(result.defects)
    if not defects:
        return 0
    say(
        f"semivss: {path}: {counted(defects, 'defect')}"
        + (
            "; mend them, or go on without: train and run with -o data.policy=skip, predict and score with --policy skip"
            if policy == "strict"
            else f", policy {policy}"
        )
    )
    return 2 if policy == "strict" else 0


def _short_name(path: Path) -> str:
    return path.parent.name if path.name == FILE_NAME else path.name if path.is_dir() else path.stem


def check(path: Path, *, split: str | None = None, kind: str = "auto", policy: Policy = "strict") -> CheckResult:
    """Read every frame and mask below `path`.

    Args:
        path: a data set's folder, a dataset.toml, or a video.
        split: only this one.
        kind: a kind of `recipe.Source`, or auto.
        policy: what the counts hold of damaged files: nothing (strict, skip) or what is sound (ignore). All defects are listed anyway.

    Raises:
        DataError: it is no data set or video, or cannot be opened at all.
    """
    path = Path(path)
    if kind == "auto" and path.suffix.lower() in SUFFIXES and not path.is_dir():
        return CheckResult(path, "video", (_check_split("video", _video_dataset(path), policy),))
    found = detect_kind(path) if kind == "auto" else kind
    names = (split,) if split else splits_of(path, found)
    results, frames = [], {}
    for name in names:
        source = Source.model_validate({"kind": found, "path": str(path.resolve()), "split": name})
        dataset = open_source(source, "ignore")
        results.append(_check_split(name, dataset, policy))
        frames[name] = {f"{clip.name}/{stem}" for clip in dataset.clips for stem in clip.stems} if found == "folder" else set()
    warnings = (*shared_videos(path, found, names), *_shared_frames(frames), *_mostly_ignored(results))
    return CheckResult(path, found, tuple(results), tuple(other_kinds(path, found)), warnings)


def _shared_frames(splits: Mapping[str, set[str]]) -> Iterator[str]:
    for first, second in itertools.combinations(splits, 2):
        if shared := splits[first] & splits[second]:
            yield f"{len(shared)} frames are in {first} and in {second}, such as {min(shared)}; scores of one say nothing about new video"


def _mostly_ignored(splits: Sequence[SplitResult]) -> Iterator[str]:
    for split in splits:
        share = int(split.pixels[IGNORE]) / max(1, int(split.pixels.sum()))
        if share > _MUCH_IGNORED:
            yield f"{split.name}: {share:.0%} of the pixels of labelled frames are ignored; compare ids, offset and classes with the masks"


def _video_dataset(path: Path) -> VideoDataset:
    classes = LabelSet("unlabelled", ("class 0", "class 1"), ((0, 0, 0), (0, 0, 0)), (False, False))
    return VideoDataset(path.stem, classes, (VideoClip(path, _count(path)),))


def _count(path: Path) -> int:
    try:
        return VideoFile(path).count()
    except DefectError as error:
        if error.kind != "truncated":
            raise
        return sum(1 for _ in VideoFile(path).stream(on_defect=lambda _: None))  # the defect is told when the frames are read


def _check_split(name: str, dataset: VideoDataset, policy: Policy) -> SplitResult:
    result = SplitResult(name, dataset.label_set, clips=len(dataset.clips))
    result.defects += [DefectLine(kind, f"{file}: {_remedy(kind)}") for kind, files in dataset.defects.items() for file in files]
    chosen = _chosen(dataset)
    total = sum(len(clip.stems) for clip in dataset.clips)
    for clip, index, pair in track(_pairs(dataset, result, policy), f"reading {name}", total=total):
        if pair is None:
            continue
        _count_pair(result, pair)
        if (clip.name, index) in chosen:
            result.samples.append(Sample.of(f"{name}  {clip.name}/{clip.stems[index]}", pair.frame, pair.labels, dataset.label_set.colors))
    return result


def _remedy(kind: str) -> str:
    return _REMEDY.get(kind, f"{kind.replace('_', ' ')}; mend or remove the file")


def _chosen(dataset: VideoDataset) -> set[tuple[str, int]]:
    """Frames for the preview, spread evenly; labelled ones where there are some."""
    every = [(clip, index) for clip in dataset.clips for index in range(len(clip.stems))]
    labelled = [(clip, index) for clip, index in every if clip.is_labelled(index)] or every
    places = np.linspace(0, len(labelled) - 1, min(_SAMPLES, len(labelled))).round().astype(int).tolist()
    return {(labelled[place][0].name, labelled[place][1]) for place in places}


def _pairs(dataset: VideoDataset, result: SplitResult, policy: Policy) -> Iterator[tuple[Clip, int, Pair | None]]:
    for clip in dataset.clips:
        if isinstance(clip, VideoClip):
            yield from _video_pairs(clip, result, policy)
            continue
        for index in range(len(clip.stems)):
            yield clip, index, _pair(clip, index, result, policy)


def _pair(clip: Clip, index: int, result: SplitResult, policy: Policy) -> Pair | None:
    """The pair as far as it is sound; what is not goes into `result.defects`."""
    try:
        return read_pair(clip, index, "strict")[0]
    except DefectError as error:
        result.defects.append(DefectLine(error.kind, error.told(None)))
    pair, defects = read_pair(clip, index, "ignore" if policy == "ignore" else "skip")
    if pair is None and clip.is_labelled(index) and defects[0].kind == result.defects[-1].kind:
        _check_mask_too(clip, index, result)
    return pair


def _check_mask_too(clip: Clip, index: int, result: SplitResult) -> None:
    """A broken frame hides the state of its mask: look at that by itself."""
    try:
        read_labels(clip, index, "strict")
    except DefectError as error:
        if result.defects[-1].line != error.told(None):
            result.defects.append(DefectLine(error.kind, error.told(None)))


def _video_pairs(clip: VideoClip, result: SplitResult, policy: Policy) -> Iterator[tuple[Clip, int, Pair | None]]:
    """Frames in one pass, as a video tells lost frames only at its end."""
    seen = 0
    try:
        file = VideoFile(clip.path)
        result.rates[round(file.fps, 3)] += 1
        for index, (_, frame) in enumerate(
            file.stream(on_defect=lambda error: result.defects.append(DefectLine(error.kind, error.told(None))))
        ):
            seen = index + 1
            yield clip, index, _with_labels(clip, index, frame, result, policy)
    except DefectError as error:
        result.defects.append(DefectLine(error.kind, error.told(None)))
        return
    if seen != clip.count:
        remedy = "import the video again, and check that masks still carry the right frame numbers"
        result.defects.append(DefectLine("frame_count", f"{clip.path}: {seen} frames decode, {clip.count} are described; {remedy}"))


class _OneFrame:
    """A decoded frame of a clip in the place of the clip, so that the policy is applied without decoding it again."""

    def __init__(self, clip: VideoClip, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        self.name, self.stems, self.is_labelled, self.labels, self.stream = (
            clip.name,
            clip.stems,
            clip.is_labelled,
            clip.labels,
            clip.stream,
        )
        self._frame = frame

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return self._frame


def _with_labels(clip: VideoClip, index: int, frame: UInt8[np.ndarray, "H W 3"], result: SplitResult, policy: Policy) -> Pair | None:
    return _pair(_OneFrame(clip, frame), index, result, policy) if clip.is_labelled(index) else Pair(frame, None)


def _count_pair(result: SplitResult, pair: Pair) -> None:
    height, width = pair.frame.shape[:2]
    result.frames += 1
    result.sizes[height, width] += 1
    if pair.labels is not None:
        counts = np.bincount(pair.labels.ravel(), minlength=256)
        result.labelled += 1
        result.pixels += counts
        result.frames_with += counts > 0
