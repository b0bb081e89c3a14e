import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from semivss.errors import DataError
from semivss.metrics.confusion import Confusion
from semivss.metrics.consistency import FlowConsistency, VideoConsistency, pull_back, window_mean

NS = (2, 3, 5)
lengths = st.integers(1, 9)
maps = lengths.flatmap(
    lambda frames: st.tuples(
        arrays(np.uint8, (frames, 2, 3), elements=st.sampled_from([0, 1, 255])),
        arrays(np.uint8, (frames, 2, 3), elements=st.sampled_from([0, 1, 255])),
        st.lists(st.booleans(), min_size=frames, max_size=frames),
    )
)


def _run(truth, prediction, ns=NS, missing=(), raw=None) -> VideoConsistency:
    consistency = VideoConsistency(ns)
    for t in range(len(truth)):
        consistency.update(truth[t], None if t in missing else prediction[t], None if raw is None else raw[t])
    return consistency


def _definition(truth, prediction, n, missing=(), correct=False):
    """Straight from the text: stack the window, compare with its first frame."""
    ratios = []
    for start in range(len(truth) - n + 1):
        window, guess = truth[start : start + n], prediction[start : start + n]
        stable = (window == window[0]).all(0)
        kept = (guess == guess[0]).all(0) & (not set(missing) & set(range(start, start + n)))
        if correct:
            stable = stable & (window != 255).all(0)
            kept = kept & (guess == window).all(0)
        ratios.append((stable & kept).sum() / stable.sum() if stable.any() else None)
    return ratios


@settings(max_examples=200)
@given(maps)
def test_every_window_equals_the_definition(case):
    truth, prediction, gone = case
    missing = {t for t, flag in enumerate(gone) if flag} if sum(gone) < 3 else set()
    consistency = _run(truth, prediction, missing=missing)
    for n in NS:
        for correct in (False, True):
            every = _definition(truth, prediction, n, missing, correct)
            assert consistency.windows[n].ratios(correct=correct, last=True) == every
            assert consistency.windows[n].ratios(correct=correct) == every[: max(len(truth) - n, 0)]


def test_a_frozen_prediction_is_fully_consistent_and_says_nothing_about_truth():
    truth = np.zeros((6, 2, 2), np.uint8)
    consistency = _run(truth, np.ones_like(truth))
    assert consistency.windows[3].ratios() == [1.0, 1.0, 1.0]
    assert consistency.windows[3].ratios(correct=True) == [0.0, 0.0, 0.0]


def test_raw_labels_keep_the_ignored_values_apart():
    truth = np.full((4, 1, 1), 255, np.uint8)
    raw = np.array([0, 255, 0, 255], np.uint8).reshape(4, 1, 1)
    prediction = np.zeros_like(truth)
    assert _run(truth, prediction, (2,)).windows[2].ratios() == [1.0, 1.0]
    assert _run(truth, prediction, (2,), raw=raw).windows[2].ratios() == [None, None]


def test_long_windows_do_not_overflow():
    truth = np.zeros((403, 1, 2), np.uint8)
    prediction = truth.copy()
    prediction[2, 0, 0] = 1
    assert _run(truth, prediction, (400,)).windows[400].ratios() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("n", [2, 8, 128])
def test_long_still_videos_stay_consistent(n):
    """The maps that count still frames are 8-bit."""
    truth = np.zeros((600, 1, 1), np.uint8)
    assert _run(truth, truth, (n,)).windows[n].ratios() == [1.0] * (600 - n)


def test_mean_leaves_out_empty_windows():
    assert window_mean([None, 0.5, 1.0]) == 0.75
    assert window_mean([None]) is None


def test_frames_of_one_video_have_one_size():
    consistency = VideoConsistency((2,))
    consistency.update(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match="one size a video"):
        consistency.update(np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint8))


def test_a_window_of_one_frame_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        VideoConsistency((1,))


def test_pull_back_follows_the_flow_and_gives_zero_outside():
    labels = np.arange(1, 26, dtype=np.uint8).reshape(5, 5)
    flow = np.zeros((2, 5, 5), np.float32)
    flow[0] = 1
    assert pull_back(labels, flow)[2].tolist() == [12, 13, 14, 15, 0]
    flow[1, 2] = 2
    assert pull_back(labels, flow)[2, 1] == labels[4, 2]


def test_pull_back_equals_grid_sample_with_the_published_normalisation():
    random = np.random.default_rng(3)
    labels = random.integers(0, 9, (17, 23), dtype=np.uint8)
    flow = random.normal(0, 3, (2, 17, 23)).astype(np.float32)
    y, x = torch.meshgrid(torch.arange(17.0), torch.arange(23.0), indexing="ij")
    grid = torch.stack([2 * (x + torch.from_numpy(flow[0])) / 22 - 1, 2 * (y + torch.from_numpy(flow[1])) / 16 - 1], -1)
    sampled = torch.nn.functional.grid_sample(torch.from_numpy(labels)[None, None].float(), grid[None], mode="nearest", align_corners=False)
    assert np.mean(sampled[0, 0].numpy() != pull_back(labels, flow)) <= 0.005  # ties on exact half pixels


def test_flow_consistency_pools_all_pairs_and_takes_the_earlier_frame_as_truth():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (3, 12, 9), dtype=np.uint8)
    flow = random.normal(0, 2, (2, 2, 12, 9)).astype(np.float32)
    consistency, expected = FlowConsistency(3), Confusion(3)
    for t in (0, 1):
        consistency.update(labels[t], labels[t + 1], flow[t])
        expected.update(labels[t], pull_back(labels[t + 1], flow[t]))
    assert consistency.scores() == expected.scores()
    with pytest.raises(DataError, match="must agree"):
        consistency.update(labels[0], labels[1], flow[0, :, 1:])
