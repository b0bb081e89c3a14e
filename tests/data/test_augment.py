"""Random crops: exact where nothing is to be changed, aligned with their masks, the same for all frames of a clip."""

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from semivss.data.augment import Geometry, Patch, augment_clip, largest_share, resampled, warp_frame, warp_labels, warped
from semivss.settings import Augment

PLAIN = Augment(crop=(48, 64), scale=(1.0, 1.0), flip=0.0, photometric=False, max_class_share=1.0)


def picture(height=48, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blocks(height=48, width=64, classes=6, seed=0, cell=8):
    """A label map of square blocks, ids 0..classes-1 and some 255."""
    ids = np.random.default_rng(seed).integers(0, classes + 1, (height // cell + 1, width // cell + 1)).astype(np.uint8)
    ids[ids == classes] = 255
    return np.kron(ids, np.ones((cell, cell), np.uint8))[:height, :width]


def one(frame, labels, recipe, seed=0):
    frames, masks = augment_clip([frame], [labels], recipe, np.random.default_rng(seed))
    return frames[0], masks[0]


def test_a_draw_that_changes_nothing_returns_the_same_bytes():
    frame, labels = one(picture(), blocks(), PLAIN)
    np.testing.assert_array_equal(frame, picture())
    np.testing.assert_array_equal(labels, blocks())


def test_a_flip_is_exact_and_twice_is_the_original():
    recipe = PLAIN.model_copy(update={"flip": 1.0})
    once = one(picture(), blocks(), recipe)
    np.testing.assert_array_equal(once[0], picture()[:, ::-1])
    twice = one(*once, recipe)
    np.testing.assert_array_equal(twice[0], picture())
    np.testing.assert_array_equal(twice[1], blocks())


@pytest.mark.parametrize("flip", [False, True])
def test_one_warp_equals_resize_then_crop_then_flip(flip):
    frame = cv2.GaussianBlur(picture(60, 80), (0, 0), 2)
    geometry = Geometry((60, 80), (120, 160), (17, 31), (48, 64), flip)
    resized = cv2.resize(frame, (160, 120), interpolation=cv2.INTER_LINEAR)[17 : 17 + 48, 31 : 31 + 64]
    expected = resized[:, ::-1] if flip else resized
    assert np.abs(warp_frame(frame, geometry).astype(int) - expected).max() <= 1  # OpenCV rounds positions to 1/32 pixel
    labels = blocks(60, 80)
    nearest = labels.repeat(2, 0).repeat(2, 1)[17 : 17 + 48, 31 : 31 + 64]
    np.testing.assert_array_equal(warp_labels(labels, geometry), nearest[:, ::-1] if flip else nearest)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("width", [64, 100, 333])  # of the crop: whole vectors of OpenCV's, and some more
def test_leaving_out_what_the_frame_does_not_cover_changes_no_pixel(width, flip):
    frame = picture(60, 80)
    for resized in ((31, 41), (47, 93), (60, 80), (90, 200)):
        geometry = Geometry((60, 80), resized, (0, 0), (70, width), flip)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        whole = cv2.warpAffine(frame, geometry.inverse(), (width, 70), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        np.testing.assert_array_equal(warped(frame, geometry, cv2.INTER_LINEAR), whole[geometry.inside()])


def exact(frame, geometry):
    """The bilinear values of the crop's covered pixels in float64."""
    matrix = geometry.inverse()
    rows, columns = (
        np.clip(matrix[axis, axis] * np.arange(length)[inside] + matrix[axis, 2], 0, limit - 1)
        for axis, length, inside, limit in zip((1, 0), geometry.crop, geometry.inside(), frame.shape[:2], strict=True)
    )
    for axis, places in ((0, rows), (1, columns)):
        before = places.astype(int)
        after = np.minimum(before + 1, frame.shape[axis] - 1)
        share = np.expand_dims(places - before, (1, 2) if axis == 0 else (0, 2))
        frame = np.take(frame, before, axis) * (1 - share) + np.take(frame, after, axis) * share
    return frame


@settings(max_examples=60, deadline=None)
@given(
    source=st.tuples(st.integers(20, 300), st.integers(20, 300)),
    scale=st.floats(0.4, 2.2),
    crop=st.tuples(st.integers(16, 200), st.integers(16, 200)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    flip=st.booleans(),
)
@example(source=(20, 35), scale=0.984375, crop=(16, 16), corner=(0.0, 0.0), flip=False)  # a patch of 17x17 stays one of 17x17
def test_both_ways_to_a_crop_agree_within_a_grey_level_with_exact_numbers_within_a_rounding(source, scale, crop, corner, flip):
    resized = tuple(round(length * scale) for length in source)
    corner = tuple(int(share * max(r - c, 0)) for share, r, c in zip(corner, resized, crop, strict=True))
    geometry = Geometry(source, resized, corner, crop, flip)
    frame = picture(*source)  # of noise: nothing is harder
    patch = resampled(frame, geometry, Patch.of(geometry))
    assert np.abs(patch.astype(int) - warped(frame, geometry, cv2.INTER_LINEAR)).max() <= 1
    assert np.abs(patch - exact(frame, geometry)).max() < 1.25  # rounding, half a level for the place, OpenCV's weights of 11 bits


def test_the_cheaper_way_is_taken():
    small_far_inside = Geometry((1080, 1920), (1083, 1925), (500, 900), (64, 64), False)
    assert Patch.of(small_far_inside).pixels > 9 * 64 * 64
    whole = Geometry((60, 80), (120, 160), (0, 0), (120, 160), False)
    assert Patch.of(whole).pixels == 120 * 160
    frame = picture(1080, 1920)
    np.testing.assert_array_equal(warp_frame(frame, small_far_inside), warped(frame, small_far_inside, cv2.INTER_LINEAR))
    frame = picture(60, 80)
    np.testing.assert_array_equal(warp_frame(frame, whole), resampled(frame, whole, Patch.of(whole)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(20, 90), width=st.integers(20, 90), share=st.sampled_from([0.3, 0.75, 1.0]))
def test_mask_ids_come_from_the_source_and_padding_is_marked_in_both(seed, height, width, share):
    labels = blocks(height, width, seed=seed % 7)
    white = np.full((height, width, 3), 255, np.uint8)
    recipe = Augment(crop=(40, 56), scale=(0.4, 2.0), photometric=False, max_class_share=share)
    frame, mask = one(white, labels, recipe, seed)
    assert set(np.unique(mask)) <= set(np.unique(labels)) | {255}
    outside = (frame == 0).all(-1)
    assert set(np.unique(frame)) <= {0, 255}  # no grey rim where frame and padding meet
    assert (mask[outside] == 255).all()
    if (labels != 255).all():
        assert (mask[~outside] != 255).all()


def test_frame_and_mask_stay_aligned():
    """Labels painted as grey levels: away from block borders the warped picture must show the warped label."""
    labels = blocks(120, 160, cell=20)
    painted = np.repeat(labels[..., None], 3, -1) * np.uint8(40)
    recipe = Augment(crop=(90, 120), scale=(0.5, 2.0), photometric=False)
    for seed in range(30):
        frame, mask = one(painted, labels, recipe, seed)
        inside = (cv2.dilate(mask, np.ones((5, 5))) == cv2.erode(mask, np.ones((5, 5)))) & (mask != 255)
        inside[[0, 1, -1, -2]] = inside[:, [0, 1, -1, -2]] = False  # a neighbour outside the crop may shine in
        assert inside.mean() > 0.1
        assert np.abs(frame[..., 0][inside].astype(int) - mask[inside].astype(int) * 40).max() <= 1


def test_one_draw_serves_all_frames_of_a_clip():
    recipe = Augment(crop=(40, 40))
    for seed in range(10):
        frames, masks = augment_clip([picture()] * 3, [blocks()] * 3, recipe, np.random.default_rng(seed))
        assert frames.shape == (3, 40, 40, 3)
        for frame, mask in zip(frames[1:], masks[1:], strict=True):
            np.testing.assert_array_equal(frame, frames[0])
            np.testing.assert_array_equal(mask, masks[0])


def test_a_crop_with_too_much_of_one_class_is_drawn_again():
    labels = np.zeros((100, 400), np.uint8)
    labels[:, 300:] = 1  # most crops hold only class 0
    frame = np.zeros((100, 400, 3), np.uint8)
    limited = Augment(crop=(100, 100), scale=(1.0, 1.0), photometric=False, max_class_share=0.75)
    free = limited.model_copy(update={"max_class_share": 1.0})
    shares = [[largest_share(one(frame, labels, recipe, seed)[1][None]) for seed in range(60)] for recipe in (limited, free)]
    good = [np.mean([share <= 0.75 for share in row]) for row in shares]
    # The crop must start in columns 225..275 of 301 possible ones: 1 - (1 - 51/301) ** 10 = 0.84 of the limited draws find one.
    assert good[1] < 0.35
    assert good[0] > 0.6


def test_ignored_pixels_do_not_count_as_a_class():
    labels = np.full((10, 10), 255, np.uint8)
    assert largest_share(labels[None]) == 0
    labels[0, :4] = [0, 0, 1, 2]
    assert largest_share(labels[None]) == 0.5


def test_a_crop_that_misses_all_labels_is_drawn_again_unless_there_are_none():
    labels = np.full((64, 64), 255, np.uint8)
    nothing = [one(picture(64, 64), labels, recipe(), seed)[0] for seed in range(30)]
    labels[:, 24:28], labels[:, 28:32] = 0, 1
    found = [one(picture(64, 64), labels, recipe(), seed)[1] for seed in range(30)]
    assert sum((crop != 255).any() for crop in found) >= 28
    first = [one(picture(64, 64), labels, recipe(max_class_share=1.0), seed) for seed in range(30)]
    assert sum((crop != 255).any() for _, crop in first) < 28  # most crops of one draw miss them
    for crop, (same, _) in zip(nothing, first, strict=True):  # without any label the first draw stays
        np.testing.assert_array_equal(crop, same)


def recipe(**changes) -> Augment:
    return PLAIN.model_copy(update={"crop": (16, 16), "max_class_share": 0.9} | changes)


def test_base_sets_the_size_at_scale_one():
    recipe = PLAIN.model_copy(update={"crop": (24, 32), "base": (24, 32)})
    frame, labels = one(np.full((48, 64, 3), 7, np.uint8), blocks(48, 64, cell=8), recipe)
    assert (frame == 7).all()
    np.testing.assert_array_equal(labels, blocks(48, 64, cell=8)[::2, ::2])


def test_the_shorter_side_sets_the_size_at_scale_one_and_keeps_the_aspect():
    for size, crop in (((48, 64), (24, 32)), ((64, 48), (32, 24))):
        recipe = PLAIN.model_copy(update={"crop": crop, "short_side": 24})
        frame, labels = one(np.full((*size, 3), 7, np.uint8), blocks(*size, cell=8), recipe)
        assert (frame == 7).all()
        np.testing.assert_array_equal(labels, blocks(*size, cell=8)[::2, ::2])


def test_light_changes_the_frame_only_and_a_neutral_change_is_nothing():
    strong = PLAIN.model_copy(update={"photometric": True})
    changed = [one(picture(), blocks(), strong, seed) for seed in range(12)]
    assert len({frame.tobytes() for frame, _ in changed}) > 8
    assert all((mask == blocks()).all() for _, mask in changed)
    neutral = strong.model_copy(update={"brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0.0})
    for seed in range(6):  # only the 8-bit round trip through HSV is left
        frame, _ = one(np.full((48, 64, 3), (200, 90, 40), np.uint8), blocks(), neutral, seed)
        assert np.abs(frame.astype(int) - (200, 90, 40)).max() <= 2


def test_hue_turns_the_colour_circle_by_degrees():
    recipe = PLAIN.model_copy(
        update={"photometric": True, "brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 18.0}
    )
    red = np.full((48, 64, 3), (255, 0, 0), np.uint8)
    hues = []
    for seed in range(40):
        frame, _ = one(red, blocks(), recipe, seed)
        hues.append(float(cv2.cvtColor(frame[:1, :1].astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[0, 0, 0]))
    signed = np.array([(hue + 180) % 360 - 180 for hue in hues])
    assert np.abs(signed).max() <= 19.5
    assert np.abs(signed).max() > 10
    assert (signed == 0).mean() > 0.2  # half of the draws leave it alone


def test_frames_of_a_clip_are_those_of_single_warps_and_lie_channel_by_channel():
    recipe = PLAIN.model_copy(update={"crop": (70, 100), "photometric": True, "hue": 180.0})
    for seed in range(12):
        frames, _ = augment_clip([picture(), picture(seed=1)], [blocks()] * 2, recipe, np.random.default_rng(seed))
        assert np.moveaxis(frames, -1, -3).flags.c_contiguous
        for number, frame in enumerate(frames):  # a clip of one frame under the same draw
            np.testing.assert_array_equal(one(picture(seed=number), blocks(), recipe, seed)[0], frame)
        assert not frames[:, 48:].any()
        assert not frames[:, :, 64:].any()


def test_same_generator_state_same_clip():
    a, b = (one(picture(), blocks(), Augment(crop=(32, 32)), 5) for _ in range(2))
    np.testing.assert_array_equal(a[0], b[0])
    assert not np.array_equal(a[0], one(picture(), blocks(), Augment(crop=(32, 32)), 6)[0])
