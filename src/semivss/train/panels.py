"""Frames with truth, prediction and entropy in, one picture out: a row a frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw

from semivss.atomic import atomic_file
from semivss.data.labels import LabelSet

CELL = 320  # width of a cell in pixels
GAP, LINE = 6, 16  # between cells; height of a line of text
HEADINGS = ("frame", "truth", "prediction", "entropy (bright = unsure)")


@dataclass(frozen=True)
class Row:
    """One frame as the picture shows it."""

    name: str
    frame: UInt8[np.ndarray, "H W 3"]
    labels: UInt8[np.ndarray, "H W"]
    prediction: UInt8[np.ndarray, "H W"]
    doubt: Float32[np.ndarray, "H W"]  # entropy as a share of its maximum, 0..1


def save_panel(path: Path, rows: Sequence[Row], label_set: LabelSet, title: str) -> None:
    """Write the rows as a PNG: frame | truth | prediction | entropy, pixels without label black.

    Raises:
        SemivssError: the file cannot be written.
    """
    strips = [_strip(row, label_set) for row in rows]
    width = 4 * CELL + 5 * GAP
    picture = Image.new("RGB", (width, 2 * LINE + sum(strip.height for strip in strips)), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, 2), title, fill="black")
    for column, heading in enumerate(HEADINGS):
        draw.text((GAP + column * (CELL + GAP), LINE), heading, fill="black")
    top = 2 * LINE
    for strip in strips:
        picture.paste(strip, (0, top))
        top += strip.height
    with atomic_file(path, sync=False) as file:
        picture.save(file, "PNG")


def _strip(row: Row, label_set: LabelSet) -> Image.Image:
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(label_set)] = label_set.colors
    heat = cv2.applyColorMap(np.rint(row.doubt.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    height = max(1, round(row.frame.shape[0] * CELL / row.frame.shape[1]))
    strip = Image.new("RGB", (4 * CELL + 5 * GAP, height + LINE + GAP), "white")
    for column, image in enumerate((row.frame, colors[row.labels], colors[row.prediction], heat)):
        nearest = column in (1, 2)
        cell = Image.fromarray(np.ascontiguousarray(image)).resize(
            (CELL, height), Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
        )
        strip.paste(cell, (GAP + column * (CELL + GAP), 0))
    ImageDraw.Draw(strip).text((GAP, height + 1), row.name, fill="black")
    return strip
