"""Own frames and masks, a CVAT export or bare videos in, a data set out: a folder with dataset.toml that `read_folder` opens."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from semivss.atomic import write_error
from semivss.data.description import FILE_NAME, ClassRow, Description, Masks, VideoRow, describe, read_class_list, save_description
from semivss.data.folder import open_description, refuse_left_out
from semivss.data.holdout import Holdout, split_off
from semivss.data.lists import image_files
from semivss.data.understand import understand_masks
from semivss.data.unused import unused_files
from semivss.data.video import SUFFIXES, VideoFile
from semivss.errors import DataError
from semivss.progress import say, track
from semivss.wording import counted

NO_HOLDOUT = Holdout()


def import_any(
    source: Path,
    out: Path,
    *,
    masks: Path | None = None,
    classes: Path | None = None,
    offset: int | None = None,
    frames: Path | None = None,
    background_class: bool = False,
    holdout: Holdout = NO_HOLDOUT,
    force: bool = False,
) -> Description:
    """Find out what `source` is and import it: a CVAT zip (or its folder), a video, a folder of videos, or a folder of frames.

    Raises:
        DataError: it is none of these, something in it is damaged or does not fit, or `out` has a description and `force` is off.
    """
    source = Path(source)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; give frames, a CVAT zip or videos")
    if source.suffix.lower() == ".zip" or (source / "labelmap.txt").is_file():
        from semivss.data.cvat import import_cvat

        if masks or classes or offset is not None:
            raise DataError(f"{source}: a CVAT export brings its masks and classes along; leave --masks, --classes and --offset out")
        return import_cvat(source, frames, out, background_class=background_class, holdout=holdout, force=force)
    if frames or background_class:
        raise DataError(f"{source}: no CVAT export; --frames and --background-class are for these alone")
    if source.is_file() or (_videos(source) and not _has_pictures(source)):
        return import_videos(source, out, masks=masks, classes=classes, offset=offset, holdout=holdout, force=force)
    return import_frames(source, masks, classes, out, offset=offset, holdout=holdout, force=force)


def import_frames(
    frames: Path,
    masks: Path | None,
    classes: Path | None,
    out: Path,
    *,
    offset: int | None = None,
    holdout: Holdout = NO_HOLDOUT,
    force: bool = False,
) -> Description:
    """Describe a folder of frames, and of masks where there are some, without copying them.

    Args:
        frames: `<video>/<stem>.jpg` (or .png), or the pictures of one video right in the folder.
        masks: the same tree with .png files: ids in grey or palette PNGs, or colours. None = all unlabelled.
        classes: the class list (`read_class_list`); needed with masks.
        out: the new folder for dataset.toml.
        offset: mask value of the first class; none = 0 or 1 where the masks hold the first and the last class under that reading alone,
            and an error otherwise.
        holdout: the videos for validation.
        force: replace an existing description.

    Raises:
        DataError: something is missing, damaged or does not fit; nothing is written then.
    """
    if not Path(frames).is_dir():
        raise DataError(f"{frames}: no such folder; give a folder of frames")
    if next(Path(frames).glob("data/*/origin"), None):
        raise DataError(f'{frames}: a data set in the VSPW layout already; use it in a recipe as it is, with kind = "vspw"')
    if not _has_pictures(Path(frames)):
        raise DataError(f"{frames}: no pictures (.jpg, .png) in it or its folders; give a folder of frames or videos")
    rows = read_class_list(Path(classes)) if classes else ()
    with staged(Path(out), force) as stage:
        table = _masks(Path(masks), Path(out), rows, classes, offset, Path(frames)) if masks else None
        description = describe(str(out), name=Path(out).resolve().name, frames=place(Path(frames), Path(out)), masks=table, classes=rows)
        return finish(description, Path(out), stage, holdout, (Path(frames),))


def import_videos(
    videos: Path,
    out: Path,
    *,
    masks: Path | None = None,
    classes: Path | None = None,
    offset: int | None = None,
    holdout: Holdout = NO_HOLDOUT,
    force: bool = False,
) -> Description:
    """Describe a video file, or every video of a folder, without copying; arguments and errors as `import_frames`.

    The masks of frame k of a video lie in `<masks>/<video>/<k in eight digits>.png`.
    """
    files = [Path(videos)] if Path(videos).is_file() else _videos(Path(videos))
    if not files:
        raise DataError(f"{videos}: no videos ({', '.join(sorted(SUFFIXES))}); give a video or a folder of videos")
    rows = read_class_list(Path(classes)) if classes else ()
    with staged(Path(out), force) as stage:
        described = tuple(video_row(file, Path(out), files) for file in track(files, "reading videos", total=len(files), unit="videos"))
        table = _masks(Path(masks), Path(out), rows, classes, offset, None) if masks else None
        description = describe(str(out), name=Path(out).resolve().name, videos=described, masks=table, classes=rows)
        return finish(description, Path(out), stage, holdout, (Path(videos),))


def _masks(masks: Path, out: Path, rows: tuple[ClassRow, ...], classes: Path | None, offset: int | None, frames: Path | None) -> Masks:
    return understand_masks(masks, rows, classes, offset, frames).model_copy(update={"folder": place(masks, out)})


def video_row(file: Path, out: Path, others: list[Path]) -> VideoRow:
    """The row of one video. Raises DefectError for a damaged one."""
    VideoFile(file)  # the first frame must decode
    twice = sum(other.stem == file.stem for other in others) > 1
    return VideoRow(name=file.name if twice else file.stem, file=place(file, out), frames=VideoFile(file).count())


def _videos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def _has_pictures(folder: Path) -> bool:
    return bool(image_files(folder)) or any(image_files(entry) for entry in folder.iterdir() if entry.is_dir())


def place(path: Path, out: Path) -> str:
    """How dataset.toml in `out` names `path`: relative inside `out`, so that the folder can move; else from the root."""
    full, base = path.resolve(), out.resolve()
    return full.relative_to(base).as_posix() if full.is_relative_to(base) else full.as_posix()


@contextlib.contextmanager
def staged(out: Path, force: bool) -> Iterator[Path]:
    """Yield an empty folder inside `out` whose content moves to `out` when the block ends well; otherwise `out` stays as it was.

    Raises:
        DataError: `out` has a description and `force` is off. SemivssError: it cannot be written.
    """
    if (out / FILE_NAME).exists() and not force:
        raise DataError(f"{out / FILE_NAME}: exists; choose another folder, or replace it with --force")
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".import.", dir=out))
    except OSError as error:
        raise write_error(out, error) from error
    try:
        yield stage
        for made in sorted(stage.iterdir(), key=lambda path: path.name == FILE_NAME):  # the description last: it makes the data set
            _replace(made, out / made.name, stage)
    except OSError as error:
        if error.errno is None:
            raise
        raise write_error(out, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if new and not any(out.iterdir()):
            out.rmdir()


def _replace(made: Path, target: Path, stage: Path) -> None:
    if target.is_dir():
        target.rename(stage / f"old_{target.name}")
    made.replace(target)


def finish(description: Description, root: Path, stage: Path, holdout: Holdout, given: Sequence[Path] = ()) -> Description:
    """Open the data set once with its paths relative to `root`, so that what is described can be read, and stage its description.

    Says what was imported, and which files of the folders `given` and of the masks belong to no frame of it.

    Raises:
        DataError: it cannot be opened, a mask has no frame, a video has none, or `holdout` does not fit.
    """
    dataset = open_description(description, root / FILE_NAME, "train", policy="ignore")
    refuse_left_out({kind: [file.removeprefix(f"{stage}/") for file in files] for kind, files in dataset.defects.items()})
    if holdout:
        description = split_off(description, dataset, holdout)
    save_description(description, stage / FILE_NAME)
    frames = sum(len(clip.stems) for clip in dataset.clips)
    labelled = sum(clip.is_labelled(index) for clip in dataset.clips for index in range(len(clip.stems)))
    found = f"{counted(len(dataset.clips), 'video')}, {counted(frames, 'frame')}, {labelled} labelled"
    say(f"imported {found}; look at it with: semivss data check {stage.parent}")
    folders = (*given, *([root / description.masks.folder] if description.masks and given else ()))
    for line in unused_files(dataset, folders, root):
        say(line)
    return description
