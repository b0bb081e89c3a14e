"""A finished run with data in the VSPW layout, small and with hostile names."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semivss.atomic import atomic_json
from semivss.data.source import open_source
from semivss.metrics.score import score_folder
from semivss.recipe import Recipe, dump_recipe, evaluation_sets, parse_recipe

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
        provenance = {"recipe": self.recipe.digest(), "seed": 3, "model": "f" * 64, "versions": {"torch": "9.9.9"}}
        atomic_json(self.folder / "scores.json", results | {"provenance": provenance})


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
    (student / "metrics.csv").write_text("step,loss,lr,val_miou\n10,2.5,0.1,\n20,1.5,0.05,0.25\n30,oops,,nan\n")
    atomic_json(student / "defects.json", {"zero_byte": {"count": 2, "files": ["x/<u>.jpg"]}})
    atomic_json(run.folder / "predictions" / "val" / "manifest.json", {"defects": {"truncated": {"count": 1, "files": ["broken.jpg"]}}})
    run.score()
    return run


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A finished run that the test may change."""
    return finish(make_run(tmp_path), monkeypatch)
