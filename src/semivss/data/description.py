"""The description of somebody's own data: dataset.toml in, a checked record out, and back. Also the class lists people have at hand."""

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, model_validator

from semivss.atomic import atomic_bytes
from semivss.data.labels import LabelSet, distinct_colors, label_set
from semivss.errors import DataError, RecipeError
from semivss.recipe import checked
from semivss.settings import Positive, Settings

FILE_NAME = "dataset.toml"
Channel = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Channel, Channel, Channel]  # RGB


class ClassRow(Settings):
    """One class; its training id is its position in the list."""

    name: str = Field(min_length=1)
    color: Color | None = None  # none = chosen for the pictures; needed where masks are colour-coded
    thing: bool = False  # countable


class Masks(Settings):
    """Where the masks are and what their pixels mean. Everything that is neither a class nor listed as ignored is an error."""

    folder: str
    encoding: Literal["ids", "colors"] = "ids"
    offset: Channel = 0  # ids: the mask value of the first class
    ignore: tuple[Channel, ...] = (255,)  # ids: mask values without a class
    ignore_colors: tuple[Color, ...] = ()  # colors: the same


class VideoRow(Settings):
    """One video file."""

    name: str = Field(min_length=1)
    file: str
    frames: Positive


class Description(Settings):
    """A whole data set. Paths are relative to the description."""

    name: str = Field(min_length=1)
    frames: str | None = None  # folder of pictures: <video>/<stem>.jpg, or one video's pictures right in it
    labels: str | None = None  # a shipped label set such as "vspw124" in place of `classes`
    masks: Masks | None = None  # none = nothing is labelled
    splits: dict[str, tuple[str, ...] | str] = {"train": "all"}  # noqa: RUF012 -- "all", <video> or <video>/<stem>, or a .txt file
    videos: tuple[VideoRow, ...] = ()
    classes: tuple[ClassRow, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Description":
        if self.frames is None and not self.videos:
            raise ValueError("needs a folder of frames or a list of videos")
        if self.masks and not (self.classes or self.labels):
            raise ValueError("masks need classes: add a [[classes]] table for each, or labels = a shipped label set")
        if self.classes and self.labels:
            raise ValueError("give classes or labels, not both")
        if self.masks and self.masks.encoding == "ids" and self.masks.offset + len(self.classes) > 256:
            raise ValueError("masks.offset: ids of the last classes lie above 255")
        if self.masks and self.masks.encoding == "colors" and not all(row.color for row in self.classes or (ClassRow(name="?"),)):
            raise ValueError('masks are colour-coded: give every class its color = [r, g, b], or set encoding = "ids"')
        names = [row.name for row in self.videos]
        if len(set(names)) != len(names):
            raise ValueError(f"videos: the name {max(names, key=names.count)!r} occurs twice")
        return self

    def label_set(self) -> LabelSet:
        """The classes; two nameless ones for a set without labels.

        Raises:
            DataError: fewer than two classes, a name twice, or an unknown shipped set.
        """
        if self.labels:
            return label_set(self.labels)
        if not self.classes:
            return LabelSet("unlabelled", ("class 0", "class 1"), distinct_colors(2), (False, False))
        spare = distinct_colors(len(self.classes))
        colors = tuple(row.color or color for row, color in zip(self.classes, spare, strict=True))
        return LabelSet(self.name, tuple(row.name for row in self.classes), colors, tuple(row.thing for row in self.classes))


def load_description(path: Path) -> Description:
    """Read and check a dataset.toml.

    Raises:
        DataError: one line with the file, the key and the remedy.
    """
    try:
        tree = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot read the description ({error.strerror}); write it with `semivss data import`") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid TOML ({error}); mend that line") from error
    return describe(str(path), **tree)


def describe(where: str, /, **values: Any) -> Description:
    """A checked description. Raises DataError in one line that begins with `where`."""
    try:
        return checked(Description, where, **values)
    except RecipeError as error:
        raise DataError(str(error)) from error


def save_description(description: Description, path: Path) -> None:
    """Write the description in one step. Raises SemivssError when the folder cannot be written."""
    tree = description.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    tree["splits"] = description.model_dump(mode="json")["splits"]
    head = "# A data set of semivss; paths are absolute, or relative to this file. Look at it with: semivss data check " + FILE_NAME + "\n"
    atomic_bytes(path, (head + tomli_w.dumps(tree)).encode())


def read_class_list(path: Path) -> tuple[ClassRow, ...]:
    """Classes from a text file (a name, or `name: r,g,b`, a line; # begins a comment line) or a JSON file with id2label.

    Raises:
        DataError: the file cannot be read, is empty, or has a line of another form.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: the class list cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the class list is not UTF-8 text; save it as plain text, one name a line") from error
    lines = [line.strip() for line in text.splitlines()]
    rows = (
        _from_json(path, text)
        if path.suffix == ".json"
        else [_class_row(path, line) for line in lines if line and not line.startswith("#")]
    )
    if not rows:
        raise DataError(f"{path}: the class list is empty; write one class name a line, in the order of the ids")
    return tuple(rows)


def _class_row(path: Path, line: str) -> ClassRow:
    name, colon, color = line.rpartition(":")
    if not colon:
        return ClassRow(name=line)
    return ClassRow(name=_nonempty(name.strip(), path, line), color=parse_color(color, path, line))


def _nonempty(name: str, path: Path, line: str) -> str:
    if not name:
        raise DataError(f"{path}: line {line!r} has no class name; write name: r,g,b")
    return name


def parse_color(text: str, path: Path, line: str) -> tuple[int, int, int]:
    """Three numbers 0..255. Raises DataError that shows the line."""
    parts = re.fullmatch(r"\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*", text)
    color = tuple(int(part) for part in parts.groups()) if parts else ()
    if len(color) != 3 or max(color) > 255:
        raise DataError(f"{path}: line {line!r} has no colour of three numbers 0..255; write name: r,g,b")
    return color[0], color[1], color[2]


def _from_json(path: Path, text: str) -> list[ClassRow]:
    """{"id2label": {"0": "road", ...}}, the inner mapping alone, or a list of names."""
    try:
        content: Any = json.loads(text)
        content = content.get("id2label", content) if isinstance(content, dict) else content
        names: Sequence[Any] = content if isinstance(content, list) else [content[str(index)] for index in range(len(content))]
        return [ClassRow(name=name) for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{path}: not of the form {{"id2label": {{"0": "name", "1": ...}}}} with ids 0, 1, 2, ...; correct it') from error
