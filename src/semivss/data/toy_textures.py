"""A random generator in, the painted surfaces of the toy world out: RGBA uint8 textures, alpha > 127 where the surface is.

The colour ranges of road, path and ground, of building, house and wall, of car and bus, of grass and tree overlap on purpose:
which is which follows from shape, place and pattern, and those have to be learnt from many clips.
"""

import colorsys
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

Texture = UInt8[np.ndarray, "_h _w 4"]  # sizes are not compared: one call may take several
Color = Float32[np.ndarray, "3"]
Facade = Literal["building", "house", "wall"]

DENSITY = 16  # texels a metre of facades
GROUND_TILE = 256  # texels of a side of the repeated ground tiles

# (hue, saturation, value): the middle and how far it goes to either side
_COLORS = {
    "road": ((0.6, 0.05, 0.34), (0.1, 0.05, 0.16)),
    "path": ((0.07, 0.16, 0.68), (0.05, 0.15, 0.18)),
    "ground": ((0.08, 0.48, 0.52), (0.04, 0.18, 0.2)),
    "grass": ((0.26, 0.55, 0.46), (0.1, 0.2, 0.17)),
    "foliage": ((0.27, 0.45, 0.36), (0.16, 0.2, 0.16)),
    "building": ((0.08, 0.18, 0.6), (0.06, 0.18, 0.22)),
    "house": ((0.07, 0.3, 0.76), (0.07, 0.25, 0.22)),
    "wall": ((0.05, 0.35, 0.5), (0.06, 0.3, 0.22)),
    "cool": ((0.58, 0.2, 0.6), (0.07, 0.15, 0.25)),
    "roof": ((0.03, 0.5, 0.42), (0.05, 0.25, 0.18)),
    "car": ((0.6, 0.12, 0.5), (0.5, 0.12, 0.4)),
    "bus": ((0.5, 0.65, 0.68), (0.5, 0.2, 0.22)),
    "cloth": ((0.5, 0.7, 0.7), (0.5, 0.28, 0.28)),
    "paint": ((0.5, 0.45, 0.55), (0.5, 0.42, 0.38)),  # of anything, which may mislead
    "skin": ((0.065, 0.45, 0.62), (0.025, 0.15, 0.27)),
}
_TYPICAL = 0.75  # share of the colours that stay in the inner half of their range
_STRANGE = 0.25  # share of cars, buses and clothes that are painted like anything


def sample_color(rng: np.random.Generator, kind: str) -> Color:
    """A colour of the kind, RGB in 0..255."""
    if kind in ("car", "bus", "cloth") and rng.random() < _STRANGE:
        kind = "paint"
    middle, reach = np.array(_COLORS[kind])
    shades = rng.uniform(-1, 1, 3) * (0.5 if rng.random() < _TYPICAL else 1.0)
    if kind in ("car", "bus", "cloth", "paint"):
        shades[0] = rng.uniform(-1, 1)  # any hue
    hue, saturation, value = middle + reach * shades
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32) * 255


def value_noise(rng: np.random.Generator, size: int, cells: int, octaves: int = 3) -> Float32[np.ndarray, "size size"]:
    """Smooth noise in about -1..1 that tiles: `cells` bumps along a side, doubled at half the strength for each octave."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        count = cells * 2**octave
        if count > size:
            break
        grid = cv2.copyMakeBorder(rng.random((count, count), np.float32), 2, 2, 2, 2, cv2.BORDER_WRAP)
        step = size // count
        smooth = cv2.INTER_CUBIC if step > 4 else cv2.INTER_LINEAR  # in a bump of few texels nobody sees the difference
        total += cv2.resize(grid, None, fx=step, fy=step, interpolation=smooth)[2 * step : -2 * step, 2 * step : -2 * step] * 2.0 ** (
            1 - octave
        )
        total -= 2.0**-octave
    return total


def noise(rng: np.random.Generator, height: int, width: int, cells: int = 8) -> Float32[np.ndarray, "{height} {width}"]:
    """Smooth noise in about -1..1, `cells` bumps along a side."""
    square = value_noise(rng, 128, cells)
    return cv2.resize(square, (width, height), interpolation=cv2.INTER_LINEAR)


def canvas_of(
    rng: np.random.Generator, height: int, width: int, color: Color, grain: float = 0.08
) -> Float32[np.ndarray, "height width 4"]:
    """One colour with grain, opaque: RGBA 0..255 to paint on."""
    canvas = np.empty((height, width, 4), np.float32)
    bright = 1 + grain * noise(rng, height, width) + np.float32(grain / 3) * rng.standard_normal((height, width), np.float32)
    canvas[..., :3] = color * bright[..., None]
    canvas[..., 3] = 255
    return canvas


def finish(canvas: Float32[np.ndarray, "h w 4"]) -> Texture:
    """The painting as bytes."""
    return np.clip(canvas, 0, 255).astype(np.uint8)


def sky(rng: np.random.Generator, zenith: Color, horizon: Color, cloud: Color, cover: float) -> Texture:
    """Clouds over a gradient, top row = zenith. `cover` 0..1 is the share of clouds."""
    height, width = 256, 512
    rise = np.linspace(1, 0, height, dtype=np.float32)[:, None, None] ** 0.7
    canvas = np.full((height, width, 4), 255, np.float32)
    canvas[..., :3] = horizon + (zenith - horizon) * rise
    flat = cv2.resize(value_noise(rng, 128, 4, 5), (width, 2 * height))[:height]  # stretched sideways, as clouds near the horizon are
    density = np.clip((flat + 2.4 * cover - 1.3) * 1.5, 0, 1)[..., None]
    canvas[..., :3] += (cloud * (1 + 0.06 * flat[..., None]) - canvas[..., :3]) * density
    return finish(canvas)


def backdrop(rng: np.random.Generator, kind: Literal["tree", "building"]) -> Texture:
    """A far tree line or skyline as a silhouette, 512 texels wide."""
    height, width = 96, 512
    if kind == "tree":
        canvas = canvas_of(rng, height, width, sample_color(rng, "foliage"), 0.3)
        profile = 0.55 + 0.16 * noise(rng, 1, width, 16)[0] + 0.05 * rng.standard_normal(width)
    else:
        canvas = canvas_of(rng, height, width, sample_color(rng, "building"), 0.05)
        widths = np.repeat(rng.uniform(0.25, 1, width // 16), 16)
        profile = widths.astype(np.float32)
        canvas[..., :3] *= np.repeat(rng.uniform(0.7, 1.2, width // 16), 16)[None, :, None]
        canvas[::6, :, :3] *= 0.75
    rows = np.arange(height)[:, None] / height
    canvas[..., 3] = np.where(rows > 1 - profile, 255, 0)
    return finish(canvas)


def facade(rng: np.random.Generator, kind: Facade, width: float, height: float) -> Texture:
    """The face of a construction, `width` x `height` metres: masonry; windows and doors unless it is a wall."""
    h, w = round(height * DENSITY), round(width * DENSITY)
    canvas = canvas_of(rng, h, w, sample_color(rng, "cool" if rng.random() < 0.2 else kind))
    _masonry(rng, canvas, kind)
    if kind == "wall":
        cap = canvas[: max(2, h // 12)]
        cap[..., :3] *= rng.uniform(0.6, 1.35)
    else:
        _windows(rng, canvas, kind)
    return finish(canvas)


def _masonry(rng: np.random.Generator, canvas: Float32[np.ndarray, "h w 4"], kind: Facade) -> None:
    style = rng.choice(["brick", "panels", "boards"] if kind == "wall" else ["plaster", "brick", "boards"])
    h, w = canvas.shape[:2]
    rows, columns = np.arange(h)[:, None], np.arange(w)[None]
    depth = rng.uniform(0.65, 0.88)
    if style == "brick":
        course = rows // 4
        joint = (rows % 4 == 0) | ((columns + 5 * (course % 2)) % 10 == 0)
        canvas[..., :3] *= np.where(joint, depth, rng.uniform(0.88, 1.1, ((h + 3) // 4, (w + 9) // 10))[course, columns // 10])[..., None]
    elif style == "panels":
        size = int(rng.integers(20, 40))
        canvas[..., :3] *= np.where((rows % size < 1) | (columns % size < 1), depth, 1.0)[..., None]
    elif style == "boards":
        lines = columns if rng.random() < 0.5 else rows
        canvas[..., :3] *= (1 + (1 - depth) * np.cos(lines * (2 * np.pi / 5)))[..., None]


def _windows(rng: np.random.Generator, canvas: Float32[np.ndarray, "h w 4"], kind: Facade) -> None:
    h, w = canvas.shape[:2]
    floor, bay = (round(rng.uniform(2.6, 3.6) * DENSITY), round(rng.uniform(1.8, 3.4) * DENSITY))
    if kind == "house":
        bay = round(bay * 1.4)
    tall, wide = rng.uniform(0.4, 0.62), rng.uniform(0.4, 0.9 if kind == "building" else 0.6)
    glass, frame = sample_color(rng, "cool") * rng.uniform(0.25, 0.8), sample_color(rng, "house") * rng.uniform(0.5, 1.3)
    floors, bays = max(1, h // floor), max(1, w // bay)
    pitch = w / bays
    for level in range(floors):
        bottom = h - level * floor - round(0.28 * floor)
        for column in range(bays):
            left = round(column * pitch + (1 - wide) / 2 * pitch)
            box = (left, bottom - round(tall * floor), round(wide * pitch), round(tall * floor))
            if kind == "house" and level == 0 and column == bays // 2:
                _pane(canvas, (left, h - round(0.7 * floor), DENSITY, round(0.7 * floor)), frame * 0.5, frame)
            else:
                _pane(canvas, box, glass * rng.uniform(0.6, 1.5), frame)


def _pane(canvas: Float32[np.ndarray, "h w 4"], box: tuple[int, int, int, int], glass: Color, frame: Color) -> None:
    left, top, width, height = box
    canvas[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1, :3] = frame
    shine = np.linspace(1.25, 0.8, height, dtype=np.float32)[:, None, None]  # glass mirrors the brighter sky higher up
    pane = canvas[max(0, top) : max(0, top + height), left : left + width, :3]
    pane[:] = (glass * shine)[-pane.shape[0] :] if len(pane) else 0
    pane[:, width // 2 : width // 2 + 1] = frame


def roof(rng: np.random.Generator, color: Color, width: float, height: float) -> Texture:
    """Rows of tiles, `width` x `height` metres."""
    canvas = canvas_of(rng, round(height * DENSITY), round(width * DENSITY), color)
    canvas[::5, :, :3] *= 0.72
    return finish(canvas)


def gable(front: Texture, width: float, height: float) -> Texture:
    """The triangle under a pitched roof, in the masonry of the front's top rows."""
    h, w = max(4, round(height * DENSITY)), max(4, round(width * DENSITY))
    canvas = np.ascontiguousarray(np.resize(front[:6, :32], (h, w, 4)))
    rows, columns = (np.arange(h)[:, None] + 0.5) / h, (np.arange(w)[None] + 0.5) / w
    canvas[..., 3] = np.where(np.abs(columns - 0.5) < rows / 2, 255, 0)
    return canvas


def plain(rng: np.random.Generator, color: Color, size: int = 32) -> Texture:
    """A square of one colour with a little grain."""
    return finish(canvas_of(rng, size, size, color, 0.04))


def ground_tiles(rng: np.random.Generator) -> tuple[Texture, Texture]:
    """Fine and coarse variation of the four ground materials (channels: grass, ground, road, path), 128 = none; both tile."""
    size = GROUND_TILE
    grain = (
        value_noise(rng, size, 64, 3),
        value_noise(rng, size, 32, 3),
        0.6 * rng.standard_normal((size, size), np.float32),
        value_noise(rng, size, 128, 2),
    )
    strength = rng.uniform((0.5, 0.3, 0.35, 0.2), (1.0, 0.7, 0.8, 0.5))
    fine = np.stack([noise * weight for noise, weight in zip(grain, strength, strict=True)], -1)
    if rng.random() < 0.8:  # slabs or bricks
        rows, columns = np.arange(size)[:, None], np.arange(size)[None]
        step = int(rng.choice([16, 32, 64]))
        joint = (rows % step < 2) | ((columns + step * (rows // step % 2)) % (2 * step) < 2)
        fine[..., 3] = np.where(joint, -rng.uniform(0.8, 1.6), fine[..., 3])
    coarse = np.stack([value_noise(rng, size, 8, octaves) for octaves in (2, 4, 4, 4)], -1)  # the first one shapes patches: no crumbs
    return _byte(fine * 60), _byte(coarse * 70)


def _byte(variation: np.ndarray) -> Texture:
    return np.clip(128 + variation, 0, 255).astype(np.uint8)
