"""A random generator in, cut-out textures of trees, people and vehicles out (RGBA, alpha > 127 where the thing is)."""

import numpy as np
from jaxtyping import Float32

from semivss.data.toy_textures import Color, Texture, canvas_of, finish, noise, sample_color


def tree(rng: np.random.Generator, trunk: Color, foliage: Color, conifer: bool) -> Texture:
    """Trunk and ragged crown with holes; the foliage is brighter to the top."""
    h, w = 144, 112
    canvas = canvas_of(rng, h, w, trunk, 0.2)
    x, y = np.meshgrid(np.linspace(-1, 1, w, dtype=np.float32), np.linspace(0, 1, h, dtype=np.float32))
    ragged = noise(rng, h, w, 8)
    if conifer:
        crown = np.abs(x) < (y - 0.02) * 1.05 + 0.12 * ragged + 0.08 * np.sin(y * 40)
        crown &= y < 0.86
    else:
        crown = np.zeros((h, w), bool)
        for _ in range(7):
            cx, cy, r = rng.uniform(-0.5, 0.5), rng.uniform(0.22, 0.52), rng.uniform(0.22, 0.42)
            crown |= ((x - cx) / 1.1) ** 2 + ((y - cy) * 1.6) ** 2 < (r * (1 + 0.35 * ragged)) ** 2
    light = (1.15 - 0.5 * y + 0.28 * noise(rng, h, w, 16) + 0.15 * ragged)[..., None]
    canvas[crown, :3] = (foliage * light)[crown]
    stem = np.abs(x) < 0.05 + 0.05 * y
    canvas[..., 3] = np.where(crown | (stem & (y > 0.4)), 255, 0)
    return finish(canvas)


def person(rng: np.random.Generator) -> tuple[Texture, Texture]:
    """Head with torso and arms (0.7 x 1.0 m), and one leg (0.25 x 0.9 m)."""
    body = canvas_of(rng, 64, 45, sample_color(rng, "cloth"), 0.15)
    x, y = np.meshgrid(np.linspace(-0.35, 0.35, 45), np.linspace(0, 1, 64))
    head = (x / 0.11) ** 2 + ((y - 0.14) / 0.14) ** 2 < 1
    torso = (np.abs(x) < 0.15 + 0.09 * (y < 0.85)) & (y > 0.29)
    body[head, :3] = sample_color(rng, "skin")
    body[head & (y < 0.1), :3] *= rng.uniform(0.15, 0.6)
    arms = torso & (np.abs(x) > 0.16)
    body[arms, :3] *= 0.75
    body[..., 3] = np.where(head | torso, 255, 0)
    leg = canvas_of(rng, 56, 16, sample_color(rng, "cloth") * 0.6, 0.15)
    leg[50:, :, :3] *= 0.4
    return finish(body), finish(leg)


def car_side(rng: np.random.Generator, paint: Color) -> Texture:
    """Profile with window band and wheels, 4.2 x 1.5 m; the outline is cut out."""
    h, w = 54, 150
    canvas = canvas_of(rng, h, w, paint, 0.04)
    x, y = np.meshgrid(np.arange(w) / w, np.arange(h) / h)
    cabin = (x > 0.12 + 0.34 * (0.45 - y)) & (x < 0.78 + 0.5 * (y - 0.2)) & (x < 0.9) & (y <= 0.45)
    outline = cabin | ((y > 0.42) & (y < 0.86) & (x > 0.01) & (x < 0.99))
    window = (x > 0.18 + 0.34 * (0.45 - y)) & (x < 0.72 + 0.5 * (y - 0.2)) & (y > 0.09) & (y < 0.42) & (np.abs(x - 0.47) > 0.012)
    canvas[window, :3] = sample_color(rng, "cool") * 0.4
    canvas[..., :3] *= np.where((y > 0.6) & (y < 0.63), 0.8, 1)[..., None]
    return finish(_wheels(canvas, outline, (0.2, 0.8), 0.34 / 1.5, w / h))


def bus_side(rng: np.random.Generator, paint: Color) -> Texture:
    """Windows along the whole side, a stripe and wheels, 9 x 3 m."""
    h, w = 72, 216
    canvas = canvas_of(rng, h, w, paint, 0.04)
    x, y = np.meshgrid(np.arange(w) / w, np.arange(h) / h)
    window = (y > 0.14) & (y < rng.uniform(0.42, 0.55)) & ((x * 7) % 1 > 0.08) & (x > 0.02) & (x < 0.98)
    canvas[window, :3] = sample_color(rng, "cool") * 0.4
    canvas[(y > 0.66) & (y < 0.74), :3] = sample_color(rng, "paint")
    return finish(_wheels(canvas, y < 0.9, (0.18, 0.74), 0.5 / 3, w / h))


def _wheels(
    canvas: Float32[np.ndarray, "h w 4"], outline: np.ndarray, places: tuple[float, float], radius: float, aspect: float
) -> Float32[np.ndarray, "h w 4"]:
    h, w = canvas.shape[:2]
    x, y = np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h)
    alpha = np.where(outline, 255, 0)
    for place in places:
        distance = np.hypot((x - place) * aspect, y - (1 - radius)) / radius
        canvas[distance < 1, :3] = 28
        canvas[distance < 0.45, :3] = 140
        alpha[distance < 1] = 255
    canvas[..., 3] = alpha
    return canvas


def vehicle_end(rng: np.random.Generator, paint: Color, glass: float) -> Texture:
    """Front or back: wind-screen down to the share `glass` of the height, lamps below."""
    h, w = 48, 60
    canvas = canvas_of(rng, h, w, paint, 0.04)
    canvas[round(0.08 * h) : round(glass * h), 5:-5, :3] = sample_color(rng, "cool") * 0.4
    lamp = np.array([250, 235, 200] if rng.random() < 0.5 else [190, 30, 25], np.float32)
    top = round(0.62 * h)
    canvas[top : top + 6, 3:12, :3] = canvas[top : top + 6, -12:-3, :3] = lamp
    canvas[-7:, :, :3] *= 0.35
    return finish(canvas)
