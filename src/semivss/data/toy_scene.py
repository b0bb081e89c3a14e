"""The records of a toy scene in, exact projections out: every surface is a plane, so one 3 x 3 matrix says where it is in a frame.

World axes: x right, y up, z along the street; metres; time in frames. The ground is y = 0.
"""

from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64

from semivss.data.labels import IGNORE
from semivss.data.toy_ground import MATERIALS, Ground
from semivss.data.toy_textures import Texture

Vector = Float64[np.ndarray, "3"]
Matrices = Float64[np.ndarray, "S 3 3"]
Number = float | int  # time in frames, metres: the shape checker takes float to the letter

SKY, GROUND, FIRST_PART = 0, 1, 2  # surface numbers: parts follow in their order
UP = np.array([0.0, 1.0, 0.0])
STILL = np.zeros(3)

NAMES = ("wall", "ground", "grass", "road", "path", "building", "house", "sky", "car", "bus", "person", "tree")
ID = {name: number for number, name in enumerate(NAMES)} | {"void": IGNORE}
MATERIAL_IDS = np.array([ID[name] for name in MATERIALS], np.uint8)


@dataclass(frozen=True, eq=False)
class Camera:
    """Where the camera is and looks; smooth and bounded in time, so that a clip may be of any length."""

    position: Vector
    heading: float  # radians from +z towards +x
    pitch: float  # radians, positive = up
    focal: float  # in image widths
    speed: float = 0.0  # metres a frame along z
    pan: float = 0.0  # radians a frame
    zoom: float = 0.0  # growth of log focal length a frame
    shake: float = 0.0  # radians
    phases: Float64[np.ndarray, "4"] = field(default_factory=lambda: np.zeros(4))

    def pose(self, time: Number) -> tuple[Float64[np.ndarray, "3 3"], Vector, float]:
        """Rows right, down, forward in world axes; centre; focal length in image widths."""
        wave = self.shake * np.sin(np.array([0.31, 0.43, 0.23, 0.6]) * time + self.phases)
        heading = self.heading + _bounded(self.pan * time, 0.35) + wave[0]
        pitch, roll = self.pitch + 0.7 * wave[1], 0.6 * wave[2]
        centre = self.position + np.array([0.0, wave[3], _bounded(self.speed * time, 30.0)])
        sin, cos = np.sin(heading), np.cos(heading)
        level_right = np.array([cos, 0.0, -sin])
        forward = np.array([sin * np.cos(pitch), np.sin(pitch), cos * np.cos(pitch)])
        level_down = np.array([sin * np.sin(pitch), -np.cos(pitch), cos * np.sin(pitch)])
        right = np.cos(roll) * level_right + np.sin(roll) * level_down
        down = np.cos(roll) * level_down - np.sin(roll) * level_right
        return np.stack([right, down, forward]), centre, self.focal * float(np.exp(_bounded(self.zoom * time, 0.35)))


def _bounded(value: float, reach: float) -> float:
    """`value` near 0, swinging between -reach and reach in the long run."""
    return reach * float(np.sin(value / reach))


@dataclass(frozen=True, eq=False)
class Part:
    """A textured parallelogram: `u` leads along the texture's top row, `v` down its left column, as seen from outside.

    It moves by `velocity` metres a frame and swings in its own plane about `pivot` (shares of u and v) by `swing` radians.
    """

    label: int
    texture: tuple[Texture, ...]  # a pyramid, finest first
    origin: Vector
    u: Vector
    v: Vector
    velocity: Vector = field(default_factory=STILL.copy)
    pivot: tuple[float, float] = (0.0, 0.0)
    swing: float = 0.0
    rhythm: float = 0.0  # radians a frame
    phase: float = 0.0
    two_sided: bool = False
    casts: bool = True  # a shadow on the ground


@dataclass(frozen=True, eq=False)
class Light:
    """Sun, air and camera electronics. Light colours are factors on albedo; `haze` and noise are in grey values of 0..255."""

    to_sun: Vector
    sun: Vector
    ambient: Vector
    haze: Vector
    density: float  # of the air, 1 / metre
    gain: Vector  # exposure and white balance
    gamma: float
    shutter: float  # share of the frame interval
    softness: float  # pixels at 320 columns
    read_noise: float
    shot_noise: float


@dataclass(frozen=True, eq=False)
class Scene:
    camera: Camera
    parts: tuple[Part, ...]
    ground: Ground
    sky: tuple[Texture, ...]
    light: Light

    @cached_property
    def _stacked(self) -> dict[str, np.ndarray]:
        names = ("origin", "u", "v", "velocity", "pivot", "swing", "rhythm", "phase")
        return {name: np.array([getattr(part, name) for part in self.parts], np.float64) for name in names}

    @cached_property
    def texels(self) -> Float64[np.ndarray, "P"]:
        """Area of each part's finest texture."""
        return np.array([part.texture[0].shape[0] * part.texture[0].shape[1] for part in self.parts], np.float64)

    @cached_property
    def casters(self) -> Bool[np.ndarray, "P"]:
        """Parts whose shadow is drawn: the far side of a box would only repeat the near side's."""
        sunward = self._normals @ self.light.to_sun
        return np.array([part.casts for part in self.parts], bool) & (self._two_sided | (sunward > 0.02))

    @cached_property
    def lights(self) -> Float32[np.ndarray, "S 3"]:
        """Light on every surface as a factor on its texture; sky and ground have theirs painted in."""
        facing = np.clip(self._normals @ self.light.to_sun, 0, 1)
        facing[self._two_sided] = 0.7  # foliage and people are round
        parts = self.light.ambient + facing[:, None] * self.light.sun
        return np.concatenate([np.ones((FIRST_PART, 3)), parts]).astype(np.float32)

    @cached_property
    def _two_sided(self) -> Bool[np.ndarray, "P"]:
        return np.array([part.two_sided for part in self.parts], bool)

    @cached_property
    def _normals(self) -> Float64[np.ndarray, "P 3"]:
        normals = np.cross(self._stacked["u"], self._stacked["v"])
        return normals / np.linalg.norm(normals, axis=1, keepdims=True)

    def faces_camera(self, time: Number) -> Bool[np.ndarray, "P"]:
        """Parts seen from outside."""
        towards = self.camera.pose(time)[1] - (self._stacked["origin"] + self._stacked["velocity"] * time)
        return self._two_sided | ((towards * self._normals).sum(1) > 0)

    def spans(self, time: Number) -> Float64[np.ndarray, "P 3 3"]:
        """Columns u, v, origin of every part in the world."""
        p = self._stacked
        angle = (p["swing"] * np.sin(p["rhythm"] * time + p["phase"]))[:, None]
        wide, tall = (np.linalg.norm(p[key], axis=1, keepdims=True) for key in "uv")
        u = p["u"] * np.cos(angle) + p["v"] * (np.sin(angle) * wide / tall)
        v = p["v"] * np.cos(angle) - p["u"] * (np.sin(angle) * tall / wide)
        fixed = p["origin"] + p["u"] * p["pivot"][:, :1] + p["v"] * p["pivot"][:, 1:]
        origin = fixed - u * p["pivot"][:, :1] - v * p["pivot"][:, 1:] + p["velocity"] * time
        return np.stack([u, v, origin], axis=-1)

    def projections(self, time: Number, size: tuple[int, int]) -> Matrices:
        """Plane coordinates (a, b, 1) to depth * (x, y, 1) in pixels, one matrix a surface.

        Plane coordinates: parts and sky 0..1 along u and v; ground (x, z) in metres.
        """
        rotation, centre, _ = self.camera.pose(time)
        spans = self.spans(time)
        spans[:, :, 2] -= centre
        floor = np.stack([[1.0, 0, 0], [0, 0, 1.0], -centre], axis=-1)
        return self._to_pixels(time, size) @ rotation @ np.concatenate([self._dome()[None], floor[None], spans])

    def shadows(self, time: Number, size: tuple[int, int]) -> Matrices:
        """The same for the parts' shadows: each part slid along the sun's rays onto the ground."""
        rotation, centre, _ = self.camera.pose(time)
        slide = np.eye(3) - np.outer(self.light.to_sun / self.light.to_sun[1], UP)
        spans = slide @ self.spans(time)
        spans[:, :, 2] -= centre
        return self._to_pixels(time, size) @ rotation @ spans

    def _to_pixels(self, time: Number, size: tuple[int, int]) -> Float64[np.ndarray, "3 3"]:
        height, width = size
        focal = self.camera.pose(time)[2] * width
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])

    def _dome(self) -> Float64[np.ndarray, "3 3"]:
        """The sky: a plane at infinity across the first heading, 4 x 2 units of tangent wide and high, from a little under the horizon."""
        sin, cos = np.sin(self.camera.heading), np.cos(self.camera.heading)
        right, forward = np.array([cos, 0, -sin]), np.array([sin, 0, cos])
        return np.stack([6 * right, -1.6 * UP, forward - 3 * right + 1.5 * UP], axis=-1)


def point(x: Number, z: Number, y: Number = 0) -> Vector:
    """World position; x right, z along the street, y up."""
    return np.array([x, y, z], np.float64)


def pyramid(texture: Texture) -> tuple[Texture, ...]:
    """The texture and its halves down to 4 texels."""
    levels = [np.ascontiguousarray(texture)]
    while min(levels[-1].shape[:2]) >= 8:
        height, width = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return tuple(levels)
