"""What `pseudo inspect` finds in a folder of pseudo labels: numbers, pictures, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from semivss.data.clips import VideoDataset
from semivss.data.files import FileClip, IndexReader
from semivss.data.labels import LabelSet, MaskTable
from semivss.data.pseudo import PseudoFolder, open_pseudo
from semivss.errors import DataError
from semivss.infer.pseudo import pseudo_label
from semivss.report.pseudo import inspect_pseudo
from semivss.report.pseudo_text import render
from semivss.settings import PseudoLabels
from semivss.tensors import PixelLogits

CLASSES = LabelSet("three", ("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), (False,) * 3)
SIZE = (24, 40)


class ColorModel(nn.Module):
    """The strongest colour channel is the class."""

    rule = "spread"
    label_set = CLASSES

    def __init__(self, gain: float = 0.03) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, frames: Tensor) -> PixelLogits:
        return PixelLogits(frames.float() * self.gain, frames.float())


def clips(root: Path, masked: bool = True, label_set: LabelSet = CLASSES) -> VideoDataset:
    """Two videos; the mask of v0/0001 is wrong wherever the blue channel is strongest."""
    ids = np.arange(256, dtype=np.uint8)
    reader = IndexReader(MaskTable(ids, np.ones(256, bool)))
    found = []
    for video in range(2):
        frames, masks = [], []
        for index in range(2):
            name = root / f"v{video}" / f"{index:04d}.png"
            name.parent.mkdir(parents=True, exist_ok=True)
            picture = np.random.default_rng(10 * video + index).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(picture).save(name)
            truth = picture.argmax(2).astype(np.uint8)
            if (video, index) == (0, 1):
                truth[truth == 2] = 0
            mask = root / "masks" / f"v{video}_{index}.png"
            mask.parent.mkdir(exist_ok=True)
            Image.fromarray(truth).save(mask)
            frames.append(name)
            masks.append(mask if masked else None)
        found.append(FileClip(f"v{video}", ("0000", "0001"), tuple(frames), tuple(masks), reader))
    return VideoDataset("clips", label_set, tuple(found))


def labelled(tmp_path: Path, dataset: VideoDataset, gain: float = 0.03) -> PseudoFolder:
    pseudo_label([ColorModel(gain)], dataset, tmp_path / "pseudo", PseudoLabels())
    return open_pseudo(tmp_path / "pseudo")


def test_numbers_are_those_of_the_pixels(tmp_path: Path) -> None:
    dataset = clips(tmp_path)
    folder = labelled(tmp_path, dataset)
    found = inspect_pseudo(folder, tmp_path / "seen", dataset=dataset, alpha=30.0, worst=2)
    labels = np.stack([folder.labels(clip.name, stem) for clip in dataset.clips for stem in clip.stems])
    codes = np.stack([folder.codes(clip.name, stem) for clip in dataset.clips for stem in clip.stems])
    truth = np.stack([clip.labels(index) for clip in dataset.clips for index in range(2)])
    reliable, right = codes < folder.thresholds(30.0)[0], labels == truth
    assert found.overall["kept"] == pytest.approx(reliable.mean())
    assert found.overall["accuracy"] == pytest.approx(right[reliable].mean())
    assert found.overall["accuracy_rest"] == pytest.approx(right[~reliable].mean())
    assert found.classes["blue"]["accuracy"] == pytest.approx(right[reliable & (labels == 2)].mean())
    assert found.classes["blue"]["share"] == pytest.approx((labels == 2).mean())
    assert found.videos["v1"] == {"kept": pytest.approx(reliable[2:].mean()), "accuracy": 1.0, "accuracy_rest": 1.0}
    assert found.worst == ("v0/0001", "v1/0000")
    assert (found.frames, found.frames_with_truth) == (4, 4)
    row = next(row for row in found.table if row["alpha"] == 50)
    assert row["kept"] == pytest.approx((codes < folder.thresholds(50.0)[0]).mean())
    assert json.loads((tmp_path / "seen" / "pseudo.json").read_text())["overall"] == found.overall
    for name in ("histogram.png", "worst.png"):
        with Image.open(tmp_path / "seen" / name) as image:
            image.load()
            assert image.width > 200


def test_without_masks_the_unsure_frames_are_the_worst(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = clips(tmp_path, masked=False)
    folder = labelled(tmp_path, dataset)
    found = inspect_pseudo(folder, tmp_path / "seen", worst=1)
    kept = {f"{v}/{s}": (folder.codes(v, s) < folder.thresholds(20.0)[0]).mean() for v in folder.stems for s in folder.stems[v]}
    assert found.worst == (min(kept, key=lambda name: kept[name]),)
    assert found.overall["accuracy"] is found.overall["accuracy_all"] is found.overall["auroc"] is None
    assert found.frames_with_truth == 0
    render(found, "title")
    shown = capsys.readouterr().out
    assert "4 frames, 0 with a mask; alpha 20 % cuts at" in shown
    assert "accuracy:" not in shown


def test_each_class_has_its_own_percentile_on_demand(tmp_path: Path) -> None:
    folder = labelled(tmp_path, clips(tmp_path))
    found = inspect_pseudo(folder, tmp_path / "seen", per_class=True)
    assert len(set(found.gamma)) > 1
    for numbers in found.classes.values():
        assert numbers["kept"] == pytest.approx(0.8, abs=0.01)


def test_all_unreliable_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = clips(tmp_path)
    found = inspect_pseudo(labelled(tmp_path, dataset, gain=0.0), tmp_path / "seen", dataset=dataset)
    assert (found.overall["kept"], found.overall["accuracy"]) == (0, None)
    render(found, "title")
    assert "no pixel is reliable" in capsys.readouterr().out


def test_corrections_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = clips(tmp_path)
    labelled(tmp_path, dataset)
    Image.fromarray(dataset.clips[0].labels(1)).save(tmp_path / "pseudo" / "v0" / "0001.png")
    found = inspect_pseudo(open_pseudo(tmp_path / "pseudo", accept_edited=True), tmp_path / "seen", dataset=dataset)
    assert found.edited == ("v0/0001",)
    assert found.overall["accuracy_all"] == 1
    render(found, "title")
    assert "corrected by hand, and taken as certain: v0/0001." in capsys.readouterr().out


def test_other_classes_videos_or_sizes_are_refused(tmp_path: Path) -> None:
    dataset = clips(tmp_path)
    folder = labelled(tmp_path, dataset)
    other = LabelSet("other", ("red", "blue", "green"), CLASSES.colors, CLASSES.things)
    with pytest.raises(DataError, match="same classes in another order"):
        inspect_pseudo(folder, tmp_path / "seen", dataset=VideoDataset("other", other, dataset.clips))
    with pytest.raises(DataError, match="none of the 2 videos"):
        inspect_pseudo(folder, tmp_path / "seen", dataset=VideoDataset("none", CLASSES, ()))
    Image.fromarray(np.zeros((12, 20), np.uint8)).save(tmp_path / "masks" / "v1_0.png")
    with pytest.raises(DataError, match=r"v1/0000: the pseudo label is 40x24, its mask 20x12"):
        inspect_pseudo(folder, tmp_path / "seen", dataset=dataset)
