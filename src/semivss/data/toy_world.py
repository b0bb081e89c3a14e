"""Seed and clip number in, a street scene out: cross-section, constructions, trees, traffic, light and camera, all drawn at random."""

import functools
from dataclasses import replace

import numpy as np

from semivss.data import toy_figures as figures
from semivss.data import toy_textures as paint
from semivss.data.toy_ground import GRASS, MATERIALS, PATH, ROAD, SOIL, Ground
from semivss.data.toy_objects import Parts, billboard, box, house, house_skins, lamp_post, person, vehicle
from semivss.data.toy_scene import ID, STILL, Camera, Number, Scene, Vector, point, pyramid
from semivss.data.toy_shot import film, light_up

_CHANCE = {
    "building": 0.55,
    "house": 0.6,
    "wall": 0.6,
    "tree": 0.75,
    "car": 0.65,
    "bus": 0.45,
    "person": 0.65,
    "path": 0.75,
    "grass": 0.75,
    "ground": 0.6,
}
# Every four clips in a row hold every class at least twice, so that a handful of labelled clips names them all.
_ALWAYS = (
    {"building", "tree", "car", "path", "grass"},
    {"house", "wall", "bus", "ground", "person"},
    {"building", "wall", "person", "car", "grass"},
    {"house", "tree", "bus", "path", "ground"},
)


@functools.lru_cache(maxsize=4)  # about 10 MB a scene
def build_scene(seed: int, number: int) -> Scene:
    """Clip `number` of the world `seed`: the same on every call and machine."""
    rng = np.random.default_rng((seed, number, 0))
    present = {name for name, chance in _CHANCE.items() if rng.random() < chance} | _ALWAYS[number % len(_ALWAYS)]
    if not present & {"building", "house", "wall", "tree"}:
        present.add("tree")
    ground, yards = _ground(rng, present)
    camera = film(rng, ground, yards)
    light, sky = light_up(rng)
    parts = _far(rng, camera, present)
    for side in (-1, 1):
        parts += _street_side(rng, side, yards[side], present)
        parts += _garden_wall(rng, side, yards[side], camera) if "wall" in present else []
    taken = [(float(camera.position[0]), float(camera.position[2]))]
    parts += _traffic(rng, ground, camera, present, taken)
    parts += _greenery_and_people(rng, ground, yards, camera, present, taken)
    return Scene(camera, tuple(parts), ground, (sky,), light)


def _ground(rng: np.random.Generator, present: set[str]) -> tuple[Ground, dict[int, tuple[float, float]]]:
    """The ground, and for each side (-1 left, 1 right) where the yard begins and where the constructions stand."""
    road_half = rng.uniform(2.6, 5.0)
    soft = [material for material in (GRASS, SOIL) if MATERIALS[material] in present] or [SOIL]
    edges, materials, yards = [-road_half, road_half], [ROAD], {}
    for side in (-1, 1):
        verge, walk = rng.choice([0.0, rng.uniform(0.8, 3)]), rng.uniform(1.3, 3.2)
        yard = int(rng.choice(soft))
        strips = [(road_half + verge, int(rng.choice(soft)))] if verge else []
        if "path" in present and (side == 1 or rng.random() < 0.7):
            strips.append((road_half + verge + walk, PATH))
        for edge, material in strips:
            edges.append(side * edge)
            materials = [*materials, material] if side > 0 else [material, *materials]
        materials = [*materials, yard] if side > 0 else [yard, *materials]
        yards[side] = (road_half + verge + walk, road_half + verge + walk + rng.uniform(1.5, 6.5))
    cross = (rng.uniform(0, 20), rng.uniform(10, 24), rng.uniform(0.5, 1.1) if "path" in present and rng.random() < 0.6 else 0.0)
    fine, coarse = paint.ground_tiles(rng)
    colors = np.stack([paint.sample_color(rng, name) for name in MATERIALS])
    shifts = rng.uniform(0.75, 1.2, (4, 1)) * rng.uniform(0.9, 1.1, (4, 3))
    ground = Ground(
        edges=tuple(sorted(edges)),
        materials=tuple(materials),
        road_half=road_half,
        patch=rng.uniform(150, 200) if len(soft) == 2 else 256.0,
        cross=cross,
        bend=(rng.uniform(0, 0.7), rng.uniform(8, 20)),
        colors=colors,
        other=(colors * shifts).astype(np.float32),
        fine=fine,
        coarse=coarse,
        marking=np.array([235, 235, 225] if rng.random() < 0.8 else [225, 180, 60], np.float32),
        dash=rng.uniform(1.5, 3.5) if rng.random() < 0.65 else 0.0,
        edge_line=bool(rng.random() < 0.4),
    )
    return ground, yards


def _far(rng: np.random.Generator, camera: Camera, present: set[str]) -> Parts:
    """A ring of tree lines or skylines that hides the horizon."""
    skyline = "building" in present and ("tree" not in present or rng.random() < 0.4)
    texture = pyramid(paint.backdrop(rng, "building" if skyline else "tree"))
    label, height = ID["building" if skyline else "tree"], rng.uniform(8, 26)
    angles = camera.heading + np.arange(8) * np.pi / 4
    middle = point(0, 0)
    return [billboard(label, texture, point(200 * np.sin(a), 200 * np.cos(a), -0.5), middle, 168.0, height) for a in angles]


def _street_side(rng: np.random.Generator, side: int, yard: tuple[float, float], present: set[str]) -> Parts:
    """Buildings and houses along one side of the street, each on its lot."""
    kinds = [kind for kind in ("building", "house", "house") if kind in present]
    if not kinds:
        return []
    order = rng.permutation(kinds + ["gap"] * int(rng.integers(0, 2)))
    parts: Parts = []
    styles: dict[str, tuple[Parts, float]] = {}
    start = rng.uniform(-45, -35)
    for lot in range(14):
        kind = str(order[lot % len(order)])
        key = f"{kind}{int(rng.integers(2))}"
        if key not in styles:
            styles[key] = _construction(rng, kind, side * yard[1], side)
        group, width = styles[key]
        shift = point(0, start + width / 2)
        parts += [replace(part, origin=part.origin + shift) for part in group]
        start += width + rng.uniform(0, 4)
    return parts


def _construction(rng: np.random.Generator, kind: str, x: float, side: int) -> tuple[Parts, float]:
    """One construction at z = 0 whose front stands at `x`, and the length of street that it takes."""
    width, heading = rng.uniform(7, 14), side * np.pi / 2
    if kind == "building":
        deep, height = rng.uniform(6, 10), rng.uniform(6, 16)
        face = pyramid(paint.facade(rng, "building", width, height))
        end = pyramid(np.ascontiguousarray(face[0][:, : round(deep * paint.DENSITY)]))
        return box(ID["building"], point(x + side * deep / 2, 0), heading, (deep, width, height), face, end, None), width
    if kind == "house":
        size, rise = (rng.uniform(5, 7), width * 0.8, rng.uniform(2.6, 5.0)), rng.uniform(1.2, 3)
        return house(point(x + side * size[0] / 2, 0), heading, size, house_skins(rng, size, rise), rise), width * 0.8 + 1
    return [], width * 0.6


def _garden_wall(rng: np.random.Generator, side: int, yard: tuple[float, float], camera: Camera) -> Parts:
    """A wall with gates between the street and the constructions; none where it would shut the camera in."""
    x = rng.uniform(yard[0] + 0.2, yard[1] - 0.8)
    own_side = float(camera.position[0]) * side
    if own_side > x - 1 or (own_side > 0 and rng.random() < 0.4):
        return []
    width, height = rng.uniform(6, 11), rng.uniform(1.3, 2.8)
    face = pyramid(paint.facade(rng, "wall", width, height))
    top = pyramid(paint.plain(rng, paint.sample_color(rng, "wall")))
    piece = box(ID["wall"], point(side * x, 0), side * np.pi / 2, (0.3, width, height), face, top, top)
    parts: Parts = []
    for start in np.arange(-40, 80, width):
        if rng.random() < 0.8:
            parts += [replace(part, origin=part.origin + point(0, float(start))) for part in piece]
    return parts


def _spot(
    rng: np.random.Generator,
    camera: Camera,
    xs: tuple[float, float],
    near: Number,
    far: Number,
    taken: list[tuple[float, float]],
    room: Number,
) -> Vector | None:
    """A free place with x in `xs` that the camera sees at the start; None if 60 throws find none."""
    rotation, centre, focal = camera.pose(2.0)
    for _ in range(60):
        depth, aside = near + (far - near) * rng.random() ** 1.5, rng.uniform(-0.45, 0.45) / focal
        place = centre + depth * (rotation[2] + aside * rotation[0])
        x, z = float(place[0]), float(place[2])
        if xs[0] <= x <= xs[1] and all(np.hypot(x - other, z - along) > room for other, along in taken):
            taken.append((x, z))
            return point(x, z)
    return None


def _traffic(rng: np.random.Generator, ground: Ground, camera: Camera, present: set[str], taken: list[tuple[float, float]]) -> Parts:
    parts: Parts = []
    for kind in ("bus", "car"):
        for _ in range(int(rng.integers(1, 3 if kind == "bus" else 5)) if kind in present else 0):
            lane = int(rng.choice([-1, 1]))
            middle = lane * ground.road_half / 2
            spot = _spot(rng, camera, (middle - 1.2, middle + 1.2), 12 if kind == "bus" else 7, 32, taken, 7 if kind == "bus" else 4.5)
            if spot is None:
                continue
            spot[0] = middle + rng.uniform(-0.3, 0.3)
            speed = 0.0 if rng.random() < 0.35 else rng.uniform(0.15, 0.6)
            if lane > 0 and abs(camera.position[0]) < ground.road_half:
                speed = max(speed, camera.speed)  # nobody is run over
            parts += vehicle(rng, kind, spot, 0.0 if lane > 0 else np.pi, lane * speed * point(0, 1))
    return parts


def _greenery_and_people(
    rng: np.random.Generator,
    ground: Ground,
    yards: dict[int, tuple[float, float]],
    camera: Camera,
    present: set[str],
    taken: list[tuple[float, float]],
) -> Parts:
    parts: Parts = []
    trunk, leaf, conifer = paint.sample_color(rng, "roof"), paint.sample_color(rng, "foliage"), bool(rng.random() < 0.3)
    skins = [pyramid(figures.tree(rng, trunk, leaf * rng.uniform(0.8, 1.2), conifer)) for _ in range(3)]
    eye = camera.pose(2.0)[1]
    for side in (-1, 1):
        inner, outer = yards[side]
        strip = (min(side * ground.road_half, side * (outer + 4)), max(side * ground.road_half, side * (outer + 4)))
        for _ in range(int(rng.integers(2, 7)) if "tree" in present else 0):
            spot = _spot(rng, camera, strip, 7, 45, taken, 2.5)
            if spot is not None:
                height = rng.uniform(3, 8)
                parts.append(billboard(ID["tree"], skins[int(rng.integers(3))], spot, eye, height * rng.uniform(0.65, 0.9), height))
        for _ in range(int(rng.integers(2, 5)) if "person" in present else 0):
            spot = _spot(rng, camera, strip, 3.5, 16, taken, 1.2)
            if spot is not None:
                velocity = STILL if rng.random() < 0.25 else point(0, float(rng.choice([-1, 1])) * rng.uniform(0.05, 0.12))
                parts += person(rng, spot, eye, velocity)
        for _ in range(int(rng.integers(0, 3))):
            spot = _spot(
                rng, camera, (min(side * ground.road_half, side * inner), max(side * ground.road_half, side * inner)), 5, 30, taken, 2
            )
            if spot is not None:
                parts += lamp_post(rng, spot, eye)
    return parts
