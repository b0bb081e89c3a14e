"""Random label maps that are flat inside regions, as those of data sets are."""

import numpy as np

REGIONS = 40


def region_maps(random: np.random.Generator, size: tuple[int, int], classes: int, wobble: float) -> tuple[np.ndarray, np.ndarray]:
    """Ground truth, and a prediction whose borders are `wobble` pixels off; 8-bit ids."""
    ids = random.integers(0, classes, REGIONS).astype(np.uint8)
    centres = random.random((REGIONS, 2)) * size
    return ids[nearest(centres, size)], ids[nearest(centres + random.normal(0, wobble, centres.shape), size)]


def nearest(centres: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Index of the nearest centre at each pixel."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    return np.stack([(y - cy) ** 2 + (x - cx) ** 2 for cy, cx in centres]).argmin(0)
