"""The labelled sources of a training and a set to score in, the videos of that set whose masks the training has seen out."""

from collections.abc import Sequence

from semivss.data.clips import VideoDataset
from semivss.data.policy import Policy
from semivss.data.source import open_source
from semivss.settings import Source


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
    seen = {
        clip.name
        for source in train
        if _place(source) == _place(scored)
        for clip in open_source(source, policy).clips
        if any(clip.is_labelled(index) for index in range(len(clip.stems)))
    }
    return [clip.name for clip in dataset.clips if clip.name in seen]


def warning(seen: Sequence[str], videos: int) -> str:
    """One line for people."""
    return (
        f"{len(seen)} of its {videos} videos were among the labelled training videos, so these scores tell how well those were learned, "
        "not how well other video is segmented"
    )


def _place(source: Source) -> str:
    """What tells one collection of videos from another."""
    return f"toy {source.toy.seed}" if source.kind == "toy" else str(source.folder().resolve())
