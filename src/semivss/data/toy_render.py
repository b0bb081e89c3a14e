"""A toy scene and a time in, a frame with its labels out, and the exact motion between two times.

Every surface is a plane. The inverse of its projection takes a pixel (x, y, 1) to (a, b, 1) / depth: the plane coordinates to look up
and, in the third place, the inverse depth, which decides what hides what. Drawing and flow use these same matrices.
"""

from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16, UInt8, UInt32

from semivss.data.toy_ground import paint_ground
from semivss.data.toy_scene import FIRST_PART, GROUND, ID, MATERIAL_IDS, SKY, Matrices, Number, Scene
from semivss.data.toy_textures import Texture

_NEAR, _FAR = 0.1, 400.0  # metres: corners nearer than the first are cut before a bounding box is taken; ground ends at the second
_CORNERS = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]], np.float64)

# Of the normal distribution, one for each byte: sensor noise ten times faster than drawing it exactly.
_QUANTILES = np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)], np.float32)

Size = tuple[int, int]
Box = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True, eq=False)
class Raster:
    """One time, drawn without lens and sensor."""

    albedo: UInt8[np.ndarray, "H W 4"]
    labels: UInt8[np.ndarray, "H W"]
    surfaces: Int16[np.ndarray, "H W"]
    inverse_depth: Float32[np.ndarray, "H W"]  # 0 = sky
    inverses: Matrices


def plane_coordinates(inverse: Float64[np.ndarray, "3 3"], box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a / depth, b / depth, 1 / depth) at the pixels of `box`, float32."""
    return _plane(inverse[0], box), _plane(inverse[1], box), _plane(inverse[2], box)


def _plane(row: Float64[np.ndarray, "3"], box: Box) -> Float32[np.ndarray, "h w"]:
    """row . (x, y, 1), summed from double precision: the terms may cancel."""
    top, bottom, left, right = box
    across = (row[0] * np.arange(right - left)).astype(np.float32)
    along = (row[1] * np.arange(top, bottom) + (row[0] * left + row[2])).astype(np.float32)
    total: Float32[np.ndarray, "h w"] = np.add.outer(along, across)
    return total


def rasterise(scene: Scene, time: Number, size: Size) -> Raster:
    """Draw sky, ground with shadows, then all parts against the depth buffer."""
    projections = scene.projections(time, size)
    raster = Raster(
        np.zeros((*size, 4), np.uint8),
        np.full(size, ID["sky"], np.uint8),
        np.full(size, SKY, np.int16),
        np.zeros(size, np.float32),
        np.linalg.inv(projections),
    )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        _draw_sky(scene, raster)
        _draw_ground(scene, raster, time)
        boxes, levels = _bounds(projections[FIRST_PART:], scene, size)
        shown = np.flatnonzero((boxes[:, 1] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 2]) & scene.faces_camera(time))
        for number in shown[np.argsort(projections[FIRST_PART + shown, 2].sum(1))]:  # near ones first: what they hide is left out early
            pyramid = scene.parts[number].texture
            _draw_part(raster, int(number), pyramid[min(levels[number], len(pyramid) - 1)], scene.parts[number].label, _box(boxes[number]))
    return raster


def _box(row: np.ndarray) -> Box:
    top, bottom, left, right = row.tolist()
    return top, bottom, left, right


def _draw_sky(scene: Scene, raster: Raster) -> None:
    height, width = raster.labels.shape
    texture = scene.sky[0]
    matrix = np.diag([texture.shape[1], texture.shape[0], 1.0]) @ raster.inverses[SKY]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpPerspective(texture, matrix, (width, height), dst=raster.albedo, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _draw_ground(scene: Scene, raster: Raster, time: Number) -> None:
    height, width = raster.labels.shape
    # The inverse depth is affine in the pixel: the rows where ground can be follow from the two side columns.
    a, b, c = raster.inverses[GROUND][2]
    rows = np.flatnonzero(np.maximum(c, a * (width - 1) + c) + b * np.arange(height) > 1 / _FAR)
    if len(rows) == 0:
        return
    box = (int(rows[0]), int(rows[-1]) + 1, 0, width)
    first, second, inverse_depth = plane_coordinates(raster.inverses[GROUND], box)
    seen = inverse_depth > 1 / _FAR
    depth = 1 / np.maximum(inverse_depth, np.float32(1 / _FAR))
    _, centre, focal = scene.camera.pose(time)
    color, material = paint_ground(scene.ground, first * depth, second * depth, depth * depth / np.float32(focal * width * centre[1]))
    color *= _light_on_ground(scene, time, (height, width), box)
    part = slice(box[0], box[1])
    np.copyto(raster.albedo.view(np.uint32)[part, :, 0], _words(color), where=seen)
    np.copyto(raster.labels[part], MATERIAL_IDS[material], where=seen)
    np.copyto(raster.surfaces[part], np.int16(GROUND), where=seen)
    np.copyto(raster.inverse_depth[part], inverse_depth, where=seen)


def _words(color: Float32[np.ndarray, "h w 3"]) -> UInt32[np.ndarray, "h w"]:
    """Colours 0..255 as one 32-bit word a pixel."""
    return cv2.cvtColor(cv2.convertScaleAbs(color), cv2.COLOR_RGB2RGBA).view(np.uint32)[..., 0]


def _light_on_ground(scene: Scene, time: Number, size: Size, band: Box) -> Float32[np.ndarray, "h W 3"]:
    """Ambient light, and the sun where no part stands in its way, over the rows of `band`."""
    light = scene.light
    open_sky = np.full((band[1] - band[0], size[1]), 255, np.uint8)
    if light.sun.any():
        projections = scene.shadows(time, size)
        boxes, levels = _bounds(projections, scene, size)
        boxes[:, 0] = np.maximum(boxes[:, 0], band[0])
        inverses = np.linalg.inv(projections + np.eye(3) * 1e-12)
        for number in np.flatnonzero((boxes[:, 1] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 2]) & scene.casters):
            pyramid = scene.parts[number].texture
            texture = pyramid[min(levels[number] + 1, len(pyramid) - 1)]
            box = _box(boxes[number])
            shadow = _sample(texture, inverses[number], box)[..., 3]
            target = open_sky[box[0] - band[0] : box[1] - band[0], box[2] : box[3]]
            np.minimum(target, 255 - shadow, out=target)
    steps = np.arange(256, dtype=np.float32)[:, None] / 255
    return np.take((light.ambient + steps * light.sun * light.to_sun[1]).astype(np.float32), open_sky, axis=0)


def _sample(texture: Texture, inverse: Float64[np.ndarray, "3 3"], box: Box) -> UInt8[np.ndarray, "h w 4"]:
    """The texture at the pixels of `box`, transparent outside of it."""
    top, bottom, left, right = box
    height, width = texture.shape[:2]
    to_texels = np.array([[width, 0, -0.5], [0, height, -0.5], [0, 0, 1]])
    from_box = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    found: UInt8[np.ndarray, "h w 4"] = cv2.warpPerspective(
        texture, to_texels @ inverse @ from_box, (right - left, bottom - top), flags=flags
    )
    return found


def _draw_part(raster: Raster, number: int, texture: Texture, label: int, box: Box) -> None:
    region = (slice(box[0], box[1]), slice(box[2], box[3]))
    inverse = raster.inverses[FIRST_PART + number]
    inverse_depth = _plane(inverse[2], box)
    seen = inverse_depth > raster.inverse_depth[region]
    if not seen.any():
        return
    color = _sample(texture, inverse, box)
    seen &= color[..., 3] > 127
    # Four bytes of a pixel are copied as one word: several times faster than a mask over channels.
    np.copyto(raster.albedo.view(np.uint32)[..., 0][region], color.view(np.uint32)[..., 0], where=seen)
    np.copyto(raster.inverse_depth[region], inverse_depth, where=seen)
    np.copyto(raster.labels[region], np.uint8(label), where=seen)
    np.copyto(raster.surfaces[region], np.int16(FIRST_PART + number), where=seen)


def _bounds(projections: Matrices, scene: Scene, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Pixel boxes (top, bottom, left, right; empty where unseen) and texture levels of planes 0..1 x 0..1."""
    height, width = size
    corners = _CORNERS @ projections.transpose(0, 2, 1)  # P 4 (x, y, 1) * depth
    depth = corners[..., 2]
    xy = corners[..., :2] / np.maximum(depth, _NEAR)[..., None]
    low, high = xy.min(1), xy.max(1)
    (ax, ay), (bx, by) = (xy[:, 2] - xy[:, 0]).T, (xy[:, 3] - xy[:, 1]).T
    area = 0.5 * np.abs(ax * by - ay * bx)
    for number in np.flatnonzero((depth < _NEAR).any(1) & (depth > _NEAR).any(1)):
        cut = _cut_near(corners[number])
        low[number], high[number], area[number] = cut.min(0), cut.max(0), np.inf
    high[(depth < _NEAR).all(1)] = -1
    limits = np.stack([np.floor(low[:, 1]), np.ceil(high[:, 1]) + 1, np.floor(low[:, 0]), np.ceil(high[:, 0]) + 1], 1)
    boxes = np.clip(limits, 0, [height, height, width, width]).astype(np.int64)
    levels = 0.5 * np.log2(np.maximum(scene.texels / np.maximum(area, 1e-3), 1))
    return boxes, np.round(levels).astype(np.int64)


def _cut_near(corners: Float64[np.ndarray, "4 3"]) -> Float64[np.ndarray, "n 2"]:
    """Pixel positions of the corners of the piece that lies before the camera."""
    kept = []
    for here, there in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if here[2] >= _NEAR:
            kept.append(here)
        if (here[2] >= _NEAR) != (there[2] >= _NEAR):
            kept.append(here + (there - here) * (_NEAR - here[2]) / (there[2] - here[2]))
    points = np.array(kept)
    return points[:, :2] / points[:, 2:]


def displacement(
    surfaces: Int16[np.ndarray, "h w"], inverses: Matrices, later: Matrices, x: Float64[np.ndarray, "w"], y: Float64[np.ndarray, "h"]
) -> Float64[np.ndarray, "2 h w"]:
    """How far what is seen at pixels (x, y) moves until the time of `later`; 0 for a point that gets behind the camera."""
    moves = later @ inverses
    right, down, depth = (
        np.take(row[:, 0], surfaces) * x + np.take(row[:, 1], surfaces) * y[:, None] + np.take(row[:, 2], surfaces)
        for row in moves.transpose(1, 0, 2)
    )
    ahead = depth > 1e-9
    scale = 1 / np.where(ahead, depth, 1)
    return np.stack([np.where(ahead, right * scale - x, 0), np.where(ahead, down * scale - y[:, None], 0)])


def flow_between(scene: Scene, raster: Raster, time: Number) -> Float32[np.ndarray, "2 H W"]:
    """Exact flow from the raster to `time`: content at p lies at p + flow(p); channel 0 = x."""
    height, width = raster.labels.shape
    later = scene.projections(time, (height, width))
    return displacement(
        raster.surfaces, raster.inverses, later, np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    ).astype(np.float32)


def still_visible(raster: Raster, flow: Float32[np.ndarray, "2 H W"], later: Raster) -> Bool[np.ndarray, "H W"]:
    """Whether the pixel of `later` nearest to where the content went shows the same surface."""
    height, width = raster.labels.shape
    x = np.rint(np.arange(width) + flow[0]).astype(np.int64)
    y = np.rint(np.arange(height)[:, None] + flow[1]).astype(np.int64)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return inside & (later.surfaces[y.clip(0, height - 1), x.clip(0, width - 1)] == raster.surfaces)


def expose(scene: Scene, raster: Raster, time: Number, rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """What the camera makes of the raster: light, air, lens, motion during the shutter, sensor."""
    light = scene.light
    image = np.take(scene.lights, raster.surfaces, axis=0)
    image *= raster.albedo[..., :3]
    clear = np.exp(np.float32(-light.density) / np.maximum(raster.inverse_depth, np.float32(1e-3)))
    clear[raster.surfaces == SKY] = 1
    haze = light.haze.astype(np.float32)
    image -= haze
    image *= cv2.merge([clear, clear, clear])
    image += haze
    sigma = light.softness * image.shape[1] / 320
    image = _motion_blur(scene, raster, time, cv2.GaussianBlur(image, (0, 0), max(sigma, 0.35)))
    image *= (light.gain / 255).astype(np.float32)
    image = cv2.pow(np.maximum(image, 0, out=image), light.gamma)
    grain = _QUANTILES[np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)]
    grain *= cv2.sqrt(np.float32(light.read_noise**2) + np.float32(light.shot_noise**2) * image)
    image *= 255
    image += grain
    developed: UInt8[np.ndarray, "H W 3"] = cv2.convertScaleAbs(np.maximum(image, 0, out=image))
    return developed


def _motion_blur(scene: Scene, raster: Raster, time: Number, image: Float32[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "H W 3"]:
    """Mean along each pixel's own path, symmetrical about `time`, so that labels stay those of the middle of the exposure."""
    height, width = raster.labels.shape
    later = scene.projections(time + scene.light.shutter / 2, (height, width))
    x, y = np.arange(0, width, 2, dtype=np.float64), np.arange(0, height, 2, dtype=np.float64)
    half = displacement(raster.surfaces[::2, ::2], raster.inverses, later, x, y).astype(np.float32)  # half the grid: a quarter of the work
    reach = float(np.abs(half).max())
    if reach < 0.3:
        return image
    dx, dy = (cv2.resize(np.clip(part, -12, 12), (width, height)) for part in half)
    pairs = 1 if reach < 2.5 else 2
    grid_x, grid_y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    total = image.copy()
    for tap in range(1, pairs + 1):
        for step in (np.float32(tap / (pairs + 0.5)), -np.float32(tap / (pairs + 0.5))):
            total += cv2.remap(image, grid_x + step * dx, grid_y + step * dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return total / np.float32(2 * pairs + 1)
