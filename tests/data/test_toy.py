"""The toy world: pure in (seed, clip, frame), exact labels and flow, every class seen early."""

import itertools
import pickle
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from semivss.data.clips import Clip
from semivss.data.labels import IGNORE, vspw124
from semivss.data.toy import ToyClip, toy_dataset, toy_labels
from semivss.data.toy_render import expose, flow_between, plane_coordinates, rasterise, still_visible
from semivss.data.toy_scene import FIRST_PART, ID, NAMES, Camera, Part, Scene, point, pyramid
from semivss.data.toy_world import build_scene
from semivss.errors import DataError
from semivss.settings import Toy

SMALL = (60, 80)


def clips(count: int, **settings) -> tuple[ToyClip, ...]:
    return toy_dataset(Toy(clips=count, **settings)).clips


def forget() -> None:
    """Empty the caches, so that what follows is drawn anew."""
    from semivss.data import toy

    for cached in (build_scene, toy._small_frames, toy._large_frame, toy._raster):
        cached.cache_clear()


def landing(clip: ToyClip, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel's content lies in the next frame, as x and y."""
    height, width = clip.size
    flow = clip.flow(index).astype(np.float64)
    return np.arange(width) + flow[0], np.arange(height)[:, None] + flow[1]


def test_a_clip_is_a_clip():
    data = toy_dataset(Toy(clips=3, labelled_clips=2, frames=4, size=SMALL, first_clip=7))
    assert [clip.name for clip in data.clips] == ["0007_toy0", "0008_toy0", "0009_toy0"]
    assert all(isinstance(clip, Clip) for clip in data.clips)
    assert list(data.clips[0].stems) == ["00000000", "00000001", "00000002", "00000003"]
    frame, labels = data.clips[0].frame(3), data.clips[0].labels(3)
    assert frame.shape == (*SMALL, 3)
    assert labels.shape == SMALL
    assert frame.dtype == labels.dtype == np.uint8
    assert [clip.is_labelled(0) for clip in data.clips] == [True, True, False]
    with pytest.raises(DataError, match="0009_toy0/00000001: this toy clip is unlabelled"):
        data.clips[2].labels(1)
    for beyond in (-1, 4):
        with pytest.raises(IndexError, match=r"0\.\.3"):
            data.clips[0].frame(beyond)


def test_labels_bear_names_and_flags_of_vspw_and_colours_of_their_own():
    labels, vspw = toy_labels(), vspw124()
    assert len(labels) == 12
    assert [vspw.names.index(name) for name in labels.names] == sorted(vspw.names.index(name) for name in labels.names)
    assert dict(zip(labels.names, labels.things, strict=True))["bus"]
    assert not dict(zip(labels.names, labels.things, strict=True))["wall"]
    distance = [np.abs(np.subtract(a, b)).max() for a, b in itertools.combinations(labels.colors, 2)]
    assert min(distance) >= 40


def test_frames_do_not_depend_on_what_was_asked_before():
    clip = clips(1, frames=10, size=SMALL)[0]
    forward = [clip.frame(index) for index in range(10)], [clip.labels(index) for index in range(10)]
    forget()
    for index in (9, 2, 5):
        np.testing.assert_array_equal(clip.frame(index), forward[0][index])
        np.testing.assert_array_equal(clip.labels(index), forward[1][index])
    forget()
    longer = clips(1, frames=30, size=SMALL)[0]
    np.testing.assert_array_equal(longer.frame(9), forward[0][9])
    np.testing.assert_array_equal(np.stack([frame for _, frame in clip.stream()]), np.stack(forward[0]))


def test_what_a_caller_paints_on_a_frame_stays_with_him():
    clip = clips(1, size=SMALL)[0]
    before = clip.frame(0).copy()
    clip.frame(0)[:] = 0
    clip.labels(0)[:] = 0
    np.testing.assert_array_equal(clip.frame(0), before)
    assert len(np.unique(clip.labels(0))) > 2


def test_seed_and_number_make_the_clip():
    first, again, other, seeded = (clips(1, size=SMALL, first_clip=n, seed=s)[0].frame(0) for n, s in ((5, 0), (5, 0), (6, 0), (5, 1)))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 10
    assert np.abs(first.astype(int) - seeded).mean() > 10


def test_noise_differs_from_frame_to_frame_where_nothing_moves(monkeypatch):
    still = plain_scene(card(10, -2, 2))
    grainy = replace(still, light=replace(still.light, read_noise=4.0))
    for scene, equal in ((still, True), (grainy, False)):
        monkeypatch.setattr("semivss.data.toy.build_scene", lambda seed, number, scene=scene: scene)
        forget()
        clip = ToyClip(0, 0, 3, (48, 64))
        assert np.array_equal(clip.frame(0), clip.frame(1)) == equal
        np.testing.assert_array_equal(clip.labels(0), clip.labels(1))
    forget()


@pytest.fixture(scope="module")
def many_labels() -> list[np.ndarray]:
    return [rasterise(build_scene(0, number), 0, (120, 160)).labels for number in range(24)]


def test_every_class_is_in_many_clips_and_all_are_in_the_first_four(many_labels):
    seen = [set(np.unique(labels)) - {IGNORE} for labels in many_labels]
    assert set().union(*seen[:4]) == set(range(12))
    share = Counter(label for labels in seen for label in labels)
    assert max(share) == 11
    assert min(share.values()) >= 6, {NAMES[number]: count for number, count in share.items()}


def test_void_is_rare(many_labels):
    assert 0 < np.mean([(labels == IGNORE).mean() for labels in many_labels]) < 0.03


def bilinear(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values between the pixels, in double precision."""
    height, width = values.shape
    left, top = np.floor(x).astype(int).clip(0, width - 2), np.floor(y).astype(int).clip(0, height - 2)
    right, low, values = x - left, y - top, values.astype(np.float64)
    above = values[top, left] * (1 - right) + values[top, left + 1] * right
    below = values[top + 1, left] * (1 - right) + values[top + 1, left + 1] * right
    return above * (1 - low) + below * low


@pytest.mark.parametrize("number", range(6))
def test_flow_leads_to_the_same_point_of_the_same_surface(number):
    """Plane coordinates over depth are affine in the pixel, so that bilinear sampling of them is exact."""
    size, time = (120, 160), 2
    scene = build_scene(0, number)
    here, there = rasterise(scene, time, size), rasterise(scene, time + 1, size)
    flow = flow_between(scene, here, time + 1)
    visible = still_visible(here, flow, there)
    box = (0, size[0], 0, size[1])
    x, y = np.arange(size[1]) + flow[0], np.arange(size[0])[:, None] + flow[1]
    checked = 0
    for surface in np.unique(here.surfaces):
        mine = visible & (here.surfaces == surface)
        a, b, near = plane_coordinates(here.inverses[surface], box)
        later = [bilinear(part, x, y)[mine] for part in plane_coordinates(there.inverses[surface], box)]
        error = np.hypot(later[0] / later[2] - a[mine] / near[mine], later[1] / later[2] - b[mine] / near[mine])
        pixel = np.hypot(*np.gradient(a / near)) + np.hypot(*np.gradient(b / near))  # plane coordinates in one pixel
        assert (error <= 1e-3 * pixel[mine] + 1e-6).all()
        checked += int(mine.sum())
    assert checked > 0.6 * size[0] * size[1]


def test_labels_follow_the_flow():
    agreement, inner = [], []
    for clip in clips(5, frames=4, size=(240, 320)):
        x, y = (np.rint(place).astype(int) for place in landing(clip, 2))
        seen = clip.visible(2)
        x, y, here, later = x.clip(0, 319), y.clip(0, 239), clip.labels(2), clip.labels(3)
        equal = (later[y, x] == here)[seen]
        flat = (cv2.erode(later, np.ones((3, 3))) == cv2.dilate(later, np.ones((3, 3))))[y, x][seen]
        agreement.append(equal.mean())
        inner.append(equal[flat].mean())
    assert np.mean(agreement) >= 0.995
    assert min(inner) >= 0.999, "away from edges; strips thinner than a pixel are left"


def test_warping_the_next_frame_back_explains_the_motion():
    still, warped = [], []
    for number in range(4):
        scene, size = build_scene(0, number), (120, 160)
        here, there = rasterise(scene, 1, size), rasterise(scene, 2, size)
        flow = flow_between(scene, here, 2)
        seen = still_visible(here, flow, there)
        x, y = np.arange(160, dtype=np.float32) + flow[0], np.arange(120, dtype=np.float32)[:, None] + flow[1]
        first, second = here.albedo[..., :3].astype(np.float32), there.albedo[..., :3].astype(np.float32)
        still.append(np.abs(second - first)[seen].mean())
        warped.append(np.abs(cv2.remap(second, x, y, cv2.INTER_LINEAR) - first)[seen].mean())
    assert np.mean(warped) < 0.5 * np.mean(still)


def plain_scene(*parts: Part, camera_speed: float = 0.0, sun: float = 0.0, shutter: float = 0.0) -> Scene:
    """A camera 2 m up that looks along +x and travels along z, and the given parts; no haze."""
    scene = build_scene(0, 0)
    to_sun = np.array([-0.3, 0.6, 0.74])  # behind the camera and to its left: shadows fall to the right of what stands
    to_sun /= np.linalg.norm(to_sun)
    still = {"density": 0.0, "shutter": shutter, "read_noise": 0.0, "shot_noise": 0.0, "softness": 0.4, "gamma": 1.0}
    light = replace(scene.light, sun=np.full(3, sun), to_sun=to_sun, **still)
    return replace(scene, camera=Camera(point(0, 0, 2.0), np.pi / 2, 0.0, focal=1.0, speed=camera_speed), parts=parts, light=light)


def card(depth: float, near: float, far: float, label: str = "wall", speed: float = 0.0, height: float = 4.0) -> Part:
    """An upright card across the view from z = near to far, `depth` metres before the camera of `plain_scene`."""
    texture = np.random.default_rng(0).integers(0, 255, (64, 64, 4), np.uint8)
    texture[..., 3] = 255
    # The camera looks along +x, so its right is -z.
    return Part(
        ID[label], pyramid(texture), point(depth, far, height), point(0, near - far), point(0, 0, -height), velocity=point(0, speed)
    )


def test_a_camera_that_travels_two_pixels_shifts_the_card_by_two_pixels():
    size = (48, 64)
    speed = 2 * 10 / 64  # metres: the card is 10 m off and the focal length 64 pixels
    scene = plain_scene(card(10, -3, 3), camera_speed=speed)
    here, there = rasterise(scene, 0, size), rasterise(scene, 1, size)
    on = here.surfaces == FIRST_PART
    flow = flow_between(scene, here, 1)
    assert on.sum() > 300
    np.testing.assert_allclose(flow[0][on], 2, atol=1e-4)  # it moves along +z, which is to the left: what it sees goes right
    np.testing.assert_allclose(flow[1][on], 0, atol=1e-6)
    np.testing.assert_allclose(there.albedo[:, 2:][on[:, :-2]].astype(int), here.albedo[:, :-2][on[:, :-2]], atol=3)
    ground = flow[0][here.surfaces == 1]
    assert ground.max() > 2.5 > 0.5 > ground.min(), "parallax: near ground moves faster than the card, far ground slower"


def test_a_moving_card_hides_what_is_behind_it():
    size = (48, 64)
    scene = plain_scene(card(20, -20, 20, "building"), card(10, -2, 2, "bus", speed=-10 / 64 * 4))
    here, there = rasterise(scene, 0, size), rasterise(scene, 1, size)
    flow = flow_between(scene, here, 1)
    visible = still_visible(here, flow, there)
    back, front = here.labels == ID["building"], here.labels == ID["bus"]
    np.testing.assert_allclose(flow[0][front], 4, atol=1e-4)
    np.testing.assert_allclose(flow[:, back], 0, atol=1e-6)
    np.testing.assert_array_equal(visible[back], there.labels[back] == ID["building"])
    assert (~visible[back]).sum() == 4 * np.flatnonzero(back.any(1)).size, "a stripe as wide as the motion"


def test_the_nearer_card_hides_the_farther_in_whatever_order_they_are_given():
    near, far = card(8, -2, 2, "car"), card(12, -9, 9, "house")
    first, second = (rasterise(plain_scene(*order), 0, (48, 64)).labels for order in ((near, far), (far, near)))
    np.testing.assert_array_equal(first, second)
    assert first[24, 32] == ID["car"]


def test_twice_as_far_is_half_as_wide():
    widths = [int((rasterise(plain_scene(card(depth, -2, 2)), 0, (96, 128)).labels == ID["wall"]).any(0).sum()) for depth in (8, 16)]
    assert abs(widths[0] - 64) <= 1
    assert abs(widths[1] - 32) <= 1


def test_parts_cast_shadows_on_the_ground_only():
    bare, shaded = (rasterise(plain_scene(replace(card(10, -2, 2), casts=casts), sun=0.8), 0, (96, 128)) for casts in (False, True))
    ground = bare.surfaces == 1
    loss = bare.albedo[..., :3].astype(int).sum(-1) - shaded.albedo[..., :3].astype(int).sum(-1)
    assert (loss[~ground] == 0).all()
    assert (loss >= 0).all()
    assert (loss[ground] > 20).sum() > 50


def test_labels_are_those_of_the_middle_of_the_exposure():
    """A white card that moves over black is smeared to both sides of its labelled outline alike."""
    size, speed = (48, 64), 10 / 64 * 6
    white, black = np.full((8, 8, 4), 255, np.uint8), np.array([[[0, 0, 0, 255]]], np.uint8)
    moving, behind = card(10, -3, 3, speed=speed), card(20, -60, 60)
    scene = plain_scene(replace(moving, texture=(white,)), replace(behind, texture=(black,)), shutter=0.6)
    raster = rasterise(scene, 0, size)
    frame = expose(scene, raster, 0, np.random.default_rng(0)).astype(float).mean(-1)
    row = frame[20] / frame[20].max()
    outline = np.flatnonzero(raster.surfaces[20] == FIRST_PART)
    centre = (row[8:56] * np.arange(8, 56)).sum() / row[8:56].sum()
    assert centre == pytest.approx(outline.mean(), abs=0.3)
    assert ((row > 0.1) & (row < 0.9)).sum() >= 2


def test_clips_travel_to_worker_processes():
    clip = clips(1, size=SMALL)[0]
    again = pickle.loads(pickle.dumps(clip))  # noqa: S301 (made one line above)
    assert again == clip
    np.testing.assert_array_equal(again.frame(1), clip.frame(1))


def test_a_long_clip_stays_in_the_street():
    camera = Camera(point(0, 0, 2), 0.0, 0.0, focal=1.0, speed=0.5, pan=0.02, zoom=0.01)
    for time in (0, 7, 1000, 20_001):
        rotation, centre, focal = camera.pose(time)
        assert abs(centre[2]) <= 30
        assert rotation[2, 2] > 0.9, "it looks along the street"
        assert 0.7 < focal < 1.5
    np.testing.assert_allclose(camera.pose(4)[1][2] - camera.pose(3)[1][2], 0.5, rtol=0.01)
