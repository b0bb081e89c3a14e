"""What results are made from, in; the hashes that tell one making from another, out."""

import hashlib
from pathlib import Path

from semivss.atomic import newest
from semivss.data.clips import VideoDataset
from semivss.data.pseudo import open_pseudo
from semivss.digest import file_sha256
from semivss.errors import SemivssError


def weights_hash(folder: Path) -> str:
    """SHA-256 of a model folder's weights."""
    weights = newest(folder, "model.safetensors")
    if not weights.is_file():
        raise SemivssError(f"{weights}: missing; train the model first with semivss train")
    return file_sha256(weights)


def pseudo_hash(folder: Path) -> str:
    """SHA-256 over the manifest and what became of its files since: another one when labels were corrected by hand."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise SemivssError(f"{folder}: no finished pseudo labels there; run the stage pseudo-label first")
    opened = open_pseudo(folder, accept_edited=True)
    digest = hashlib.sha256(path.read_bytes())
    for name in opened.edited:
        digest.update(f"{name} {file_sha256(folder / f'{name}.png')}".encode())
    return digest.hexdigest()


def split_hash(dataset: VideoDataset, *, labelled: bool = False) -> str:
    """Short hash over the names of all clips and frames: two results with the same hash were measured on the same frames.

    With `labelled` also over which of them have a mask.
    """
    digest = hashlib.sha256()
    for clip in dataset.clips:
        digest.update("\n".join((clip.name, *clip.stems, "")).encode())
        if labelled:
            digest.update(bytes(clip.is_labelled(index) for index in range(len(clip.stems))))
    return digest.hexdigest()[:12]
