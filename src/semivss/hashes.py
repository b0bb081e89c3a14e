"""What results are made from, in; the hashes that tell one making from another, out."""

import hashlib
import itertools
from pathlib import Path

from semivss.data.clips import VideoDataset
from semivss.data.policy import read_labels
from semivss.data.pseudo import open_pseudo
from semivss.digest import file_sha256


def pseudo_hash(folder: Path) -> str:
    """SHA-256 over the manifest and what became of its files since: another one when labels were corrected by hand.

    Raises DataError as `open_pseudo` does.
    """
    opened = open_pseudo(folder, accept_edited=True)
    digest = hashlib.sha256((folder / "manifest.json").read_bytes())
    for name in opened.edited:
        digest.update(f"{name} {file_sha256(folder / f'{name}.png')}".encode())
    return digest.hexdigest()


def split_hash(dataset: VideoDataset, *, labelled: bool = False) -> str:
    """Short hash over the names of all clips and frames: two results with the same hash were measured on the same frames.

    With `labelled` over the clips that have a mask alone, and which of their frames have one: what a supervised training reads.
    """
    digest = hashlib.sha256()
    for clip in dataset.clips:
        masks = bytes(clip.is_labelled(index) for index in range(len(clip.stems))) if labelled else b""
        if any(masks) or not labelled:
            digest.update("\n".join((clip.name, *clip.stems, "")).encode() + masks)
    return digest.hexdigest()[:12]


def classes_hash(dataset: VideoDataset) -> str:
    """Short hash over the classes in their order and over what the first mask is read as: another one after another offset or map."""
    digest = hashlib.sha256("\n".join(dataset.label_set.names).encode())
    masks = ((clip, index) for clip in dataset.clips for index in range(len(clip.stems)) if clip.is_labelled(index))
    for clip, index in itertools.islice(masks, 1):
        labels, _ = read_labels(clip, index, "ignore")
        digest.update(b"" if labels is None else labels.tobytes())
    return digest.hexdigest()[:12]
