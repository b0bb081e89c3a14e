"""Finished runs: one with data in the VSPW layout, small and with hostile names, and a semi-supervised one of the toy world."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from semivss.atomic import atomic_json
from semivss.data.source import open_source
from semivss.data.toy import toy_labels
from semivss.infer.pseudo import pseudo_label
from semivss.metrics.score import score_folder
from semivss.pipeline import provenance
from semivss.recipe import Recipe, dump_recipe, evaluation_sets, parse_recipe
from semivss.settings import PseudoLabels
from semivss.tensors import PixelLogits

NAMES = ("road", "<b>sky</b>", "car & van")
SIZE = (36, 64)
FRAMES = 7


@dataclass
class Run:
    """A run folder and what it was made of."""

    folder: Path
    data: Path
    recipe: Recipe

    def predictions(self, video: str) -> list[Path]:
        return sorted((self.folder / "predictions" / "val" / video).glob("*.png"))

    def score(self) -> None:
        results = {}
        for name, source in evaluation_sets(self.recipe).items():
            scores = score_folder(self.folder / "predictions" / name, open_source(source), self.recipe.score)
            results[name] = scores.to_dict() | {"split_hash": "0123456789ab"}
        made_by = {"recipe": self.recipe.digest(), "seed": 3, "models": {"student": "f" * 64}, "versions": {"torch": "9.9.9"}}
        atomic_json(self.folder / "scores.json", results | {"provenance": made_by})


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make_run(tmp_path: Path) -> Run:
    """Data, recipe and predictions below `tmp_path`."""
    data, folder, random = tmp_path / "data set", tmp_path / "runs" / "small", np.random.default_rng(0)
    truth = np.zeros(SIZE, np.uint8)
    truth[:12], truth[20:30, 10:30], truth[:2] = 1, 2, 255
    for video in ("1_<i>a&b", "2_plain"):
        for t in range(FRAMES):
            stem = f"{3 * t:08d}"
            labels = np.roll(truth, t, 1)
            prediction = np.where(random.random(SIZE) < 0.1 * t, 0, np.where(labels == 255, 1, labels)).astype(np.uint8)
            save(data / "data" / video / "origin" / f"{stem}.jpg", random.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
            save(data / "data" / video / "mask" / f"{stem}.png", labels + np.uint8(1))  # 255 wraps round to 0, "others"
            save(folder / "predictions" / "val" / video / f"{stem}.png", prediction)
            save(folder / "predictions" / "val" / "entropy" / video / f"{stem}.png", random.integers(0, 65535, SIZE, dtype=np.uint16))
    (data / "val.txt").write_text("1_<i>a&b\n2_plain\n")
    (data / "label_num_dic_final.json").write_text(json.dumps({"others": "0"} | {name: str(k + 1) for k, name in enumerate(NAMES)}))
    source = {"kind": "vspw", "path": "$REPORT_TEST_DATA", "split": "val"}
    recipe = parse_recipe({"name": "small", "data": {"train": [source], "val": source}, "score": {"vc": [2, 4]}})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(dump_recipe(recipe))
    return Run(folder, data, recipe)


def finish(run: Run, patch: pytest.MonkeyPatch) -> Run:
    """Add model, curves, defects and scores."""
    patch.setenv("REPORT_TEST_DATA", str(run.data))
    student = run.folder / "student"
    (student / "model").mkdir(parents=True)
    (student / "model" / "model.safetensors").write_bytes(b"weights")
    (student / "model" / "config.json").write_text("{}")
    (student / "metrics.csv").write_text("step,loss,lr,val_miou\n10,2.5,0.1,\n20,1.5,0.05,0.25\n30,oops,,nan\n")
    atomic_json(student / "defects.json", {"zero_byte": {"count": 2, "files": ["x/<u>.jpg"]}})
    atomic_json(run.folder / "predictions" / "val" / "manifest.json", {"defects": {"truncated": {"count": 1, "files": ["broken.jpg"]}}})
    run.score()
    return run


class Colors(nn.Module):
    """A fixed linear map of the colours to the toy world's classes."""

    rule = "spread"
    label_set = toy_labels()

    def __init__(self) -> None:
        super().__init__()
        rows = torch.tensor(self.label_set.colors).float()
        self.weight = nn.Parameter(rows / 2000)

    def forward(self, frames: Tensor) -> PixelLogits:
        pixels = frames.float()
        return PixelLogits(torch.einsum("kc,bchw->bkhw", self.weight, pixels) - (self.weight**2).sum(1)[:, None, None] * 1000, pixels)


def toy(clips: int, first: int) -> dict[str, Any]:
    """A source of clips of three small frames."""
    return {"kind": "toy", "toy": {"clips": clips, "frames": 3, "first_clip": first, "size": [24, 40]}}


def semi_run(tmp_path: Path, **semi: Any) -> Path:
    """A finished run with teacher, student, pseudo labels and retrained student: every file that a report looks at, but no training."""
    data = {"train": [toy(1, 0)], "unlabelled": [toy(2, 1)], "val": toy(1, 1000)}
    recipe = parse_recipe({"name": "semi", "data": data, "teacher": {}, "score": {"vc": [2]}, "semi": semi})
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text(dump_recipe(recipe))
    for folder in ("teacher", "student", "retrained"):
        (run / folder / "model").mkdir(parents=True)
        (run / folder / "model" / "model.safetensors").write_bytes(folder.encode())
        (run / folder / "model" / "config.json").write_text("{}")
        extra = ("loss_contrast,reliable,alpha", "0.5,0.75,20") if folder == "retrained" else ("val_miou", "0.25")
        (run / folder / "metrics.csv").write_text(f"step,loss,loss_cross_entropy,{extra[0]}\n10,2.5,1.5,{extra[1]}\n")
        atomic_json(run / folder / "defects.json", {"zero_byte": {"count": 1, "files": [f"{folder}.jpg"]}})
    pseudo_label([Colors()], open_source(recipe.data.unlabelled[0]), run / "pseudo", PseudoLabels())
    dataset = open_source(recipe.data.val)
    for clip in dataset.clips:
        for index, stem in enumerate(clip.stems):
            save(run / "predictions" / "val" / clip.name / f"{stem}.png", np.where(clip.labels(index) == 3, 0, clip.labels(index) % 12))
    scores = score_folder(run / "predictions" / "val", dataset, recipe.score)
    numbers = {"teacher": 0.5, "student": 0.4, "retrained": 0.55, "ensemble": scores.overall.miou}
    compared = {model: {"val": {"miou": miou, "weighted_iou": miou / 2, "vc2": None}} for model, miou in numbers.items()}
    atomic_json(run / "scores.json", {"val": scores.to_dict(), "comparison": compared, "provenance": provenance(recipe, run)})
    return run


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A finished run that the test may change."""
    return finish(make_run(tmp_path), monkeypatch)
