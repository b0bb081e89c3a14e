"""Views of a frame and their inverses, and the fused stream, checked with models that look at one pixel's colour only."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from semivss.data.labels import LabelSet
from semivss.errors import SemivssError
from semivss.infer.stream import stream_distribution
from semivss.infer.views import View, views_from
from semivss.settings import Views
from semivss.tensors import MaskLogits, PixelLogits

CLASSES = LabelSet("three", ("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), (False,) * 3)
sides = st.integers(1, 70)
crops = st.tuples(st.integers(8, 40), st.integers(8, 40))


class ColorModel(nn.Module):
    """Each pixel's colour channels, divided by `sharpness`, are its logits."""

    rule = "spread"

    def __init__(self, sharpness: float = 16.0, label_set: LabelSet = CLASSES) -> None:
        super().__init__()
        self.sharpness, self.label_set = sharpness, label_set
        self.batches: list[tuple[int, ...]] = []
        self.eval()

    def forward(self, frames: Tensor) -> PixelLogits:
        self.batches.append(tuple(frames.shape))
        return PixelLogits(frames.float() / self.sharpness, frames.float())


class VoteModel(nn.Module):
    """Mask votes that add up to less than 1: channel / 255 / 3 each, so that the rule matters."""

    label_set = CLASSES

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule
        self.eval()

    def forward(self, frames: Tensor) -> MaskLogits:
        share = (frames.float() / 255 / 3).clamp(1e-6, 1 - 1e-6)
        surely = torch.full((len(frames), 3, 4), -1e4)
        surely[:, range(3), range(3)] = 0
        return MaskLogits(surely, share.logit(), frames.float())


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(y / 17), np.cos(x / 23), np.sin((x + 2 * y) / 31)]
    return np.stack([128 + 100 * wave for wave in waves], 2).astype(np.uint8)


def direct(frame: np.ndarray, sharpness: float = 16.0) -> Tensor:
    return (torch.from_numpy(frame).permute(2, 0, 1).float() / sharpness).softmax(0)


def fused(frame: np.ndarray, *views: View, batch: int = 4) -> Tensor:
    (p,) = stream_distribution([ColorModel()], None, [frame], views, batch)
    return p


@given(sides, sides)
@settings(max_examples=30, deadline=None)
def test_a_flip_is_undone_to_the_bit(height: int, width: int) -> None:
    frame = noise(height, width)
    assert torch.equal(fused(frame, View(flip=True)), fused(frame, View()))
    whole = torch.from_numpy(frame).permute(2, 0, 1)
    assert width == 1 or torch.equal(View(flip=True).apply(whole)[:, :, 0], whole[:, :, -1])


@given(sides, sides, crops, st.none() | crops, st.booleans(), st.sampled_from([1.0, 0.5, 1.75]))
@settings(max_examples=40, deadline=None)
def test_windows_cover_every_pixel_and_stay_inside(height: int, width: int, crop, stride, flip: bool, scale: float) -> None:
    stride = stride and (min(stride[0], crop[0]), min(stride[1], crop[1]))
    view = View(scale, flip, crop, stride)
    high, wide = view.size((height, width))
    seen = torch.zeros(high, wide)
    for window in view.windows((height, width)):
        assert 0 <= window.top <= high - window.height
        assert 0 <= window.left <= wide - window.width
        assert (window.height, window.width) == (min(crop[0], high), min(crop[1], wide))
        seen[window.top : window.top + window.height, window.left : window.left + window.width] += 1
    assert bool((seen > 0).all())
    assert len({(w.top, w.left) for w in view.windows((height, width))}) == len(view.windows((height, width)))


@given(sides, sides, crops, st.booleans())
@settings(max_examples=20, deadline=None)
def test_windows_of_a_pointwise_model_change_nothing(height: int, width: int, crop, flip: bool) -> None:
    frame = noise(height, width)
    torch.testing.assert_close(fused(frame, View(flip=flip, crop=crop)), direct(frame), atol=2e-6, rtol=0)


@given(sides, sides, st.sampled_from([0.5, 0.75, 1.5, 2.0]), st.none() | crops, st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_fused_distribution_sums_to_one(height: int, width: int, scale: float, crop, flip: bool) -> None:
    p = fused(noise(height, width), View(scale, flip, crop), View(1.0))
    assert p.shape == (3, height, width)
    torch.testing.assert_close(p.sum(0), torch.ones(height, width), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(64, 96), (61, 97), (37, 130)])
@pytest.mark.parametrize("view", [View(1.5), View(2.0, flip=True), View(0.75), View(1.5, crop=(32, 48)), View(0.75, True, (24, 24))])
def test_a_scaled_view_of_a_smooth_picture_is_close_to_it(size: tuple[int, int], view: View) -> None:
    frame = smooth(*size)
    difference = (fused(frame, view) - direct(frame)).abs()
    assert difference.mean() < 0.004
    assert difference.max() < 0.1


class CellModel(ColorModel):
    """As a Segmenter, answers in cells of 4 x 4 pixels: the mean colour of each, the last ones hanging over the edge."""

    def forward(self, frames: Tensor) -> PixelLogits:
        padded = nn.functional.pad(frames.float(), (0, -frames.shape[-1] % 4, 0, -frames.shape[-2] % 4), mode="replicate")
        cells = nn.functional.avg_pool2d(padded, 4)
        return PixelLogits(cells / self.sharpness, cells)


@pytest.mark.parametrize("size", [(64, 96), (61, 97), (63, 94)])
@pytest.mark.parametrize(
    "view", [View(), View(flip=True), View(1.02), View(1.5), View(0.75, flip=True), View(crop=(33, 50)), View(1.0, base=(71, 99))]
)
def test_cells_of_four_pixels_stay_where_they_are_in_every_view(size: tuple[int, int], view: View) -> None:
    """A shift of one pixel would make a mean difference of about 0.009."""
    frame = smooth(*size)
    (p,) = stream_distribution([CellModel()], None, [frame], [view])
    inner = (slice(None), slice(8, -8), slice(8, -8))  # cells that hang over repeat the edge, and bilinear ends there
    assert (p - direct(frame))[inner].abs().mean() < 0.004


@pytest.mark.parametrize("flip", [False, True])
def test_windows_of_a_scaled_view_are_resized_as_the_whole_view_is(flip: bool) -> None:
    """The tap weights are those of torch's own bilinear resize."""
    frame = noise(53, 71)
    view = View(1.3, flip, crop=(40, 40), stride=(17, 23))
    whole = (view.apply(torch.from_numpy(frame).permute(2, 0, 1)).float() / 16).softmax(0)
    expected = nn.functional.interpolate(whole[None], (53, 71), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(fused(frame, view), expected.flip(-1) if flip else expected, atol=2e-5, rtol=0)


def test_overlapping_windows_count_equally() -> None:
    """A model whose answer depends on the window: pixel values are averages over the windows that hold them."""

    class CornerModel(ColorModel):
        def forward(self, frames: Tensor) -> PixelLogits:
            first = frames[:, :, :1, :1].float().expand(frames.shape)
            return PixelLogits(first, first)

    frame = np.zeros((1, 5, 3), np.uint8)
    frame[0, :, 0] = [0, 0, 30, 0, 0]
    (p,) = stream_distribution([CornerModel()], None, [frame], [View(crop=(1, 3), stride=(1, 2))])
    certain, flat = 1.0, 1 / 3  # the windows begin at columns 0 and 2 and share column 2
    torch.testing.assert_close(p[0, 0], torch.tensor([flat, flat, (flat + certain) / 2, certain, certain]))


def test_a_base_size_is_the_size_at_scale_one() -> None:
    view = View(0.5, base=(64, 96))
    assert view.size((480, 640)) == (32, 48)
    assert View(1.0, base=(63, 95)).size((480, 640)) == (63, 95)
    assert fused(smooth(120, 160), view).shape == (3, 120, 160)


def test_the_shorter_side_is_that_of_landscape_and_portrait_alike():
    assert View(short_side=896).size((480, 853)) == (896, 1592)
    assert View(short_side=896).size((853, 480)) == (1592, 896)
    assert View(512 / 896, short_side=896).size((1080, 1920)) == (512, 912)
    assert views_from(Views(short_side=64))[0].short_side == 64


def test_scaled_views_have_whole_cells_and_a_smallest_size() -> None:
    assert View(0.7).size((101, 203)) == (72, 144)
    assert View(0.1).size((40, 400)) == (32, 40)
    assert View(1.0).size((7, 9)) == (7, 9)


def test_the_ensemble_is_the_weighted_mean_of_distributions_each_with_its_own_rule() -> None:
    frame = noise(20, 30)
    models = [ColorModel(), ColorModel(64.0), VoteModel("l1"), VoteModel("spread")]
    alone = [next(stream_distribution([model], None, [frame])) for model in models]
    assert (alone[2] - alone[3]).abs().max() > 0.1
    (mixed,) = stream_distribution(models, [2.0, 1.0, 1.0, 4.0], [frame])
    expected = sum(weight * p for weight, p in zip([0.25, 0.125, 0.125, 0.5], alone, strict=True))
    torch.testing.assert_close(mixed, expected)
    (equal,) = stream_distribution(models, None, [frame])
    torch.testing.assert_close(equal, torch.stack(alone).mean(0))


@pytest.mark.parametrize("views", [(View(),), (View(), View(flip=True)), (View(1.5), View(crop=(16, 16)))])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_batching_changes_neither_order_nor_values_nor_sizes(views: tuple[View, ...], batch: int) -> None:
    frames = [noise(24, 40, seed) for seed in range(5)] + [noise(40, 24, 5), noise(24, 40, 6)]
    model = ColorModel()
    together = list(stream_distribution([model], None, frames, views, batch))
    assert max(shape[0] for shape in model.batches) <= batch
    for frame, p in zip(frames, together, strict=True):
        torch.testing.assert_close(p, fused(frame, *views, batch=1))


def test_equal_windows_of_several_views_and_frames_go_through_together() -> None:
    model = ColorModel()
    list(stream_distribution([model], None, [noise(32, 64, seed) for seed in range(4)], [View(), View(flip=True)], batch=8))
    assert model.batches == [(8, 3, 32, 64)]


def test_a_frame_is_asked_for_only_when_its_turn_comes() -> None:
    asked = []

    def frames():
        for index in range(100):
            asked.append(index)
            yield noise(8, 8, index)

    stream = stream_distribution([ColorModel()], None, frames(), [View()], batch=4)
    next(stream)
    assert len(asked) <= 4


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0], "1 weight for 2 models"),
        ([0.0, 0.0], "not all 0"),
        ([1.0, -1.0], "not negative"),
        ([1.0, math.inf], "finite"),
        ([1.0, math.nan], "finite"),
    ],
)
def test_unusable_weights_are_refused(weights: list[float], words: str) -> None:
    with pytest.raises(SemivssError, match=words):
        list(stream_distribution([ColorModel(), ColorModel()], weights, [noise(4, 4)]))


def test_models_of_other_classes_are_refused_with_the_first_difference() -> None:
    other = LabelSet("other", ("red", "verdant", "blue"), CLASSES.colors, CLASSES.things)
    with pytest.raises(SemivssError, match=r"id 1 \('green' and 'verdant'\)"):
        list(stream_distribution([ColorModel(), ColorModel(label_set=other)], None, [noise(4, 4)]))
    fewer = LabelSet("fewer", ("red", "green"), CLASSES.colors[:2], (False, False))
    with pytest.raises(SemivssError, match="'blue' and 'nothing'"):
        list(stream_distribution([ColorModel(), ColorModel(label_set=fewer)], None, [noise(4, 4)]))


def test_views_of_the_settings() -> None:
    views = views_from(Views(scales=(0.5, 1.0), flip=True, crop=(30, 60)))
    assert [(view.scale, view.flip) for view in views] == [(0.5, False), (0.5, True), (1.0, False), (1.0, True)]
    assert views_from(Views()) == (View(),)
    assert [(w.top, w.left) for w in View(crop=(30, 60)).windows((45, 100))] == [(0, 0), (0, 40), (15, 0), (15, 40)]
    for wrong in (Views(crop=(10, 10), stride=(5, 11)), Views(stride=(5, 5))):
        with pytest.raises(SemivssError, match=r"views\.stride"):
            views_from(wrong)
