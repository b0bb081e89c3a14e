"""Small own data sets, made by the tests."""

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("road", "sky", "car")
COLORS = ((128, 64, 128), (70, 130, 180), (0, 0, 142))


def ids(seed: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    """A label map with all three classes and some ignored pixels."""
    labels = np.random.default_rng(seed).integers(0, 3, size).astype(np.uint8)
    labels[0, :4] = 255
    return labels


def color_mask(labels: np.ndarray) -> np.ndarray:
    """The label map in colours; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[:3] = COLORS
    return table[labels]


def save(path: Path, pixels: np.ndarray, palette: bytes | None = None) -> Path:
    """Write a picture in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(palette)
    image.save(path)
    return path


def frame(seed: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    """A smooth picture."""
    return np.full((*size, 3), 10 * seed % 250, np.uint8)


def write_own(root: Path, *, videos: tuple[str, ...] = ("a", "b"), frames: int = 2, offset: int = 0, colors: bool = False) -> Path:
    """frames/<video>/<stem>.jpg, masks/<video>/<stem>.png and classes.txt."""
    for number, video in enumerate(videos):
        for index in range(frames):
            labels = ids(10 * number + index)
            stored = color_mask(labels) if colors else np.where(labels == 255, 0 if offset else 255, labels + offset).astype(np.uint8)
            save(root / "frames" / video / f"{index:04d}.jpg", frame(index))
            save(root / "masks" / video / f"{index:04d}.png", stored)
    lines = [f"{name}: {','.join(map(str, color))}" if colors else name for name, color in zip(NAMES, COLORS, strict=True)]
    (root / "classes.txt").write_text("\n".join(lines))
    return root
