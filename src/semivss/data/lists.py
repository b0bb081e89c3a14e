"""Text lists in, names out: the videos of a split, and which frames' masks may be opened."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from semivss.errors import DataError

_SUFFIXES = (".jpg", ".jpeg", ".png")


def read_list(path: Path) -> tuple[str, ...]:
    """The lines of a list, in order, each once. Any line ends, blank lines, a byte-order mark and a missing last newline are fine.

    Raises:
        DataError: the list is missing, no text, or empty.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: the list cannot be read ({error.strerror}); check the name of the split or list") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the list is not UTF-8 text; save it again as plain text, one name a line") from error
    lines = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not lines:
        raise DataError(f"{path}: the list is empty; write one name a line")
    return lines


@dataclass(frozen=True, eq=False)
class Selection:
    """Frames chosen by a list whose lines are `<video>` (all its frames) or `<video>/<stem>`."""

    path: Path
    videos: Mapping[str, Collection[str] | None]  # stems, or none for the whole video; in the order of the list

    @classmethod
    def read(cls, path: Path) -> "Selection":
        """Raises DataError as `read_list` does, and for a line of another form."""
        return cls.of(path, read_list(path))

    @classmethod
    def of(cls, path: Path, lines: Iterable[str]) -> "Selection":
        """The same from lines that stand in the file `path`. Raises DataError for a line of another form."""
        videos: dict[str, dict[str, None] | None] = {}
        for line in lines:
            video, slash, stem = line.partition("/")
            if not video or "/" in stem or (slash and not stem) or video in (".", ".."):
                raise DataError(f"{path}: line {line!r} is neither <video> nor <video>/<stem>; correct it")
            if not slash:
                videos[video] = None
            elif (stems := videos.setdefault(video, {})) is not None:
                stems[_without_suffix(stem)] = None
        return cls(path, videos)

    def allows(self, video: str, stem: str) -> bool:
        """Whether the list names this frame or its whole video."""
        stems = self.videos.get(video, ())
        return stems is None or stem in stems

    def missing(self, present: Mapping[str, Collection[str]]) -> list[str]:
        """Lines of the list that `present` (video -> stems) does not have."""
        lines = []
        for video, stems in self.videos.items():
            if video not in present:
                lines.append(video)
            else:
                lines += [f"{video}/{stem}" for stem in stems or () if stem not in present[video]]
        return lines


def _without_suffix(stem: str) -> str:
    return next((stem[: -len(suffix)] for suffix in _SUFFIXES if stem.lower().endswith(suffix)), stem)


def image_files(folder: Path, suffixes: tuple[str, ...] = _SUFFIXES) -> dict[str, Path]:
    """Stem -> file of the pictures in `folder`, in order of their names; nothing for a folder that is not there.

    Names starting with a dot are not ours (AppleDouble copies). Of two files with one stem the first in `suffixes` is taken.
    """
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for name in sorted(entry for entry in _names(folder) if not entry.startswith(".")):
        stem, dot, suffix = name.rpartition(".")
        rank = f".{suffix.lower()}"
        if not dot or rank not in suffixes:
            continue
        if stem not in found or suffixes.index(rank) < suffixes.index(found[stem].suffix.lower()):
            found[stem] = folder / name
    return dict(sorted(found.items()))


def _names(folder: Path) -> list[str]:
    import os

    return os.listdir(folder)  # noqa: PTH208 -- names only: a quarter of a million Path objects cost seconds
