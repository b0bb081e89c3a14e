"""`score` with several processes: the numbers of one, bit for bit, and one line for what is wrong."""

import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semivss.data.toy_files import write_toy
from semivss.data.vspw import read_vspw

sys.path.insert(0, str(Path(__file__).parents[1] / "infer"))  # crew.py, which child processes import by name
from crew import end, score, start


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A toy world with four validation clips and predictions that are mostly right."""
    root = tmp_path_factory.mktemp("score")
    write_toy(root / "toy", clips=16, frames=10, size=(32, 48), seed=1)
    dataset, random = read_vspw(root / "toy", "val"), np.random.default_rng(0)
    assert len(dataset.clips) == 4
    for clip in dataset.clips:
        (root / "predictions" / clip.name).mkdir(parents=True)
        for index, stem in enumerate(clip.stems):
            labels = clip.labels(index).copy()
            labels[random.random(labels.shape) < 0.02] = random.integers(0, len(dataset.label_set))
            Image.fromarray(labels).save(root / "predictions" / clip.name / f"{stem}.png")
    return root


def scored(world: Path, workers: int, out: Path) -> tuple[list[int], list[str]]:
    """Exit codes and standard errors."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    logs = [out / f"{rank}.log" for rank in range(workers)]
    crew = [
        start(score, rank, workers, port, world / "predictions", world / "toy", out / "scores.json", logs[rank]) for rank in range(workers)
    ]
    return end(*crew), [log.read_text() for log in logs]


def test_scores_of_workers_are_equal_as_integers(world, tmp_path):
    found = []
    for workers in (1, 2, 3):
        out = tmp_path / str(workers)
        out.mkdir()
        codes, logs = scored(world, workers, out)
        assert codes == [0] * workers
        assert logs[1:] == [""] * (workers - 1)
        found.append(json.loads((out / "scores.json").read_text()))
    assert found[0] == found[1] == found[2]
    assert len(found[0]["videos"]) == 4
    assert sum(int(count) for row in found[0]["confusion"] for count in row.split()) == 4 * 10 * 32 * 48


def test_what_a_worker_cannot_read_is_told_once(world, tmp_path):
    path = sorted((world / "predictions").iterdir())[1] / "00000003.png"  # of the second of two workers
    assert path.is_file()
    before = path.read_bytes()
    path.write_bytes(before[:60])
    try:
        codes, logs = scored(world, 2, tmp_path)
    finally:
        path.write_bytes(before)
    assert codes == [2, 2]
    assert [line for line in logs[0].splitlines() if str(path) in line and line.startswith("semivss: ")]
    assert logs[1] == ""
