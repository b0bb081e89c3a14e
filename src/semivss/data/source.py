"""A data section of a recipe in, an opened data set out: the one place that maps `kind` to a reader."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from semivss.data.clips import Clip, VideoDataset
from semivss.data.files import FileClip, IndexReader
from semivss.data.labels import LabelMap, StrayValuesError, label_set, load_label_map
from semivss.data.policy import Policy
from semivss.errors import DataError
from semivss.settings import Source


def open_source(source: Source, policy: Policy = "strict", *, labels: bool = True) -> VideoDataset:
    """Open one data set of a recipe; masks and frames are read later.

    With `labels=False`, as for an unlabelled stream, no frame of the result is labelled, so that no mask can be opened by mistake.

    `source.remap` is applied to every kind: stills read their masks straight into the target's ids, the others look the target up.

    Raises:
        DataError: the folder, a list or a description is missing or wrong, or the map does not fit the data set.
    """
    dataset = _open(source, policy)
    return dataset if labels else without_labels(dataset)


def open_sources(sources: Sequence[Source], policy: Policy) -> tuple[VideoDataset, ...]:
    """Open data sets that are to be mixed. Raises DataError unless they share one list of classes."""
    datasets = tuple(open_source(source, policy) for source in sources)
    for dataset in datasets[1:]:
        same_classes(datasets[0], dataset)
    return datasets


def open_unlabelled(sources: Sequence[Source], policy: Policy) -> tuple[VideoDataset, ...]:
    """Open data sets of which only frames are wanted: masks are out of reach, and classes may be any. Raises DataError."""
    return tuple(open_source(source, policy, labels=False) for source in sources)


def same_classes(first: VideoDataset, other: VideoDataset) -> None:
    """Raise DataError unless both have the same classes in the same order."""
    if other.label_set.names != first.label_set.names:
        raise DataError(
            f"{other.name} has the classes of {other.label_set.name}, {first.name} those of {first.label_set.name}; "
            "give one of them a remap to the other's classes"
        )


def _open(source: Source, policy: Policy) -> VideoDataset:
    if source.kind != "toy" and not source.folder().exists():
        written = f" ({source.path})" if "$" in source.path else ""
        raise DataError(f"{source.folder()}{written}: no such file or folder; mend the data path of the recipe, or override it with -o")
    match source.kind:
        case "vspw":
            from semivss.data.vspw import read_vspw

            return remapped(read_vspw(source.folder(), source.split, labelled=source.labelled, policy=policy), source.remap)
        case "folder":
            from semivss.data.folder import read_folder

            return remapped(read_folder(source.folder(), source.split, labelled=source.labelled, policy=policy), source.remap)
        case "toy":
            from semivss.data.toy import toy_dataset

            return remapped(toy_dataset(source.toy), source.remap)
        case "ade20k":
            from semivss.data.stills import read_ade20k

            return read_ade20k(source.folder(), source.split, labelled=source.labelled, remap=source.remap, policy=policy)
        case "coco_stuff":
            from semivss.data.stills import read_coco_stuff

            return read_coco_stuff(source.folder(), source.split, labelled=source.labelled, remap=source.remap, policy=policy)
        case "coco_panoptic":
            from semivss.data.stills import read_coco_panoptic

            return read_coco_panoptic(source.folder(), source.split, labelled=source.labelled, remap=source.remap, policy=policy)
        case "cityscapes":
            from semivss.data.stills import read_cityscapes

            return read_cityscapes(source.folder(), source.split, labelled=source.labelled, remap=source.remap, policy=policy)


def remapped(dataset: VideoDataset, remap: str | None) -> VideoDataset:
    """`dataset` with its training ids looked up in the label map `remap`; itself without one.

    Raises:
        DataError: the map's source classes are not those of the data set.
    """
    if remap is None:
        return dataset
    label_map = load_label_map(remap)
    if label_map.source_names != dataset.label_set.names:
        theirs, ours = len(label_map.source_names), len(dataset.label_set)
        raise DataError(
            f"{dataset.name}: label map {remap} is for {theirs} other classes than the {ours} of this data set; choose its map, or none"
        )
    return VideoDataset(
        dataset.name, label_set(label_map.target), tuple(_remapped_clip(clip, label_map) for clip in dataset.clips), dataset.defects
    )


def without_labels(dataset: VideoDataset) -> VideoDataset:
    """The same frames with every mask out of reach."""
    clips = tuple(_hidden(clip, frozenset(clip.stems)) for clip in dataset.clips)
    return VideoDataset(dataset.name, dataset.label_set, clips, dataset.defects)


def without_masks(dataset: VideoDataset, hidden: Collection[tuple[str, str]]) -> VideoDataset:
    """The same frames with the masks `hidden` (video, stem) out of reach."""
    clips = tuple(_hidden(clip, frozenset(stem for stem in clip.stems if (clip.name, stem) in hidden)) for clip in dataset.clips)
    return VideoDataset(dataset.name, dataset.label_set, clips, dataset.defects)


def _hidden(clip: Clip, hidden: frozenset[str]) -> Clip:
    if not isinstance(clip, FileClip):
        return ClipWithout(clip, hidden)
    return replace(clip, masks=tuple(None if stem in hidden else mask for stem, mask in zip(clip.stems, clip.masks, strict=True)))


def _remapped_clip(clip: Clip, label_map: LabelMap) -> Clip:
    if isinstance(clip, FileClip) and isinstance(clip.read_labels, IndexReader):
        return replace(clip, read_labels=IndexReader(clip.read_labels.table.then(label_map.ids)))
    return RemappedClip(clip, label_map)


class _ClipOver:
    """Another clip's frames and names of files."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self.name, self.stems, self.frame, self.stream = clip.name, clip.stems, clip.frame, clip.stream

    @property
    def masks(self) -> Sequence[Path | None] | None:
        """Mask file of each frame, if the clip is made of files."""
        return getattr(self._clip, "masks", None)


class RemappedClip(_ClipOver):
    """Another clip with its training ids looked up in a label map. Implements `Clip`."""

    def __init__(self, clip: Clip, label_map: LabelMap) -> None:
        super().__init__(clip)
        self._ids, self.is_labelled = label_map.ids, clip.is_labelled

    def labels(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Target ids, 255 where there is no counterpart. Raises DefectError as the clip does."""
        try:
            return self._ids[self._clip.labels(index)]
        except StrayValuesError as error:
            error.labels = None if error.labels is None else self._ids[error.labels]
            raise


class ClipWithout(_ClipOver):
    """Another clip without the masks of the frames `hidden`. Implements `Clip`."""

    def __init__(self, clip: Clip, hidden: frozenset[str]) -> None:
        super().__init__(clip)
        self._hidden = hidden

    def is_labelled(self, index: int) -> bool:
        """Whether the clip has a mask that is not hidden."""
        return self.stems[index] not in self._hidden and self._clip.is_labelled(index)

    def labels(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """As the clip. Raises IndexError for a mask that is hidden."""
        if self.stems[index] in self._hidden:
            raise IndexError(f"the mask of frame {self.stems[index]} of {self.name} is out of reach")
        return self._clip.labels(index)
