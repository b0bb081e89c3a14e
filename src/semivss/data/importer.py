"""Own frames and masks, a CVAT export or bare videos in, a data set out: a folder with dataset.toml that `read_folder` opens."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from semivss.atomic import write_error
from semivss.data.description import FILE_NAME, ClassRow, Color, Description, Masks, VideoRow, describe, read_class_list, save_description
from semivss.data.folder import open_description, pack_colors, read_colors, refuse_left_out
from semivss.data.images import read_mask
from semivss.data.labels import IGNORE
from semivss.data.lists import image_files
from semivss.data.video import SUFFIXES, VideoFile
from semivss.errors import DataError, DefectError
from semivss.progress import say, track

BLACK: Color = (0, 0, 0)


def import_any(
    source: Path,
    out: Path,
    *,
    masks: Path | None = None,
    classes: Path | None = None,
    offset: int | None = None,
    frames: Path | None = None,
    background_class: bool = False,
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

        return import_cvat(source, frames, out, background_class=background_class, force=force)
    if source.is_file() or (_videos(source) and not _has_pictures(source)):
        return import_videos(source, out, masks=masks, classes=classes, offset=offset, force=force)
    return import_frames(source, masks, classes, out, offset=offset, force=force)


def import_frames(
    frames: Path, masks: Path | None, classes: Path | None, out: Path, *, offset: int | None = None, force: bool = False
) -> Description:
    """Describe a folder of frames, and of masks where there are some, without copying them.

    Args:
        frames: `<video>/<stem>.jpg` (or .png), or the pictures of one video right in the folder.
        masks: the same tree with .png files: ids in grey or palette PNGs, or colours. None = all unlabelled.
        classes: the class list (`read_class_list`); needed with masks.
        out: the new folder for dataset.toml.
        offset: mask value of the first class; none = 0 or 1 where the masks hold the first and the last class under that reading alone,
            and an error otherwise.
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
        table = understand_masks(Path(masks), Path(out), rows, classes, offset) if masks else None
        description = describe(str(out), name=Path(out).resolve().name, frames=place(Path(frames), Path(out)), masks=table, classes=rows)
        return finish(description, Path(out), stage)


def import_videos(
    videos: Path, out: Path, *, masks: Path | None = None, classes: Path | None = None, offset: int | None = None, force: bool = False
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
        table = understand_masks(Path(masks), Path(out), rows, classes, offset) if masks else None
        description = describe(str(out), name=Path(out).resolve().name, videos=described, masks=table, classes=rows)
        return finish(description, Path(out), stage)


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


@dataclass
class _Survey:
    """What the pixels of a tree of masks hold; the file that first held each value."""

    ids: dict[int, Path] = field(default_factory=dict)
    colors: dict[Color, Path] = field(default_factory=dict)
    rgb: Path | None = None  # a mask that has colours only

    def add(self, path: Path) -> None:
        try:
            for value in np.unique(read_mask(path)):
                self.ids.setdefault(int(value), path)
        except DefectError as error:
            if error.kind != "mask_rgb":
                raise
            self.rgb = self.rgb or path
        for packed in np.unique(pack_colors(read_colors(path))).tolist():
            self.colors.setdefault((packed >> 16, packed >> 8 & 255, packed & 255), path)


def understand_masks(masks: Path, out: Path, rows: tuple[ClassRow, ...], classes: Path | None, offset: int | None) -> Masks:
    """Read every mask and say how its pixels stand for classes: by exact colour or by id. Nothing is guessed from brightness.

    Raises:
        DataError: no masks or no classes; DefectError: a damaged mask, or a value that stands for no class.
    """
    if not masks.is_dir():
        raise DataError(f"{masks}: no such folder; give the folder of masks")
    if not rows:
        raise DataError(f"{classes or masks}: masks need a class list; give --classes FILE with one name a line, in the order of the ids")
    files = sorted(path for path in masks.rglob("*.png") if not path.name.startswith("."))
    if not files:
        raise DataError(f"{masks}: no masks (.png) in it or its folders; give the folder of masks")
    survey = _Survey()
    for path in track(files, "reading masks", total=len(files)):
        survey.add(path)
    found = _by_color(survey, rows, classes) if survey.rgb or _all_known(survey.colors, rows) else _by_id(survey, rows, classes, offset)
    return found.model_copy(update={"folder": place(masks, out)})


def _all_known(colors: Mapping[Color, Path], rows: tuple[ClassRow, ...]) -> bool:
    """Whether the masks (palettes included) show nothing but class colours, and more than black."""
    return all(row.color for row in rows) and set(colors) <= {BLACK, *(row.color for row in rows)} and set(colors) != {BLACK}


def _by_color(survey: _Survey, rows: tuple[ClassRow, ...], classes: Path | None) -> Masks:
    known = {row.color for row in rows}
    if None in known:
        raise DefectError(survey.rgb or "", "mask_rgb", "the mask shows colours", f"give every class of {classes} its colour: name: r,g,b")
    for color, path in survey.colors.items():
        if color not in known | {BLACK}:
            shown = ",".join(map(str, color))
            raise DefectError(path, "unknown_color", f"colour {shown} stands for no class", f"add a line 'name: {shown}' to {classes}")
    say("masks: read by colour" + ("" if BLACK in known else "; black is ignored"))
    return Masks(folder="", encoding="colors", ignore_colors=() if BLACK in known else (BLACK,))


def _by_id(survey: _Survey, rows: tuple[ClassRow, ...], classes: Path | None, offset: int | None) -> Masks:
    values = set(survey.ids) - {IGNORE}
    highest = max(values, default=0)
    first = _first_value(survey, rows) if offset is None else offset
    if highest - first >= len(rows):
        detail = f"mask value {highest} stands for no class: {classes} lists {len(rows)}, from value {first} on"
        raise DefectError(survey.ids[highest], "unknown_id", detail, "add the missing classes to the list, or correct the mask")
    ignored = (*range(first), IGNORE)
    last = f"value {first + len(rows) - 1} is {rows[-1].name!r}"
    say(f"masks: value {first} is {rows[0].name!r}, {last}; ignored: {', '.join(map(str, ignored))}")
    return Masks(folder="", encoding="ids", offset=first, ignore=ignored)


def _first_value(survey: _Survey, rows: tuple[ClassRow, ...]) -> int:
    """The mask value of the first class, if the values without 255 reach from one end of the class list to the other: 0 or 1.

    Where they do not, a class that never occurs, an ignored 0 and a stray value cannot be told from each other.

    Raises:
        DefectError: kind offset; both 0 and 1 are possible. It names the file with the highest value.
    """
    values, last = set(survey.ids) - {IGNORE}, len(rows) - 1
    lowest, highest = min(values, default=0), max(values, default=last)
    if highest > last + 1 or (lowest, highest) in ((0, last), (1, last + 1)):
        return int(lowest == 1)
    name = repr(rows[0].name)
    if lowest == 0 and highest == last + 1:
        why = f", one value more than the {len(rows)} classes: {name} is value 1 and 0 is ignored, or it is value 0 and {highest} a mistake"
    else:
        why = f" and never {last if lowest == 0 else 0}, so {name} may be value 0 or value 1"
    detail = f"the masks hold {lowest} to {highest}{why}"
    raise DefectError(survey.ids[highest], "offset", detail, "say which with --offset 0 or --offset 1 (0 is ignored then)")


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


def finish(description: Description, root: Path, stage: Path) -> Description:
    """Open the data set once with its paths relative to `root`, so that what is described can be read, and stage its description.

    Raises:
        DataError: it cannot be opened, a mask has no frame, or a video has none.
    """
    dataset = open_description(description, root / FILE_NAME, "train", policy="ignore")
    refuse_left_out({kind: [file.removeprefix(f"{stage}/") for file in files] for kind, files in dataset.defects.items()})
    save_description(description, stage / FILE_NAME)
    frames = sum(len(clip.stems) for clip in dataset.clips)
    labelled = sum(clip.is_labelled(index) for clip in dataset.clips for index in range(len(clip.stems)))
    say(f"imported {len(dataset.clips)} videos, {frames} frames, {labelled} labelled; look at it with: semivss data check {stage.parent}")
    return description
