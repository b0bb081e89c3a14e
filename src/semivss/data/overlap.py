"""The labelled sources of a training and a set to score in; what of that set the training has seen, and the set without it, out."""

from collections.abc import Sequence

from semivss.data.clips import VideoDataset
from semivss.data.description import FILE_NAME
from semivss.data.policy import Policy
from semivss.data.source import open_source, without_masks
from semivss.errors import DataError
from semivss.settings import Source
from semivss.wording import counted


def seen_in_training(train: Sequence[Source], scored: Source, dataset: VideoDataset, policy: Policy = "strict") -> list[str]:
    """Names of the videos of `dataset` that were among the labelled training videos, in its order.

    A video is the same where its name is, in the same folder or the same toy world, whatever the splits are called. One of which no
    mask was opened for training does not count.

    Args:
        train: data.train of the recipe.
        scored: the source of `dataset`.
        dataset: what is scored.
        policy: for opening the training sources.

    Raises:
        DataError: a training source cannot be opened.
    """
    seen = {video for video, _ in _learned_masks(train, scored, policy)}
    return [clip.name for clip in dataset.clips if clip.name in seen]


def without_learned(train: Sequence[Source], scored: Source, dataset: VideoDataset, policy: Policy = "strict") -> VideoDataset:
    """`dataset` with the masks out of reach that training learned from: how right a model is on them says nothing about other frames.

    Arguments and errors as of `seen_in_training`.
    """
    return without_masks(dataset, _learned_masks(train, scored, policy))


def _learned_masks(train: Sequence[Source], scored: Source, policy: Policy) -> set[tuple[str, str]]:
    """Video and stem of the training masks in the collection of `scored`."""
    for source in train:
        if source.kind != "toy" and not source.folder().exists():  # moved, or named from another working directory: it may be the same
            raise DataError(f"{source.folder()}: the training data is not there; go to the folder that the run was started in")
    return {
        (clip.name, stem)
        for source in train
        if _place(source) == _place(scored)
        for clip in open_source(source, policy).clips
        for index, stem in enumerate(clip.stems)
        if clip.is_labelled(index)
    }


def warning(seen: Sequence[str], videos: int) -> str:
    """One line for people."""
    return (
        f"{len(seen)} of its {counted(videos, 'video')} {'was' if len(seen) == 1 else 'were'} among the labelled training videos, "
        "so these scores tell how well those were learned, not how well other video is segmented"
    )


def _place(source: Source) -> str:
    """What tells one collection of videos from another."""
    if source.kind == "toy":
        return f"toy {source.toy.seed}"
    folder = source.folder().resolve()
    return str(folder.parent if folder.name == FILE_NAME else folder)
