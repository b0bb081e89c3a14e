"""A path in, what kind of data set lies there and which splits it has out; or what to do with what is none."""

from pathlib import Path

from semivss.data.description import FILE_NAME, load_description
from semivss.data.lists import image_files
from semivss.data.video import SUFFIXES
from semivss.errors import DataError


def detect_kind(path: Path) -> str:
    """The kind (as in `recipe.Source`) of the data set at `path`, by its folders.

    Raises:
        DataError: it is none; the message says what to do with what it is.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check the path")
    kinds = _kinds(path)
    if kinds:
        return kinds[0]
    raise _no_dataset(path)


def _kinds(path: Path) -> list[str]:
    if not path.is_dir():
        return ["folder"] if path.suffix == ".toml" else []
    signs = {
        "folder": (FILE_NAME,),
        "vspw": ("data/*/origin",),
        "ade20k": ("annotations/training", "annotations/validation", "images/training", "images/validation"),
        "cityscapes": ("leftImg8bit",),
        "coco_stuff": ("stuffthingmaps", "annotations/train2017/*.png", "annotations/val2017/*.png"),
        "coco_panoptic": ("annotations/panoptic_*.json", "panoptic_*.json"),
    }
    return [kind for kind, patterns in signs.items() if any(next(path.glob(pattern), None) for pattern in patterns)]


def _no_dataset(path: Path) -> DataError:
    if path.suffix.lower() == ".zip" or (path / "labelmap.txt").is_file():
        return DataError(f"{path}: a CVAT export; make it a data set with `semivss data import {path} OUT`")
    if path.suffix.lower() in SUFFIXES:
        return DataError(f"{path}: a bare video; make it a data set with `semivss data import {path} OUT`")
    if not path.is_dir():
        return DataError(f"{path}: neither a data set nor a video; give a folder, a dataset.toml or a video")
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    if not entries:
        return DataError(f"{path}: the folder is empty; give a folder with data")
    if (path / "data").is_dir():
        return DataError(f"{path}: no frames; the VSPW layout keeps them in data/<video>/origin")
    folders = [path, *(entry for entry in entries if entry.is_dir())]
    if any(image_files(folder) for folder in folders) or any(entry.suffix.lower() in SUFFIXES for entry in entries):
        command = f"semivss data import {path} OUT --masks MASKS --classes CLASSES.txt"
        return DataError(f"{path}: frames or videos without a description; make them a data set with `{command}`")
    return DataError(f"{path}: no data set is known by these folders; see docs for the layouts, or use `semivss data import`")


def splits_of(path: Path, kind: str) -> tuple[str, ...]:
    """The splits that are there."""
    if kind == "folder":
        return tuple(load_description(path / FILE_NAME if path.is_dir() else path).splits)
    patterns = {
        "vspw": "{}.txt",
        "ade20k": "images/{}",
        "cityscapes": "leftImg8bit/{}",
        "coco_stuff": "**/{}2017",
        "coco_panoptic": "**/{}2017",
    }
    names = ("training", "validation") if kind == "ade20k" else ("train", "val", "test")
    found = tuple(name for name in names if next(path.glob(patterns[kind].format(name)), None))
    if kind.startswith("coco"):
        found = tuple(name for name in found if name != "test")
    return found or names[:1]


def other_kinds(path: Path, kind: str) -> list[str]:
    return [f"the folder also looks like {other}: check that with --kind {other}" for other in _kinds(path) if other != kind]


def shared_videos(path: Path, kind: str, names: tuple[str, ...]) -> list[str]:
    """Videos that stand in two splits, which makes scores of one worthless. Lists of names only; no file is read again."""
    if kind != "vspw" or len(names) < 2:
        return []
    lists = {
        name: set((path / f"{name}.txt").read_text(encoding="utf-8-sig").split()) for name in names if (path / f"{name}.txt").is_file()
    }
    shared = [
        f"video {video} is in {first} and in {second}"
        for first in lists
        for second in lists
        if first < second
        for video in lists[first] & lists[second]
    ]
    return sorted(shared)
