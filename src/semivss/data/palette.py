"""Label maps in, colour pictures out: class colours, and the mix of a frame with them."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from semivss.data.labels import IGNORE

Colors = Sequence[tuple[int, int, int]]  # RGB of each class, 0..255


def color_table(colors: Colors) -> UInt8[np.ndarray, "256 3"]:
    """Colour of every 8-bit label; black for ignore and for values that are no class."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = np.asarray(colors, np.uint8).reshape(-1, 3)
    return table


def colorize(labels: UInt8[np.ndarray, "H W"], colors: Colors) -> UInt8[np.ndarray, "H W 3"]:
    """RGB picture of a label map; ignored pixels are black."""
    return color_table(colors).take(labels, axis=0)


def blend(
    frame: UInt8[np.ndarray, "H W 3"], labels: UInt8[np.ndarray, "H W"], colors: Colors, alpha: float = 0.5
) -> UInt8[np.ndarray, "H W 3"]:
    """RGB frame under the class colours: (1 - alpha) * frame + alpha * colour, rounded; ignored pixels keep the frame's colour."""
    mixed: UInt8[np.ndarray, "H W 3"] = cv2.addWeighted(frame, 1 - alpha, colorize(labels, colors), alpha, 0.0)
    ignored = labels == IGNORE
    if ignored.any():
        mixed[ignored] = frame[ignored]
    return mixed
