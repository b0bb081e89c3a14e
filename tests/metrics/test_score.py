import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from semivss.atomic import atomic_json
from semivss.data.clips import VideoDataset
from semivss.data.files import FileClip, IndexReader
from semivss.data.labels import LabelSet, offset_table
from semivss.errors import DataError, DefectError
from semivss.metrics.confusion import Confusion
from semivss.metrics.consistency import VideoConsistency
from semivss.metrics.score import Scores, render, score_folder
from semivss.settings import Score

CLASSES = LabelSet("three", ("wall", "[red]<sky>", "car"), ((9, 9, 9), (0, 0, 255), (255, 0, 0)), (False, False, True))
SETTINGS = Score(vc=(2, 3))


def _write(path: Path, labels: np.ndarray, *, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette:
        image.putpalette(CLASSES.palette())
    image.save(path)
    return path


def _arrays(seed: int, frames: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Raw masks (id + 1, 0 and 255 ignored) that change slowly, and predictions that are mostly right."""
    random = np.random.default_rng(seed)
    raw = np.repeat(random.choice([0, 1, 2, 3, 255], (1, *size)), frames, 0).astype(np.uint8)
    raw[random.random(raw.shape) < 0.1] = 1
    prediction = np.where(random.random(raw.shape) < 0.8, raw - 1, random.integers(0, 3, raw.shape)).astype(np.uint8)
    return raw, np.where(prediction > 2, 0, prediction).astype(np.uint8)


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, VideoDataset, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Two videos of different size; one frame of the first has no mask."""
    arrays = {"1_a": _arrays(0, 6, (8, 10)), "-2_b": _arrays(1, 4, (9, 5))}
    clips = []
    for name, (raw, prediction) in arrays.items():
        stems = tuple(f"{10 * t:08d}" for t in range(len(raw)))
        masks = tuple(_write(tmp_path / "gt" / name / f"{stem}.png", mask) for stem, mask in zip(stems, raw, strict=True))
        for stem, labels in zip(stems, prediction, strict=True):
            _write(tmp_path / "pred" / name / f"{stem}.png", labels, palette=name == "1_a")
        opened = (*masks[:-1], None) if name == "1_a" else masks
        clips.append(FileClip(name, stems, masks, opened, IndexReader(offset_table(3, 1))))
    arrays["1_a"] = tuple(part[:-1] for part in arrays["1_a"])
    return tmp_path / "pred", VideoDataset("two", CLASSES, tuple(clips)), arrays


def _reduced(raw: np.ndarray) -> np.ndarray:
    return np.where((raw >= 1) & (raw <= 3), raw - 1, 255).astype(np.uint8)


def test_scores_equal_the_metrics_on_the_arrays(world):
    predictions, dataset, arrays = world
    scores = score_folder(predictions, dataset, SETTINGS)
    total, windows = Confusion(3), []
    for (raw, prediction), video in zip(arrays.values(), scores.videos, strict=True):
        alone, consistency = Confusion(3), VideoConsistency((2, 3))
        for truth, labels in zip(_reduced(raw), prediction, strict=True):
            alone.update(truth, labels)
            consistency.update(truth, labels)
        total += alone
        windows += consistency.windows[2].ratios()
        assert video.miou == alone.scores().miou
        assert len(video.frame_miou) == len(video.stems) == len(raw)
        assert video.vc[1].windows == len(raw) - 3
    assert scores.overall == total.scores()
    assert scores.vc[0].vc == pytest.approx(np.mean([value for value in windows if value is not None]), abs=1e-12)
    assert scores.frames == 9  # the frame without a mask is not scored
    assert (scores.invalid_pixels, scores.missing) == (0, ())


def test_raw_labels_change_vc_only(world):
    predictions, dataset, arrays = world
    for clip, (raw, _) in zip(dataset.clips, arrays.values(), strict=True):
        for t, path in enumerate(clip.masks[: len(raw)]):
            flipped = raw[t].copy()
            flipped[(raw[0] == 0) | (raw[0] == 255)] = 255 * (t % 2)
            _write(path, flipped)
    reduced = score_folder(predictions, dataset, SETTINGS)
    raw_scores = score_folder(predictions, dataset, Score(vc=(2, 3), vc_labels="raw"))
    assert raw_scores.overall == reduced.overall
    assert raw_scores.vc[0].vc != reduced.vc[0].vc
    assert raw_scores.vc_labels == "raw"


def test_record_survives_json(world, tmp_path):
    predictions, dataset, _ = world
    scores = score_folder(predictions, dataset, SETTINGS)
    atomic_json(tmp_path / "scores.json", scores.to_dict() | {"split_hash": "x"})
    value = json.loads((tmp_path / "scores.json").read_text())
    back = Scores.from_dict(value)
    assert back == scores
    np.testing.assert_array_equal(back.confusion, scores.confusion)
    assert value["miou"] == scores.overall.miou
    assert value["vc2"] == scores.vc[0].vc
    with pytest.raises(DataError, match="score again"):
        Scores.from_dict({"dataset": "x"})


def test_missing_predictions_are_named(world):
    predictions, dataset, _ = world
    with pytest.raises(DataError, match="nowhere: no such folder; give"):
        score_folder(predictions / "nowhere", dataset, SETTINGS)
    (predictions / "-2_b" / "00000010.png").unlink()
    with pytest.raises(DataError, match=r"1 of 9 predictions are missing: -2_b/00000010\.png; .*--missing wrong"):
        score_folder(predictions, dataset, SETTINGS)


def test_missing_predictions_can_count_as_wrong(world):
    predictions, dataset, arrays = world
    before = score_folder(predictions, dataset, SETTINGS)
    for path in (predictions / "-2_b").iterdir():
        path.unlink()
    after = score_folder(predictions, dataset, SETTINGS, missing="wrong")
    labelled = int((_reduced(arrays["-2_b"][0]) != 255).sum())
    assert len(after.missing) == 4
    assert after.missing_pixels == labelled
    assert (after.invalid_pixels, after.invalid_ignored_pixels) == (0, 0)
    assert after.videos[1].miou == 0
    assert after.videos[1].vc[0].vc == 0  # nothing that is missing is consistent
    assert after.overall.truth_pixels == before.overall.truth_pixels


def test_invalid_predictions_are_counted_and_said(world):
    predictions, dataset, arrays = world
    raw, labels = arrays["1_a"]
    labels = labels[0].copy()
    labels[:2] = 200
    _write(predictions / "1_a" / "00000000.png", labels)
    scores = score_folder(predictions, dataset, SETTINGS)
    truth = _reduced(raw)[0]
    assert scores.invalid_pixels == (truth[:2] != 255).sum()
    assert scores.invalid_ignored_pixels == (truth[:2] == 255).sum()
    assert f"{scores.invalid_pixels} labelled pixels have a prediction that is no class" in _text(scores)


def _text(scores: Scores) -> str:
    buffer = io.StringIO()
    render(scores, "a [title]", Console(file=buffer, width=160))
    return buffer.getvalue()


def test_table_shows_overall_classes_and_videos(world):
    predictions, dataset, _ = world
    scores = score_folder(predictions, dataset, SETTINGS)
    text = _text(scores)
    for part in (f"{100 * scores.overall.miou:.2f}", "VC3", "1 [red]<sky>", "a [title]", "-2_b", "weighted IoU", "reduced labels"):
        assert part in text


@pytest.mark.parametrize("damage", ["size", "truncated", "rgb", "flipped bit"])
def test_a_bad_prediction_is_named(world, damage):
    predictions, dataset, _ = world
    path = predictions / "1_a" / "00000020.png"
    if damage == "size":
        _write(path, np.zeros((4, 4), np.uint8))
    elif damage == "rgb":
        _write(path, np.zeros((8, 10, 3), np.uint8))
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        data = bytearray(path.read_bytes())
        data[data.index(b"IDAT") + 6] ^= 1
        path.write_bytes(data)
    with pytest.raises(DataError, match=r"00000020\.png: .*predict"):
        score_folder(predictions, dataset, SETTINGS)


def test_damaged_truth_follows_the_policy(world):
    predictions, dataset, _ = world
    dataset.clips[1].masks[2].write_bytes(b"")
    with pytest.raises(DefectError, match=r"00000020\.png"):
        score_folder(predictions, dataset, SETTINGS)
    scores = score_folder(predictions, dataset, SETTINGS, policy="skip")
    assert scores.frames == 8
    assert scores.defects == {"zero_byte": 1}
    assert "defects of the data set: zero_byte 1" in _text(scores)


def test_masks_that_the_reader_missed_are_counted(world):
    predictions, dataset, _ = world
    found = VideoDataset(dataset.name, CLASSES, dataset.clips, {"missing_mask": ["gt/1_a/00000050.png"]})
    assert score_folder(predictions, found, SETTINGS).defects == {"missing_mask": 1}


def test_predictions_of_other_classes_are_refused(world):
    predictions, dataset, _ = world
    atomic_json(predictions / "manifest.json", {"classes": list(CLASSES.names)})
    score_folder(predictions, dataset, SETTINGS)
    atomic_json(predictions / "manifest.json", {"classes": ["car", "wall", "sky"]})
    with pytest.raises(DataError, match=r"manifest\.json: predictions of 3 classes \(car, wall, sky, \.\.\.\).*; bring them"):
        score_folder(predictions, dataset, SETTINGS)
    (predictions / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match=r"manifest\.json: not readable"):
        score_folder(predictions, dataset, SETTINGS)


def test_a_set_without_masks_cannot_be_scored(world):
    predictions, dataset, _ = world
    bare = FileClip("1_a", ("x",), dataset.clips[0].frames[:1], (None,), dataset.clips[0].read_labels)
    with pytest.raises(DataError, match="no frame has a mask"):
        score_folder(predictions, VideoDataset("bare", CLASSES, (bare,)), SETTINGS)
