"""Frames and labels of one clip in, the randomly resized, cropped, flipped and re-lit clip out; one draw serves all its frames.

Section 3.2 of arXiv 2406.00587: random resize, random crop in which no class takes more than a given share, flip, photometric
distortion. The crop is chosen first, so that resize, crop and flip are one pass over an image, and little outside the crop is computed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8, UInt16

from semivss.data.labels import IGNORE
from semivss.settings import Augment, Strong

TRIES = 10  # crops drawn at most until one obeys the class-share limit; the last one is taken as it is
_VECTOR = 64  # columns; OpenCV rounds what lies beyond a row's last whole vector otherwise, so a row is cut at a multiple of every vector
_OFF_GRID = 1 / 512  # source pixels; a frame sampled so far off its place is off by half a grey level at most
_WARP_COSTS = 4  # times as much a pixel as a resize, at the least
_ROWS = 128  # of a frame under another light at a time: what is in between stays in the cache and asks for no new memory


@dataclass(frozen=True)
class Geometry:
    """Which part of the resized frame becomes the crop. All sizes in pixels, (height, width)."""

    source: tuple[int, int]  # frame as read
    resized: tuple[int, int]  # frame after the random resize
    corner: tuple[int, int]  # top left of the crop in the resized frame
    crop: tuple[int, int]
    flip: bool

    def inverse(self) -> Float64[np.ndarray, "2 3"]:
        """Affine map from (x, y) in the crop to (x, y) in the source, pixel centres at whole numbers."""
        sy, sx = self.source[0] / self.resized[0], self.source[1] / self.resized[1]
        y0, x0 = self.corner
        matrix = np.array([[sx, 0, (x0 + 0.5) * sx - 0.5], [0, sy, (y0 + 0.5) * sy - 0.5]])
        if self.flip:
            matrix[0] = -sx, 0, (x0 + self.crop[1] - 0.5) * sx - 0.5
        return matrix

    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the crop that the frame covers; the rest is padding (bottom and right before the flip)."""
        height, width = (min(c, r - o) for c, r, o in zip(self.crop, self.resized, self.corner, strict=True))
        columns = slice(self.crop[1] - width, self.crop[1]) if self.flip else slice(0, width)
        return slice(0, height), columns


@dataclass(frozen=True)
class Photometric:
    """A change of light: grey level to grey level, then hue and saturation, as OpenCV's full-range HSV has them."""

    light: UInt8[np.ndarray, "256"] | None
    hue: int  # added to each, 256 = the whole circle; 0..255
    saturation: UInt8[np.ndarray, "256"] | None


def augment_clip(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    labels: Sequence[UInt8[np.ndarray, "H W"]],
    settings: Augment,
    generator: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "T h w 3"], UInt8[np.ndarray, "T h w"]]:
    """Crops of size `settings.crop` from all frames of a clip under one draw of `generator` (paper, section 3.2).

    Frames (RGB, 0..255) are sampled bilinearly and padded with 0; labels (0..C-1, 255 = ignore) are sampled by nearest neighbour and
    padded with 255, so every id of the result was in the source or is 255. In memory the frames lie channel by channel, as networks
    take them.
    """
    geometry, warped = _draw_crop(labels, settings, generator)
    photometric = _draw_photometric(settings, generator)
    crops = np.empty((len(frames), 3, *settings.crop), np.uint8)
    for frame, planes in zip(frames, crops, strict=True):
        covered = _covered(frame, geometry, photometric)
        rows, columns = geometry.inside()
        cv2.split(covered, [plane[rows, columns] for plane in planes])
        for plane in planes:
            _pad(plane, geometry, 0)
    return np.moveaxis(crops, 1, -1), warped


@dataclass(frozen=True)
class UnlabelledCrops:
    """Crops of all frames of an unlabelled clip under one draw of the geometry."""

    weak: UInt8[np.ndarray, "T h w 3"]  # resized, cropped and flipped alone
    strong: UInt8[np.ndarray, "V T h w 3"]  # the same, with V changes of light
    inside: Bool[np.ndarray, "T h w"]  # false in the padding
    labels: UInt8[np.ndarray, "T h w"]
    codes: UInt16[np.ndarray, "T h w"]


def augment_unlabelled(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    maps: Sequence[tuple[UInt8[np.ndarray, "H W"], UInt16[np.ndarray, "H W"]]] | None,
    settings: Augment,
    strong: Strong,
    generator: np.random.Generator,
) -> UnlabelledCrops:
    """Weak and strong crops of a clip, and its pseudo labels and entropy codes under the same geometry (nearest neighbour).

    Without `maps` all labels are 255 and all codes 0, and the class-share limit cannot be asked for.
    """
    inside = [np.zeros(frame.shape[:2], np.uint8) for frame in frames]
    if maps is None:
        geometry, warped = _draw_crop(inside, _unlimited(settings), generator)
        labels, codes = np.full_like(warped, IGNORE), np.zeros(warped.shape, np.uint16)
    else:
        geometry, labels = _draw_crop([one for one, _ in maps], settings, generator)
        codes = np.stack([_warp_values(code, geometry, 0, np.empty(geometry.crop, np.uint16)) for _, code in maps])
    weak = np.stack([warp_frame(frame, geometry) for frame in frames])
    views = np.stack([_strong_view(weak, geometry, settings, strong, generator) for _ in range(strong.views)])
    return UnlabelledCrops(weak, views, np.stack([warp_labels(one, geometry) for one in inside]) != IGNORE, labels, codes)


def _unlimited(settings: Augment) -> Augment:
    """The same settings without a limit on the share of a class."""
    return settings.model_copy(update={"max_class_share": 1.0})


def _strong_view(
    weak: UInt8[np.ndarray, "T h w 3"], geometry: Geometry, settings: Augment, strong: Strong, generator: np.random.Generator
) -> UInt8[np.ndarray, "T h w 3"]:
    """Another light, perhaps no colours, perhaps blurred; the same for all frames of the clip."""
    photometric = _draw_photometric(settings, generator)
    grey, blurred = (generator.random(2) < (strong.grey, strong.blur)).tolist()
    sigma = float(generator.uniform(0.1, 2.0))
    return np.stack([_pad(_strongly(frame, photometric, grey, sigma if blurred else 0.0), geometry, 0) for frame in weak])


def _strongly(frame: UInt8[np.ndarray, "h w 3"], photometric: Photometric | None, grey: bool, sigma: float) -> UInt8[np.ndarray, "h w 3"]:
    lit = frame.copy()
    if photometric is not None:
        _relight(lit, photometric)
    if grey:
        lit = np.repeat(cv2.cvtColor(lit, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
    return np.asarray(cv2.GaussianBlur(lit, (0, 0), sigma)) if sigma else lit


def warp_frame(frame: UInt8[np.ndarray, "H W 3"], geometry: Geometry, photometric: Photometric | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Crop of a frame under a given geometry and light; 0 outside the frame."""
    crop = np.empty((*geometry.crop, 3), np.uint8)
    crop[geometry.inside()] = _covered(frame, geometry, photometric)
    return _pad(crop, geometry, 0)


def warp_labels(labels: UInt8[np.ndarray, "H W"], geometry: Geometry) -> UInt8[np.ndarray, "h w"]:
    """Crop of a label map under a given geometry; 255 outside the frame."""
    return _warp_values(labels, geometry, IGNORE, np.empty(geometry.crop, np.uint8))


def _warp_values(values: np.ndarray, geometry: Geometry, padding: int, out: np.ndarray) -> np.ndarray:
    """Crop of a map of numbers, by nearest neighbour, into `out`."""
    out[geometry.inside()] = warped(values, geometry, cv2.INTER_NEAREST)
    return _pad(out, geometry, padding)


def _covered(frame: UInt8[np.ndarray, "H W 3"], geometry: Geometry, photometric: Photometric | None) -> UInt8[np.ndarray, "h2 w2 3"]:
    """What the frame covers of the crop, by the cheaper of two ways, under another light."""
    patch = Patch.of(geometry)
    cheaper = patch.pixels <= _WARP_COSTS * geometry.crop[0] * geometry.crop[1]
    covered = resampled(frame, geometry, patch) if cheaper else warped(frame, geometry, cv2.INTER_LINEAR)
    if photometric is not None:
        _relight(covered, photometric)
    return covered


@dataclass(frozen=True)
class Patch:
    """The part of a frame from which OpenCV's resize, which cannot begin between pixels, makes a crop; see `_start`."""

    rows: slice  # of the source
    columns: slice
    skipped: tuple[int, int]  # rows and columns of the resized patch before the crop
    pixels: int  # of the resized patch up to the crop's end

    @classmethod
    def of(cls, geometry: Geometry) -> "Patch":
        ends = [min(o + c, r) for o, c, r in zip(geometry.corner, geometry.crop, geometry.resized, strict=True)]
        (top, above), (left, before) = (_start(*axis) for axis in zip(geometry.corner, geometry.source, geometry.resized, strict=True))
        steps = [source / resized for source, resized in zip(geometry.source, geometry.resized, strict=True)]
        bottom, right = (int((end - 0.5) * step - 0.5) + 2 for end, step in zip(ends, steps, strict=True))
        rows, columns = slice(top, min(bottom, geometry.source[0])), slice(left, min(right, geometry.source[1]))
        sizes = rows.stop - rows.start, columns.stop - columns.start
        kept = all(round(size * (r / s)) == size for size, r, s in zip(sizes, geometry.resized, geometry.source, strict=True))
        if kept and geometry.resized != geometry.source:  # OpenCV copies a picture whose rounded size stays, whatever its scale
            return cls(slice(0, geometry.source[0]), slice(0, geometry.source[1]), geometry.corner, math.prod(geometry.resized))
        skipped = geometry.corner[0] - above, geometry.corner[1] - before
        return cls(rows, columns, skipped, (ends[0] - above) * (ends[1] - before))


def _start(first: int, source: int, resized: int) -> tuple[int, int]:
    """The last source pixel before the place of resized pixel `first` at which a resize may begin and stay on the whole frame's grid.

    Returns it, and the resized pixel that falls on it.
    """
    step = source / resized
    starts = np.arange(max(int((first + 0.5) * step - 0.5), 0) + 1)
    places = starts / step
    start = int(np.flatnonzero(np.abs(places - np.rint(places)) * step <= _OFF_GRID)[-1])  # 0 is on it
    return start, round(start / step)


def resampled(frame: UInt8[np.ndarray, "H W 3"], geometry: Geometry, patch: Patch) -> UInt8[np.ndarray, "h2 w2 3"]:
    """What the frame covers of the crop, a new array: a patch of it resized, and what the crop does not need cut off."""
    (height, width), (rows, columns) = geometry.resized, geometry.inside()
    scale = {"fx": width / geometry.source[1], "fy": height / geometry.source[0]}  # from sizes it would be that of the rounded patch
    large = cv2.resize(frame[patch.rows, patch.columns], None, **scale, interpolation=cv2.INTER_LINEAR)
    top, left = patch.skipped
    part = large[top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]
    return np.asarray(cv2.flip(part, 1)) if geometry.flip else part


def warped(image: np.ndarray, geometry: Geometry, interpolation: int) -> np.ndarray:
    """The same by one warp, which makes no pixel but the crop's: for labels, and for a small crop far inside a large frame."""
    height, width = _extent(geometry)
    covered = np.empty((height, width, *image.shape[2:]), image.dtype)
    # The border is replicated and cut off: a constant border would darken the frame's outermost pixels.
    way = interpolation | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(image, geometry.inverse(), (width, height), covered, way, cv2.BORDER_REPLICATE)
    return covered[geometry.inside()]


def _extent(geometry: Geometry) -> tuple[int, int]:
    """Rows and columns of the crop, from its top left, that hold all that the frame covers, the columns in whole vectors."""
    rows, columns = geometry.inside()
    return rows.stop, min(-(-columns.stop // _VECTOR) * _VECTOR, geometry.crop[1])


def _pad(image: np.ndarray, geometry: Geometry, value: int) -> np.ndarray:
    rows, columns = geometry.inside()
    image[rows.stop :] = value
    image[:, : columns.start] = value
    image[:, columns.stop :] = value
    return image


def _draw_crop(
    labels: Sequence[UInt8[np.ndarray, "H W"]], settings: Augment, generator: np.random.Generator
) -> tuple[Geometry, UInt8[np.ndarray, "T h w"]]:
    """A geometry that obeys the class-share limit (or the last of ten tries), and the labels under it."""
    source = labels[0].shape[:2]
    scale = generator.uniform(*settings.scale)
    if settings.short_side is not None:
        scale *= settings.short_side / min(source)
    height, width = settings.base or source
    resized = max(1, round(height * scale)), max(1, round(width * scale))
    flip = bool(generator.random() < settings.flip)
    warped = np.empty((len(labels), *settings.crop), np.uint8)
    for _ in range(TRIES):
        corner = tuple(int(generator.integers(max(r - c, 0) + 1)) for r, c in zip(resized, settings.crop, strict=True))
        geometry = Geometry((source[0], source[1]), resized, (corner[0], corner[1]), settings.crop, flip)
        for one, crop in zip(labels, warped, strict=True):
            _warp_values(one, geometry, IGNORE, crop)
        rows, columns = geometry.inside()
        if _share(warped[:, rows, columns], labels) <= settings.max_class_share:
            break
    return geometry, warped


def _share(crop: UInt8[np.ndarray, "T h w"], labels: Sequence[UInt8[np.ndarray, "H W"]]) -> float:
    """`largest_share` of the crop; 1 where it misses all of the clip's labelled pixels, since nothing can be learned from it."""
    share = largest_share(crop)
    return 1.0 if share == 0 and any((one != IGNORE).any() for one in labels) else share


def largest_share(labels: UInt8[np.ndarray, "T h w"]) -> float:
    """Share of the most frequent class among the labelled pixels, 0..1; 0 where nothing is labelled."""
    # OpenCV counts in integers and gives them as float32, exact below 2**24 pixels a label map; half the time of np.bincount
    counts = sum(cv2.calcHist([one], [0], None, [256], [0, 256]).astype(np.int64) for one in labels)[:IGNORE]
    return float(counts.max() / max(counts.sum(), 1))


def _draw_photometric(settings: Augment, generator: np.random.Generator) -> Photometric | None:
    """Brightness, contrast, saturation and hue, each changed with chance one half. Always consumes the same number of draws."""
    chosen = generator.random(4) < 0.5
    added = generator.uniform(-settings.brightness, settings.brightness)
    gain, saturation = generator.uniform(*settings.contrast), generator.uniform(*settings.saturation)
    turn = generator.uniform(-settings.hue, settings.hue)
    if not settings.photometric:
        return None
    levels = np.arange(256.0)
    light = np.clip(levels + added, 0, 255) if chosen[0] else levels
    light = np.clip(light * gain, 0, 255) if chosen[1] else light
    return Photometric(
        np.rint(light).astype(np.uint8) if chosen[:2].any() else None,
        round(turn * 256 / 360) % 256 if chosen[2] else 0,
        np.rint(np.clip(levels * saturation, 0, 255)).astype(np.uint8) if chosen[3] else None,
    )


def _relight(frame: UInt8[np.ndarray, "h w 3"], photometric: Photometric) -> None:
    """In place."""
    saturation = photometric.saturation
    turn = np.tile(np.array([photometric.hue, 0, 0], np.uint8), frame.shape[1])
    for rows in (frame[top : top + _ROWS] for top in range(0, len(frame), _ROWS)):
        if photometric.light is not None:
            cv2.LUT(rows, photometric.light, rows)
        if photometric.hue or saturation is not None:
            hsv = cv2.cvtColor(rows, cv2.COLOR_RGB2HSV_FULL)
            if photometric.hue:
                flat = hsv.reshape(len(hsv), -1)
                np.add(flat, turn, out=flat)  # wraps round
            if saturation is not None:
                planes = cv2.split(hsv)
                cv2.LUT(planes[1], saturation, planes[1])
                cv2.merge(planes, hsv)
            cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, rows)
