"""Points on the ground in, material and colour out: strips along a street, cross paths, patches, markings and grain."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from semivss.data.toy_textures import GROUND_TILE, Color, Texture

GRASS, SOIL, ROAD, PATH = range(4)  # the channels of the ground tiles
MATERIALS = ("grass", "ground", "road", "path")  # their class names
_FINE, _COARSE = 4.0, 40.0  # metres covered by one tile


@dataclass(frozen=True, eq=False)
class Ground:
    """Strips along the street, cut by cross paths, with patches of another material in the yards."""

    edges: tuple[float, ...]  # ascending x, metres
    materials: tuple[int, ...]  # one more than edges
    road_half: float  # half the road's width
    patch: float  # value of the coarse tile (0..255) above which grass turns to soil and soil to grass
    cross: tuple[float, float, float]  # position, distance from one cross path to the next, half width (0 = none)
    bend: tuple[float, float]  # metres of sideways swing, and its wave length / 2 pi
    colors: Float32[np.ndarray, "4 3"]
    other: Float32[np.ndarray, "4 3"]  # the colour each material varies towards
    fine: Texture
    coarse: Texture
    marking: Color
    dash: float  # metres; 0 = no centre line
    edge_line: bool


def paint_ground(
    ground: Ground, x: Float32[np.ndarray, "h w"], z: Float32[np.ndarray, "h w"], footprint: Float32[np.ndarray, "h w"]
) -> tuple[Float32[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Albedo 0..255 and material at the points. `footprint`: metres of ground under one pixel; detail finer than that fades out."""
    x = x - ground.bend[0] * np.sin(z / np.float32(ground.bend[1]))
    coarse = _look_up(ground.coarse, x, z, _COARSE)
    material = materials_at(ground, x, z, coarse)
    fade = 1 / (1 + (footprint / np.float32(0.09)) ** 2)
    fine = _pick(_look_up(ground.fine, x, z, _FINE), material)
    mix = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    shades = ground.colors[:, None] + (ground.other - ground.colors)[:, None] * mix  # material, coarse value
    color = np.take(shades.reshape(-1, 3), material * np.uint16(256) + _pick(coarse, material), axis=0)
    grain = 1 + (fine.astype(np.float32) - 128) * (fade * np.float32(0.35 / 128))
    color *= cv2.merge([grain, grain, grain])
    marked = _marked(ground, x.reshape(-1), z.reshape(-1), np.flatnonzero(material == ROAD))
    flat = color.reshape(-1, 3)
    flat[marked] += (ground.marking - flat[marked]) * np.float32(0.85)
    return color, material


def materials_at(
    ground: Ground, x: Float32[np.ndarray, "h w"], z: Float32[np.ndarray, "h w"], coarse: UInt8[np.ndarray, "h w 4"]
) -> UInt8[np.ndarray, "h w"]:
    """Material numbers at points of the straightened street."""
    strip = np.zeros(x.shape, np.uint8)
    for edge in ground.edges:
        strip += x > edge
    material = np.array(ground.materials, np.uint8)[strip]
    yard = material <= SOIL
    material[yard & (coarse[..., 0] > ground.patch)] ^= 1  # grass and soil change places
    start, period, half = ground.cross
    if half:
        material[(np.abs((z - start) % period - period / 2) < half) & yard] = PATH
    return material


def _look_up(tile: Texture, x: np.ndarray, z: np.ndarray, metres: float) -> UInt8[np.ndarray, "h w 4"]:
    scale = np.float32(GROUND_TILE / metres)
    found: UInt8[np.ndarray, "h w 4"] = cv2.remap(tile, x * scale, z * scale, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return found


def _pick(values: UInt8[np.ndarray, "h w 4"], material: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Each point's own channel."""
    channel = material.reshape(-1) + np.arange(0, 4 * material.size, 4)
    return np.take(values.reshape(-1), channel).reshape(material.shape)


def _marked(ground: Ground, x: np.ndarray, z: np.ndarray, road: np.ndarray) -> np.ndarray:
    """Which of the points numbered `road` bear paint."""
    aside = np.abs(x[road])
    lines = []
    if ground.dash:
        middle = road[aside < 0.09]
        lines.append(middle[z[middle] % (2 * ground.dash) < ground.dash])
    if ground.edge_line:
        lines.append(road[np.abs(aside - (ground.road_half - 0.35)) < 0.07])
    return np.concatenate(lines) if lines else road[:0]
