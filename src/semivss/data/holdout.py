"""An opened data set and the wish for validation videos in, its description with the splits train and val out."""

from collections.abc import Sequence
from dataclasses import dataclass

from semivss.data.clips import Clip, VideoDataset
from semivss.data.description import Description
from semivss.errors import DataError
from semivss.progress import say
from semivss.wording import counted


@dataclass(frozen=True)
class Holdout:
    """Which videos become the split "val": these, or a share (above 0, below 1) of those with masks. By default none."""

    videos: tuple[str, ...] = ()
    share: float | None = None

    def __bool__(self) -> bool:
        return bool(self.videos) or self.share is not None


def split_off(description: Description, dataset: VideoDataset, holdout: Holdout) -> Description:
    """The description with every video in exactly one of the splits train and val; unlabelled videos are for training.

    A share of n labelled videos is round(share * n) of them, but at least one, evenly spread over their order.

    Raises:
        DataError: a video is unknown or has no masks, no labelled one is left to train on, or the data set has splits already.
    """
    if list(description.splits) != ["train"] or description.splits["train"] != "all":
        raise DataError(f"{description.name}: has the splits {', '.join(description.splits)} already; leave out --val and --val-share")
    labelled = [clip.name for clip in dataset.clips if _is_labelled(clip)]
    chosen = _of_share(holdout.share, labelled) if holdout.share is not None else holdout.videos
    names = [clip.name for clip in dataset.clips]
    for name in chosen:
        if name not in labelled:
            why = "has no masks to compare with" if name in names else "is no video of the data set"
            raise DataError(f"--val {name}: {why}; choose among {_some(labelled) or 'videos with masks, of which there are none'}")
    if not set(labelled) - set(chosen):
        detail = f"{counted(len(labelled), 'labelled video')}, so none with masks would be left to train on"
        remedy = "label frames of another video, or list single frames in [splits] of dataset.toml"
        raise DataError(f"{description.name}: {detail}; {remedy}")
    say(f"validation: {len(set(chosen))} of {len(labelled)} labelled videos: {_some(chosen)}")
    splits = {"train": tuple(name for name in names if name not in chosen), "val": tuple(name for name in names if name in chosen)}
    return description.model_copy(update={"splits": splits})


def _of_share(share: float, labelled: Sequence[str]) -> tuple[str, ...]:
    if not 0 < share < 1:
        raise DataError(f"--val-share {share:g}: not a share of the videos; give a number above 0 and below 1, such as 0.2")
    count = max(1, min(round(share * len(labelled)), len(labelled) - 1))
    return tuple(labelled[(2 * k + 1) * len(labelled) // (2 * count)] for k in range(count)) if labelled else ()


def _is_labelled(clip: Clip) -> bool:
    return any(clip.is_labelled(index) for index in range(len(clip.stems)))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
