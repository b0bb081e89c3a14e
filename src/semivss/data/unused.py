"""An opened data set and the folders it came from in, one line for each kind of file there that is no part of it out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from semivss.data.clips import VideoDataset
from semivss.data.files import FileClip
from semivss.data.video_clip import VideoClip


def unused_files(dataset: VideoDataset, folders: Sequence[Path], out: Path) -> Iterator[str]:
    """Lines such as `left out: 2 .bmp in frames, such as frames/a/0001.bmp`; names that begin with a dot are not ours.

    Args:
        dataset: what was understood.
        folders: where its files lie; a path that is no folder is passed over, and so is a folder inside another.
        out: the folder of the description, which holds other files too.
    """
    known = _used(dataset)
    roots = [folder.resolve() for folder in folders if folder.is_dir()]
    for root in dict.fromkeys(roots):
        others = {other for other in (*roots, out.resolve()) if other != root and other.is_relative_to(root)}
        found: dict[str, list[Path]] = {}
        for path, real in _files(root, others):
            if real not in known:
                found.setdefault(path.suffix.lower() or "files without suffix", []).append(path)
        for suffix, paths in sorted(found.items()):
            yield f"left out: {len(paths)} {suffix} in {root}, such as {paths[0].relative_to(root)}"


def _used(dataset: VideoDataset) -> set[Path]:
    """Files of the data set with resolved folders."""
    used: set[Path] = set()
    for clip in dataset.clips:
        if isinstance(clip, FileClip):
            used.update(clip.frames, (mask for mask in clip.masks if mask))
        elif isinstance(clip, VideoClip):
            used.update((clip.path, *clip.masks_of.values()))
    folders = {path.parent: path.parent.resolve() for path in used}
    return {folders[path.parent] / path.name for path in used}


def _files(folder: Path, seen: set[Path]) -> Iterator[tuple[Path, Path]]:
    """Every file below `folder` in order, as found and with its folder resolved; without hidden ones and without the folders `seen`."""
    real = folder.resolve()
    seen.add(real)
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path, real / path.name
        elif path.resolve() not in seen:  # a link may lead back here
            yield from _files(path, seen)
