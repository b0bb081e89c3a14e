"""Draw the picture of the toy world for the documentation: a frame of twelve clips with its mask below, and the classes' colours.

    python benchmarks/toy_contact_sheet.py docs/images/toy_contact_sheet.png

`--quick` draws two clips into a temporary folder. Prints one JSON row: the bytes of the picture.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from semivss.atomic import atomic_file
from semivss.data.palette import colorize
from semivss.data.toy import toy_dataset, toy_labels
from semivss.settings import Toy

SIZE = (180, 240)
FRAME = 3
LIMIT = 400_000  # bytes


def main() -> None:
    """Parse, draw, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", type=Path, default=Path("docs/images/toy_contact_sheet.png"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sheet.png" if options.quick else options.picture
        sheet = contact_sheet(2 if options.quick else 12, columns=4)
        with atomic_file(path) as file:
            sheet.save(file, "PNG", optimize=True)
        size = path.stat().st_size
    print(
        json.dumps(
            {"what": "toy contact sheet", "value": size, "unit": "bytes", "ratio": round(size / LIMIT, 2), "against": f"{LIMIT} bytes"}
        )
    )


def contact_sheet(clips: int, columns: int) -> Image.Image:
    """Frames and masks of the first clips of world 0; 256 colours, which keeps the file small."""
    colors = toy_labels().colors
    cells = [
        np.concatenate([clip.frame(FRAME), colorize(clip.labels(FRAME), colors)])
        for clip in toy_dataset(Toy(clips=clips, labelled_clips=None, size=SIZE)).clips
    ]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    rows = [np.concatenate(cells[start : start + columns], axis=1) for start in range(0, len(cells), columns)]
    sheet = Image.fromarray(np.concatenate([*rows, legend(columns * SIZE[1])]))
    return sheet.quantize(256, dither=Image.Dither.FLOYDSTEINBERG)


def legend(width: int) -> np.ndarray:
    """A strip with the colour and name of every class."""
    strip = Image.new("RGB", (width, 22), "white")
    draw = ImageDraw.Draw(strip)
    labels = toy_labels()
    step = width / len(labels)
    for number, (name, color) in enumerate(zip(labels.names, labels.colors, strict=True)):
        left = round(number * step) + 3
        draw.rectangle((left, 5, left + 11, 16), fill=color)
        draw.text((left + 15, 5), name, fill="black")
    return np.asarray(strip)


if __name__ == "__main__":
    main()
