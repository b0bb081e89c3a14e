"""Numbers made by the published evaluation scripts, reproduced to 1e-9 (TC to 1e-3)."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semivss.metrics.confusion import Confusion
from semivss.metrics.consistency import FlowConsistency, VideoConsistency, pull_back, window_mean

NS = (8, 16)
EXACT = {"rel": 0, "abs": 1e-9}
Video = dict[str, np.ndarray]


@dataclass
class Case:
    """One file of videos with the numbers expected of it."""

    videos: dict[str, Video]
    expected: dict[str, Any]

    @property
    def classes(self) -> int:
        return len(self.expected["per_class_iou"])

    def reduced(self, name: str) -> np.ndarray:
        raw = self.videos[name]["gt_raw"]
        return np.where((raw >= 1) & (raw <= self.classes), raw - 1, 255).astype(np.uint8)

    def confusion(self, name: str) -> Confusion:
        confusion = Confusion(self.classes)
        for truth, prediction in zip(self.reduced(name), self.videos[name]["pred"], strict=True):
            confusion.update(truth, prediction)
        return confusion

    def pooled(self) -> Confusion:
        return sum(map(self.confusion, self.videos), Confusion(self.classes))

    def consistency(self, name: str, convention: str) -> VideoConsistency:
        consistency = VideoConsistency(NS)
        for truth, raw, prediction in zip(self.reduced(name), self.videos[name]["gt_raw"], self.videos[name]["pred"], strict=True):
            consistency.update(truth, prediction, raw if convention == "raw" else None)
        return consistency


def _videos(path: Path) -> dict[str, Video]:
    videos: dict[str, Video] = {}
    with np.load(path) as arrays:
        for key in arrays:
            name, part = key.rsplit("/", 1)
            videos.setdefault(name, {})[part] = arrays[key]
    return videos


def _pairs(golden: Path, arrays: str, numbers: str) -> list[tuple[dict[str, Video], dict[str, Any]]]:
    """Every <arrays>*.npz with its <numbers>*.json."""
    paths = sorted((golden / "metrics").glob(f"{arrays}*.npz"))
    found = [(_videos(path), json.loads(path.with_name(path.stem.replace(arrays, numbers, 1) + ".json").read_text())) for path in paths]
    assert found
    assert all(videos for videos, _ in found)
    return found


def _close(got: Any, expected: Any) -> bool:
    """Numbers, lists of numbers with None, and None."""
    if isinstance(expected, list):
        return len(got) == len(expected) and all(map(_close, got, expected))
    return got is None if expected is None else got is not None and got == pytest.approx(expected, **EXACT)


@pytest.fixture(scope="module")
def cases(golden: Path) -> list[Case]:
    return [Case(*pair) for pair in _pairs(golden, "videos", "expected")]


def test_golden_metrics_one_matrix_over_all_videos(cases):
    for case in cases:
        scores, official = case.pooled().scores(), case.expected["official"]["evaluator_on_reduced_gt"]
        for theirs, ours in {"Acc": "acc", "Acc_class": "acc_class", "mIoU": "miou", "fwIoU": "weighted_iou"}.items():
            assert getattr(scores, ours) == pytest.approx(official[theirs], **EXACT), theirs


def test_golden_metrics_counts_and_iou_of_every_class(cases):
    for case in cases:
        scores, expected = case.pooled().scores(), case.expected
        assert list(scores.truth_pixels) == expected["gt_pixels_per_class"]
        assert list(scores.predicted_pixels) == expected["pred_pixels_per_class"]
        assert list(scores.correct_pixels) == expected["true_positive_pixels_per_class"]
        assert _close(list(scores.iou), expected["per_class_iou"])
        assert sum(pixels > 0 for pixels in scores.truth_pixels) == expected["other_conventions_not_official"]["gt_classes_present"]
        only_predicted = expected["notes"]["class_predicted_but_nowhere_in_gt"]
        assert (scores.iou[only_predicted], scores.truth_pixels[only_predicted]) == (0, 0)


def test_golden_metrics_every_video_alone(cases):
    names = {"pixel_acc": "acc", "class_acc": "acc_class", "mIoU": "miou", "fwIoU": "weighted_iou"}
    for case in cases:
        assert case.videos.keys() == case.expected["per_video"].keys()
        for name, numbers in case.expected["per_video"].items():
            confusion = case.confusion(name)
            for theirs, ours in names.items():
                assert _close(getattr(confusion.scores(), ours), numbers[theirs]), (name, theirs)
            assert confusion.labelled_pixels == numbers["confusion_sum"]
            assert case.videos[name]["pred"].shape == (numbers["frames"], numbers["height"], numbers["width"])


def test_golden_metrics_mean_of_videos(cases):
    for case in cases:
        scores = [case.confusion(name).scores() for name in case.videos]
        for theirs, ours in {"mIoU": "miou", "fwIoU": "weighted_iou"}.items():
            mean = math.fsum(getattr(score, ours) for score in scores) / len(scores)
            assert mean == pytest.approx(case.expected["official"][f"mean_of_per_video_{theirs}"], **EXACT)


@pytest.mark.parametrize("convention", ["raw", "reduced"])
def test_golden_metrics_vc_windows_of_every_video(cases, convention):
    for case in cases:
        for name, numbers in case.expected["per_video"].items():
            consistency = case.consistency(name, convention)
            for n in NS:
                assert _close(consistency.windows[n].ratios(), numbers[f"vc{n}_windows_{convention}"]), (name, n)


@pytest.mark.parametrize("convention", ["raw", "reduced"])
def test_golden_metrics_vc_over_all_videos(cases, convention):
    key = {"raw": "as_shipped_raw_gt", "reduced": "reduced_gt"}[convention]
    for case in cases:
        found = [case.consistency(name, convention) for name in case.videos]
        for n in NS:
            windows = [value for consistency in found for value in consistency.windows[n].ratios()]
            counts = case.expected["window_counts"][f"VC{n}"]
            assert (len(windows), windows.count(None)) == (counts["windows"], counts[f"nan_windows_{convention}"])
            assert window_mean(windows) == pytest.approx(case.expected["official"][f"VC{n}_{key}"], **EXACT)


@pytest.mark.parametrize("correct", [False, True], ids=["all", "correct_only"])
def test_golden_metrics_vc_correct_only_and_all_windows(cases, correct):
    name = "all_windows_correct_nonvoid" if correct else "all_windows"
    for case in cases:
        found = [case.consistency(video, "reduced") for video in case.videos]
        definitions = case.expected["alternative_definitions_not_official"]
        for n in NS:
            windows = [consistency.windows[n].ratios(correct=correct, last=True) for consistency in found]
            pooled = window_mean([value for video in windows for value in video])
            assert pooled == pytest.approx(definitions[f"VC{n}_{name}_clip_mean"], **EXACT)
            assert window_mean([window_mean(video) for video in windows]) == pytest.approx(definitions[f"VC{n}_{name}_video_mean"], **EXACT)


def test_golden_metrics_tc_along_given_flow(golden: Path):
    for videos, numbers in _pairs(golden, "tc", "tc_expected"):
        assert videos.keys() == numbers["videos"].keys()
        total = Confusion(124)
        for name, video in videos.items():
            alone = FlowConsistency(124)
            assert len(video["flow"]) == len(video["pred"]) - 1 == numbers["videos"][name]["frames"] - 1
            for now, after, flow, warped in zip(video["pred"][:-1], video["pred"][1:], video["flow"], video["warped"], strict=True):
                alone.update(now, after, flow)
                assert np.mean(pull_back(after, flow) != warped) <= 0.001
            assert alone.scores().miou == pytest.approx(numbers["videos"][name]["tc_alone"], abs=1e-3)
            total += alone.confusion
        assert total.scores().miou == pytest.approx(numbers["TC_all_videos_one_confusion_matrix"], abs=1e-3)


def test_golden_temporal_vc(golden: Path):
    paths = sorted((golden / "temporal").glob("vc_*.npz"))
    assert paths
    for path in paths:
        with np.load(path) as case:
            classes = int(max(case["gt"][case["gt"] != 255].max(), case["pred"].max())) + 1
            confusion, consistency = Confusion(classes), VideoConsistency(NS)
            for truth, prediction in zip(case["gt"], case["pred"], strict=True):
                confusion.update(truth, prediction)
                consistency.update(truth, prediction)
            for n in NS:
                windows = consistency.windows[n].ratios()
                official = [None if math.isnan(value) else value for value in case[f"vc{n}_windows_official"].tolist()]
                assert _close(windows, official), (path, n)
                assert window_mean(windows) == pytest.approx(float(case[f"vc{n}_official"]), **EXACT), (path, n)
            scores = confusion.scores()
            for ours, theirs in {"miou": "miou", "weighted_iou": "wiou", "acc": "pixacc"}.items():
                assert getattr(scores, ours) == pytest.approx(float(case[theirs]), **EXACT), (path, ours)
