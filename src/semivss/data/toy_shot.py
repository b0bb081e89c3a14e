"""A random generator in, the way a clip is filmed out: camera and its motion, sun, sky, air, exposure and noise."""

import numpy as np

from semivss.data import toy_textures as paint
from semivss.data.toy_ground import Ground
from semivss.data.toy_scene import Camera, Light, point


def film(rng: np.random.Generator, ground: Ground, yards: dict[int, tuple[float, float]]) -> Camera:
    """Driving along the road, walking along a side, travelling sideways across the street, or standing, panning and zooming."""
    side = int(rng.choice([-1, 1]))
    kind = rng.choice(["drive", "walk", "across", "pan"], p=[0.3, 0.25, 0.25, 0.2])
    inner, outer = yards[side]
    pan = zoom = 0.0
    if kind == "drive":
        x, heading, speed = ground.road_half / 2, rng.normal(0, 0.07), rng.uniform(0.2, 0.7)
    elif kind == "walk":
        x, heading, speed = side * (inner - rng.uniform(0, 1)), -side * rng.uniform(-0.05, 0.6), rng.uniform(0.05, 0.14)
    elif kind == "across":
        x, heading, speed = side * rng.uniform(inner, outer), -side * rng.uniform(1.0, 2.0), rng.uniform(-0.3, 0.3)
    else:
        x, heading, speed = side * rng.uniform(inner - 1, outer - 1), -side * rng.uniform(0.3, 1.3), rng.uniform(-0.03, 0.03)
        pan, zoom = rng.uniform(-0.02, 0.02), rng.uniform(-0.015, 0.015)
    return Camera(
        position=point(x, 0, rng.uniform(1.3, 2.6)),
        heading=float(heading),
        pitch=rng.uniform(-0.16, 0.02),
        focal=rng.uniform(0.65, 1.1),
        speed=float(speed),
        pan=pan,
        zoom=zoom,
        shake=rng.uniform(0.001, 0.012),
        phases=rng.uniform(0, 2 * np.pi, 4),
    )


def light_up(rng: np.random.Generator) -> tuple[Light, paint.Texture]:
    """Noon, low sun, overcast or dusk, with the sky that belongs to it."""
    hour = rng.choice(["noon", "low", "overcast", "dusk"], p=[0.45, 0.25, 0.22, 0.08])
    elevation = np.deg2rad(rng.uniform(25, 38) if hour == "low" else rng.uniform(38, 70))
    azimuth = rng.uniform(0, 2 * np.pi)
    to_sun = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    sun, ambient, zenith, horizon = {
        "noon": ((0.85, 0.83, 0.78), (0.42, 0.44, 0.5), (70, 120, 205), (175, 205, 235)),
        "low": ((1.05, 0.8, 0.5), (0.36, 0.36, 0.44), (95, 125, 185), (240, 200, 150)),
        "overcast": ((0.0, 0.0, 0.0), (0.78, 0.8, 0.84), (165, 170, 180), (215, 218, 222)),
        "dusk": ((0.0, 0.0, 0.0), (0.55, 0.54, 0.64), (45, 55, 95), (190, 130, 110)),
    }[str(hour)]
    tint = rng.uniform(0.92, 1.08, (2, 3))
    top, low = np.array(zenith) * tint[0], np.array(horizon) * tint[1]
    cloud = np.array([250, 250, 250]) * (0.9 if hour == "noon" else 0.8 if hour == "low" else 0.62 if hour == "overcast" else 0.4)
    cover = rng.uniform(0.1, 0.7) if hour != "overcast" else rng.uniform(0.5, 1)
    light = Light(
        to_sun=to_sun,
        sun=np.array(sun) * rng.uniform(0.8, 1.1),
        ambient=np.array(ambient) * rng.uniform(0.85, 1.15),
        haze=low,
        density=float(np.exp(rng.uniform(np.log(0.0008), np.log(0.006)))),
        gain=rng.uniform(0.85, 1.25) * rng.uniform(0.95, 1.05, 3),
        gamma=rng.uniform(0.88, 1.12),
        shutter=rng.uniform(0.1, 0.7),
        softness=rng.uniform(0.4, 1.0),
        read_noise=rng.uniform(0.5, 4),
        shot_noise=rng.uniform(0.5, 5),
    )
    return light, paint.sky(rng, top.astype(np.float32), low.astype(np.float32), cloud.astype(np.float32), cover)
