"""Places and textures in, groups of parts out: the things that stand and move in the toy world."""

from dataclasses import replace
from typing import Literal

import numpy as np

from semivss.data import toy_figures as figures
from semivss.data import toy_textures as paint
from semivss.data.toy_scene import ID, STILL, UP, Part, Vector, pyramid
from semivss.data.toy_textures import Texture

Parts = list[Part]
Pyramid = tuple[Texture, ...]


def _axes(heading: float) -> tuple[Vector, Vector]:
    """Forward and right on the ground."""
    sin, cos = np.sin(heading), np.cos(heading)
    return np.array([sin, 0.0, cos]), np.array([cos, 0.0, -sin])


def box(
    label: int, base: Vector, heading: float, size: tuple[float, float, float], front: Pyramid, side: Pyramid, top: Pyramid | None
) -> Parts:
    """A box on `base` with length along its heading, width and height (`size`); `front` serves both ends."""
    forward, right = _axes(heading)
    length, width, height = size
    half_l, half_w, up, down = forward * (length / 2), right * (width / 2), UP * height, -UP * height
    parts = [
        Part(label, front, base + half_l + half_w + up, -right * width, down),
        Part(label, front, base - half_l - half_w + up, right * width, down),
        Part(label, side, base + half_w - half_l + up, forward * length, down),
        Part(label, side, base - half_w + half_l + up, -forward * length, down),
    ]
    if top is not None:
        parts.append(Part(label, top, base - half_w + half_l + up, right * width, -forward * length))
    return parts


def billboard(label: int, texture: Pyramid, base: Vector, towards: Vector, width: float, height: float) -> Part:
    """An upright card on `base`, turned to `towards`."""
    away = base - towards
    right = np.array([away[2], 0.0, -away[0]]) / max(1e-6, float(np.hypot(away[0], away[2])))
    return Part(label, texture, base - right * (width / 2) + UP * height, right * width, -UP * height, two_sided=True)


def house(base: Vector, heading: float, size: tuple[float, float, float], skins: dict[str, Pyramid], rise: float) -> Parts:
    """Walls, a pitched roof whose slopes face along the heading, and gables."""
    forward, right = _axes(heading)
    length, width, height = size
    label = ID["house"]
    parts = box(label, base, heading, size, skins["front"], skins["side"], None)
    eaves, ridge = base + UP * height, base + UP * (height + rise)
    out = 0.4 * forward  # the roof hangs over
    for sign in (1.0, -1.0):
        edge = sign * right * (width / 2)
        slope = sign * (forward * (length / 2) + out) - UP * (rise * (1 + 0.8 / length))
        parts.append(Part(label, skins["roof"], ridge + edge, -2 * edge, slope))
        side = eaves + edge + UP * rise - sign * forward * (length / 2)
        parts.append(Part(label, skins["gable"], side, sign * forward * length, -UP * rise, casts=False))
    return parts


def house_skins(rng: np.random.Generator, size: tuple[float, float, float], rise: float) -> dict[str, Pyramid]:
    """Textures of a house with those measures."""
    length, width, height = size
    front = paint.facade(rng, "house", width, height)
    slope = float(np.hypot(length / 2, rise))
    return {
        "front": pyramid(front),
        "side": pyramid(np.ascontiguousarray(np.roll(front[:, : round(length * paint.DENSITY)], 9, axis=1))),
        "roof": pyramid(paint.roof(rng, paint.sample_color(rng, "roof"), width, slope)),
        "gable": pyramid(paint.gable(front, length, rise)),
    }


def vehicle(rng: np.random.Generator, kind: Literal["car", "bus"], base: Vector, heading: float, velocity: Vector) -> Parts:
    """A car (4.2 m) or bus (9 m) that moves by `velocity` metres a frame."""
    color = paint.sample_color(rng, kind)
    parts = _car(rng, color, base, heading) if kind == "car" else _bus(rng, color, base, heading)
    return [replace(part, velocity=velocity) for part in parts]


def _bus(rng: np.random.Generator, color: paint.Color, base: Vector, heading: float) -> Parts:
    length, width, height = rng.uniform(7, 10), 2.5, rng.uniform(2.6, 3.3)
    side = pyramid(figures.bus_side(rng, color))
    end = pyramid(figures.vehicle_end(rng, color, 0.55))
    parts = box(ID["bus"], base, heading, (length, width, height), end, side, pyramid(paint.plain(rng, color * 0.9)))
    return [_shortened(part, 0.3) if part.texture is end else part for part in parts]


def _car(rng: np.random.Generator, color: paint.Color, base: Vector, heading: float) -> Parts:
    forward, right = _axes(heading)
    length, width, height = rng.uniform(3.8, 4.6), rng.uniform(1.65, 1.85), rng.uniform(1.4, 1.7)
    belt = 0.57 * height
    side = figures.car_side(rng, color)
    plate = pyramid(paint.plain(rng, color * 0.95))
    glass = pyramid(paint.plain(rng, paint.sample_color(rng, "cool") * 0.4))
    end = pyramid(figures.vehicle_end(rng, color, 0.1))
    label = ID["car"]
    lower = box(label, base, heading, (length * 0.97, width, belt), end, plate, plate)
    sides = box(label, base, heading, (length, width, height), plate, pyramid(side), None)[2:]
    sides[1] = replace(sides[1], texture=pyramid(side[:, ::-1]))  # the bonnet stays in front
    ends = [_shortened(part, 0.2) for part in lower[:2]]
    left, top = -right * (width / 2), UP * height
    screen = Part(
        label, glass, base + forward * (0.18 * length) - left + top, -right * width, forward * (0.22 * length) - UP * (height - belt)
    )
    rear = Part(
        label, glass, base - forward * (0.227 * length) + left + top, right * width, -forward * (0.153 * length) - UP * (height - belt)
    )
    roof = Part(label, plate, base + forward * (0.18 * length) + left + top, right * width, -forward * (0.407 * length))
    return [*ends, lower[4], *sides, screen, rear, roof]


def _shortened(part: Part, clearance: float) -> Part:
    height = float(np.linalg.norm(part.v))
    return replace(part, v=part.v * (1 - clearance / height))


def person(rng: np.random.Generator, base: Vector, towards: Vector, velocity: Vector) -> Parts:
    """Body and two legs that swing while it walks."""
    body, leg = (pyramid(texture) for texture in figures.person(rng))
    tall = rng.uniform(0.88, 1.08)
    label = ID["person"]
    upper = billboard(label, body, base + UP * (0.8 * tall), towards, 0.7 * tall, 0.98 * tall)
    walking = bool(np.any(velocity != STILL))
    start, rhythm = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.6)
    legs = [
        replace(
            billboard(label, leg, base + sign * upper.u / 0.7 * 0.075, towards, 0.22 * tall, 0.88 * tall),
            pivot=(0.5, 0.0),
            swing=0.4 if walking else 0.06,
            rhythm=rhythm if walking else 0.0,
            phase=start + (np.pi if sign > 0 else 0),
        )
        for sign in (-1.0, 1.0)
    ]
    return [replace(part, velocity=velocity) for part in (upper, *legs)]


def lamp_post(rng: np.random.Generator, base: Vector, towards: Vector) -> Parts:
    """A thin post with a lamp head: belongs to none of the classes."""
    steel = pyramid(paint.plain(rng, paint.sample_color(rng, "cool") * 0.5))
    height = rng.uniform(4, 6)
    post = billboard(ID["void"], steel, base, towards, 0.13, height)
    head = billboard(ID["void"], steel, base + UP * height, towards, 0.7, 0.22)
    return [post, head]
