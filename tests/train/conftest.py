"""A tiny labelled world on disk in the VSPW layout, and the recipe that trains on it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semivss.recipe import Recipe, parse_recipe

sys.path.insert(0, str(Path(__file__).parent))  # for children.py, which child processes import by name

COLORS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])


@pytest.fixture(scope="session")
def labelled_run(tmp_path_factory) -> Path:
    """A run whose student is trained and whose unlabelled video is labelled; copied by whoever goes on with it."""
    from semi_world import semi_recipe

    from semivss.pipeline import run

    folder = tmp_path_factory.mktemp("semi")
    world = make_world(folder / "tiny_world")
    run(semi_recipe(world), folder / "run", until="pseudo-label")
    return folder


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return make_world(tmp_path / "tiny_world")


def make_world(root: Path) -> Path:
    """Three videos of four frames, three classes that differ in colour; the last video is the validation set."""
    generator = np.random.default_rng(0)
    for video in "abc":
        (root / "data" / video / "origin").mkdir(parents=True)
        (root / "data" / video / "mask").mkdir()
        for number in range(4):
            labels = np.kron(generator.integers(0, 3, (3, 4)), np.ones((16, 16), int))
            frame = (COLORS[labels] + generator.normal(0, 20, (*labels.shape, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(frame).save(root / "data" / video / "origin" / f"{number:08d}.png")
            Image.fromarray((labels + 1).astype(np.uint8)).save(root / "data" / video / "mask" / f"{number:08d}.png")
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("c\n")
    (root / "label_num_dic_final.json").write_text(json.dumps({"others": "0", "red": "1", "green": "2", "blue": "3"}))
    return root


@pytest.fixture
def recipe(world: Path) -> Recipe:
    """Forty steps of a small model; a checkpoint every 4, an evaluation every 20."""
    source = {"kind": "vspw", "path": str(world)}
    return parse_recipe(
        {
            "name": "tiny",
            "data": {"train": [source], "val": source | {"split": "val"}, "augment": {"crop": [32, 48]}},
            "model": {"pixel": {"channels": 16}},
            "train": {
                "steps": 40,
                "batch": 2,
                "lr": 3e-3,
                "backbone_lr": 1.0,
                "warmup": 4,
                "clip": 1.0,
                "ema": 0.9,
                "threads": 1,
                "evaluate_every": 20,
                "checkpoint_every": 4,
                "log_every": 5,
                "panel_frames": 2,
            },
        }
    )
