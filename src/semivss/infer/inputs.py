"""What somebody wants segmented (a data set, a frame folder, video files) in; videos that can be streamed out."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from semivss.data.clips import Clip, VideoDataset
from semivss.data.images import read_frame
from semivss.data.lists import image_files
from semivss.data.policy import DefectCounter, Policy
from semivss.data.video import SUFFIXES, VideoFile
from semivss.data.video_clip import VideoClip
from semivss.errors import DataError, DefectError

Frames = Iterator[tuple[str, UInt8[np.ndarray, "_ _ 3"]]]
OnDefect = Callable[[DefectError], None]  # raises, or takes note so that reading goes on
_EDGE = 1 << 20  # bytes at either end of a video file that tell it from another


@runtime_checkable
class InputVideo(Protocol):
    """One video to segment. Nothing is opened before it is asked for."""

    @property
    def name(self) -> str:
        """Folder name of its predictions."""
        ...

    def frames(self, on_defect: OnDefect) -> Frames:
        """(stem, RGB frame) in order, one at a time; what cannot be read goes to `on_defect`."""
        ...

    def count(self) -> int | None:
        """Number of frames; none where it cannot be told."""
        ...

    def fps(self) -> float | None:
        """Frames a second; none for a folder of frames."""
        ...

    def identity(self) -> str:
        """Hash that differs between different inputs of the same name, without reading everything."""
        ...

    def sources(self) -> Iterable[Path]:
        """A file of the video, which predictions must not overwrite."""
        ...


@dataclass(frozen=True)
class ClipInput:
    """A clip of a data set."""

    clip: Clip

    @property
    def name(self) -> str:
        return self.clip.name

    def frames(self, on_defect: OnDefect) -> Frames:
        for index, stem in enumerate(self.clip.stems):
            try:
                frame = self.clip.frame(index)
            except DefectError as error:
                on_defect(error)
                continue
            yield stem, frame

    def count(self) -> int | None:
        return len(self.clip.stems)

    def fps(self) -> float | None:
        return None

    def identity(self) -> str:
        """Stems, sizes of the frame files where there are files, and the first frame's content."""
        digest = hashlib.sha256("\n".join(self.clip.stems).encode())
        for path in getattr(self.clip, "frames", ()):
            digest.update(f"{path.stat().st_size if path.is_file() else -1} ".encode())
        try:
            digest.update(np.ascontiguousarray(self.clip.frame(0)).tobytes())
        except DefectError as error:
            digest.update(error.kind.encode())
        return digest.hexdigest()[:16]

    def sources(self) -> Iterable[Path]:
        return list(getattr(self.clip, "frames", ()))[:1]


@dataclass(frozen=True)
class VideoInput:
    """A video file."""

    path: Path
    name: str

    def frames(self, on_defect: OnDefect) -> Frames:
        try:
            video = VideoFile(self.path)
        except DefectError as error:
            on_defect(error)
            return
        yield from video.stream(on_defect=on_defect)

    def count(self) -> int | None:
        try:
            return VideoFile(self.path).count()
        except DefectError:  # told when the frames are read
            return None

    def fps(self) -> float | None:
        return VideoFile(self.path).fps

    def identity(self) -> str:
        """Size of the file, its first and its last megabyte."""
        if not self.path.is_file():
            return "missing"
        with self.path.open("rb") as file:
            digest = hashlib.sha256(file.read(_EDGE))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _EDGE))
            digest.update(file.read() + str(size).encode())
        return digest.hexdigest()[:16]

    def sources(self) -> Iterable[Path]:
        return [self.path]


@dataclass(frozen=True)
class FrameFolder:
    """Pictures in a folder as a clip without labels. Implements `Clip`."""

    name: str
    frames: tuple[Path, ...] = field(repr=False)

    @property
    def stems(self) -> Sequence[str]:
        return tuple(path.stem for path in self.frames)

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """RGB frame. Raises DefectError for a damaged file."""
        return read_frame(self.frames[index])

    def is_labelled(self, index: int) -> bool:
        """Never."""
        return False

    def labels(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Nothing to read: always raises IndexError."""
        raise IndexError(f"{self.name} has no labels")

    def stream(self) -> Iterator[tuple[str, UInt8[np.ndarray, "H W 3"]]]:
        """(stem, frame) in order, holding one frame at a time."""
        for path in self.frames:
            yield path.stem, read_frame(path)


def open_inputs(
    source: Path | Sequence[Path], *, split: str | None = None, policy: Policy = "strict", left_out: DefectCounter | None = None
) -> tuple[InputVideo, ...]:
    """Recognise what lies at `source`; frames are read later.

    A folder with dataset.toml or in the VSPW layout is a data set (`split`, or every video of it); a folder of pictures is one video named
    after the folder; a folder of such folders and of video files is many; a video file is one. Several sources are put together.
    What a data set's reader had to leave out under skip or ignore is added to `left_out`.

    Raises:
        DataError: nothing to segment there, a split where there is none, or two videos of one name.
    """
    paths = [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
    counter = DefectCounter() if left_out is None else left_out
    found = [video for path in paths for video in _recognise(path, split, policy, counter)]
    seen: dict[str, InputVideo] = {}
    for video in found:
        if video.name in seen:
            raise DataError(f"{_where(video)}: there is a second video named {video.name} ({_where(seen[video.name])}); rename one of them")
        seen[video.name] = video
    return tuple(found)


def from_dataset(dataset: VideoDataset, left_out: DefectCounter | None = None) -> tuple[InputVideo, ...]:
    """The clips of a data set as videos to segment; the defects that its reader met are added to `left_out`."""
    if left_out is not None:
        left_out.merge(DefectCounter({kind: files for kind, files in dataset.defects.items() if kind != "missing_mask"}))  # opens none
    return tuple(VideoInput(clip.path, clip.name) if isinstance(clip, VideoClip) else ClipInput(clip) for clip in dataset.clips)


def _where(video: InputVideo) -> str:
    return str(next(iter(video.sources()), video.name))


def _recognise(path: Path, split: str | None, policy: Policy, left_out: DefectCounter) -> Sequence[InputVideo]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give a data set, a folder of frames or a video")
    if path.name.endswith(".toml") or (path / "dataset.toml").is_file():
        return _described(path, split, policy, left_out)
    if path.is_dir() and (path / "data").is_dir() and any((folder / "origin").is_dir() for folder in (path / "data").iterdir()):
        return _vspw(path, split, policy, left_out)
    if split is not None:
        raise DataError(f"{path}: split {split} is asked for, but this is no data set; leave --split out")
    if path.is_dir():
        return _loose(path)
    if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
        raise DataError(f"{path}: a single picture; give the folder that holds it")
    return (VideoInput(path, path.stem),)


def _described(path: Path, split: str | None, policy: Policy, left_out: DefectCounter) -> Sequence[InputVideo]:
    from semivss.data.description import FILE_NAME, load_description
    from semivss.data.folder import read_folder

    file = path / FILE_NAME if path.is_dir() else path
    splits = [split] if split is not None else list(load_description(file).splits)
    return [video for name in splits for video in from_dataset(read_folder(file, name, policy=policy), left_out)]


def _vspw(root: Path, split: str | None, policy: Policy, left_out: DefectCounter) -> Sequence[InputVideo]:
    if split is not None:
        from semivss.data.vspw import read_vspw

        return from_dataset(read_vspw(root, split, policy=policy), left_out)
    videos = sorted(folder for folder in (root / "data").iterdir() if folder.is_dir() and not folder.name.startswith("."))
    return [ClipInput(FrameFolder(video.name, files)) for video in videos if (files := tuple(image_files(video / "origin").values()))]


def _loose(folder: Path) -> Sequence[InputVideo]:
    """A folder of pictures, or of folders of pictures and video files."""
    inside = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    pictures = {entry.name: files for entry in inside if entry.is_dir() and (files := tuple(image_files(entry).values()))}
    videos = [entry for entry in inside if entry.is_file() and entry.suffix.lower() in SUFFIXES]
    own = tuple(image_files(folder).values())
    if own and (pictures or videos):
        other = next(iter(pictures), None) or videos[0].name
        raise DataError(f"{folder}: holds pictures and also {other}; give the folder of one video, or one whose folders are the videos")
    if own:
        return (ClipInput(FrameFolder(folder.resolve().name, own)),)
    found = [ClipInput(FrameFolder(name, files)) for name, files in pictures.items()] + [VideoInput(file, file.stem) for file in videos]
    if not found:
        raise DataError(f"{folder}: no frames (.jpg, .png) and no videos there; give a data set, a folder of frames or a video")
    return found
