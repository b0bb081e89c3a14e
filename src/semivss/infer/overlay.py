"""A frame and its label map in; the picture of an overlay video out: class colours over the frame, and a legend of the classes present."""

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from semivss.data.labels import LabelSet
from semivss.data.palette import blend, colorize

__all__ = ["blend", "colorize", "compose", "legend", "legend_height", "overlay", "side_by_side"]

Picture = UInt8[np.ndarray, "_ _ 3"]
_VISIBLE = 240  # pixels: a smaller picture is enlarged, so that the legend has room
_SMALLEST = 11  # pixels of text height that stay readable
_WORTH_NAMING = 0.001  # share of the frame from which a class is named


def overlay(
    frame: UInt8[np.ndarray, "H W 3"], labels: UInt8[np.ndarray, "H W"], label_set: LabelSet, alpha: float = 0.5
) -> UInt8[np.ndarray, "H2 W 3"]:
    """The coloured frame with the legend under it."""
    return _with_legend(blend(frame, labels, label_set.colors, alpha), labels, label_set)


def side_by_side(
    frame: UInt8[np.ndarray, "H W 3"], labels: UInt8[np.ndarray, "H W"], label_set: LabelSet, alpha: float = 0.5
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Frame left, coloured frame right, the legend under both."""
    return _with_legend(np.hstack([frame, blend(frame, labels, label_set.colors, alpha)]), labels, label_set)


def compose(frame: Picture, labels: UInt8[np.ndarray, "_ _"], label_set: LabelSet, style: str, size: tuple[int, int] | None) -> Picture:
    """The picture of one frame in `style` overlay | side_by_side. `size` (H, W) is the video's; another picture is fitted into it."""
    factor = -(-_VISIBLE // min(labels.shape))
    if factor > 1:
        wanted = (labels.shape[1] * factor, labels.shape[0] * factor)
        frame = cv2.resize(frame, wanted, interpolation=cv2.INTER_LINEAR)
        labels = cv2.resize(labels, wanted, interpolation=cv2.INTER_NEAREST)
    picture = side_by_side(frame, labels, label_set) if style == "side_by_side" else overlay(frame, labels, label_set)
    return picture if size is None or picture.shape[:2] == size else fit(picture, size)


def fit(picture: Picture, size: tuple[int, int]) -> Picture:
    """The picture scaled into `size` (H, W) with its own proportions, on black."""
    height, width = picture.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    high, wide = max(1, round(height * scale)), max(1, round(width * scale))
    out = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - high) // 2, (size[1] - wide) // 2
    out[top : top + high, left : left + wide] = cv2.resize(picture, (wide, high), interpolation=cv2.INTER_AREA)
    return out


def classes_present(labels: UInt8[np.ndarray, "H W"], classes: int) -> list[int]:
    """Ids of the classes with at least a thousandth of the pixels, largest first."""
    counts = np.bincount(labels.ravel(), minlength=256)[:classes]
    enough = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index] > 0]
    return [index for index in enough if counts[index] >= _WORTH_NAMING * labels.size]


def legend(width: int, text: int, classes: Sequence[int], label_set: LabelSet) -> UInt8[np.ndarray, "H W 3"]:
    """A strip of `width` pixels with colour and name of `classes` (largest first), `text` pixels high letters.

    What does not fit is counted ("+3"). Entries stand in the order of their ids, so that they move little from frame to frame.
    """
    columns = max(1, width // (9 * text))
    slots = columns * _rows(width, text, len(label_set))
    shown = sorted(classes[:slots] if len(classes) <= slots else classes[: slots - 1])
    strip = Image.new("RGB", (width, legend_height(width, text, len(label_set))), (20, 20, 20))
    draw = ImageDraw.Draw(strip)
    for position, index in enumerate(shown):
        _entry(draw, _corner(position, columns, width, text), width // columns, text, label_set.names[index], label_set.colors[index])
    if len(shown) < len(classes):
        x, y = _corner(len(shown), columns, width, text)
        draw.text((x, y), f"+{len(classes) - len(shown)}", font=_font(text), fill=(200, 200, 200))
    return np.asarray(strip)


def legend_height(width: int, text: int, classes: int) -> int:
    """Pixels of the strip for a set of `classes`; the same for all frames, which keeps a video at one size."""
    return _rows(width, text, classes) * _line(text) + text // 2


def _rows(width: int, text: int, classes: int) -> int:
    """As many as all classes need, up to 4 under a narrow picture and 3 under a wide one."""
    return min(-(-classes // max(1, width // (9 * text))), 4 if width < 50 * text else 3)


def _with_legend(picture: Picture, labels: UInt8[np.ndarray, "H W"], label_set: LabelSet) -> Picture:
    text = max(_SMALLEST, round(labels.shape[0] / 36))
    strip = _cached_legend(picture.shape[1], text, tuple(classes_present(labels, len(label_set))), label_set)
    return np.vstack([picture, strip])


@functools.lru_cache(maxsize=64)  # neighbouring frames mostly show the same classes; drawing text takes longer than blending
def _cached_legend(width: int, text: int, classes: tuple[int, ...], label_set: LabelSet) -> UInt8[np.ndarray, "H W 3"]:
    return legend(width, text, classes, label_set)


def _entry(draw: ImageDraw.ImageDraw, corner: tuple[int, int], room: int, text: int, name: str, color: tuple[int, int, int]) -> None:
    x, y = corner
    draw.rectangle((x, y + 1, x + text - 1, y + text), fill=color, outline=(230, 230, 230))
    draw.text((x + round(1.4 * text), y), _shortened(name, room - 2 * text, text), font=_font(text), fill=(240, 240, 240))


def _shortened(name: str, room: int, text: int) -> str:
    font = _font(text)
    if font.getlength(name) <= room:
        return name
    while len(name) > 1 and font.getlength(name + "...") > room:
        name = name[:-1]
    return name + "..."


def _corner(position: int, columns: int, width: int, text: int) -> tuple[int, int]:
    row, column = divmod(position, columns)
    return column * (width // columns) + text // 2, row * _line(text) + text // 4


def _line(text: int) -> int:
    return round(1.5 * text)


@functools.cache
def _font(text: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(text)
