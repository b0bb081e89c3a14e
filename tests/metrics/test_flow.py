"""TC of folders: values that can be worked out by hand, and what is missing or does not fit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semivss.data.clips import VideoDataset
from semivss.data.files import FileClip, IndexReader
from semivss.data.labels import LabelSet, offset_table
from semivss.errors import DataError
from semivss.metrics.flow import score_flow

CLASSES = LabelSet("two", ("wall", "car"), ((0, 0, 0), (255, 0, 0)), (False, True))
STEMS = ("00000003", "00000004", "00000009")


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, VideoDataset, Path]:
    """A wall of 1 in columns 4..11 that moves 2 pixels to the right a frame, and the flow that says so."""
    for place, stem in enumerate(STEMS):
        labels = np.zeros((9, 17), np.uint8)
        labels[:, 4 + 2 * place : 12 + 2 * place] = 1
        (tmp_path / "pred" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(tmp_path / "pred" / "a" / f"{stem}.png")
    flow = np.zeros((2, 9, 17), np.float32)
    flow[0] = 2
    (tmp_path / "flow" / "a").mkdir(parents=True)
    for stem in STEMS[:-1]:
        np.savez(tmp_path / "flow" / "a" / f"{stem}.npz", flow=flow)
    clip = FileClip("a", STEMS, (tmp_path,) * 3, (None,) * 3, IndexReader(offset_table(2, 0)))
    return tmp_path / "pred", VideoDataset("moving", CLASSES, (clip,)), tmp_path / "flow"


def test_the_right_flow_scores_near_one_and_no_flow_what_overlaps(world):
    predictions, dataset, flow = world
    moved = score_flow(predictions, dataset, flow)
    assert moved.pairs == 2
    assert moved.tc > 0.9  # the published sampler shifts by up to half a pixel
    for path in flow.rglob("*.npz"):
        np.savez(path, flow=np.zeros((2, 9, 17)))
    still = score_flow(predictions, dataset, flow)
    assert still.tc == pytest.approx((6 / 10 + 7 / 11) / 2, abs=0.03)  # of 8 + 8 columns 6 overlap, of 9 + 9 others 7


def test_the_layout_of_the_toy_world_is_found(world):
    predictions, dataset, flow = world
    (flow / "data" / "a").mkdir(parents=True)
    expected = score_flow(predictions, dataset, flow)
    (flow / "a").rename(flow / "data" / "a" / "flow")
    assert score_flow(predictions, dataset, flow) == expected


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), r"a/00000003\.npz: no flow"),
        (lambda path: path.write_bytes(b""), r"a/00000003\.npz: not readable"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), r"a/00000003\.npz: not readable"),
        (lambda path: np.savez(path, other=np.zeros(3)), r"a/00000003\.npz: not readable"),
        (lambda path: np.savez(path, flow=np.zeros((9, 17, 2))), r"a/00000003\.npz: its flow has the shape \(9, 17, 2\)"),
        (lambda path: np.savez(path, flow=np.full((2, 9, 17), np.nan)), r"a/00000003\.npz: .*finite"),
        (lambda path: np.savez(path, flow=np.zeros((2, 9, 16))), r"a/00000003: .*all three must agree"),
    ],
)
def test_bad_flow_is_one_line_with_the_file(world, spoil, words):
    predictions, dataset, flow = world
    spoil(flow / "a" / "00000003.npz")
    with pytest.raises(DataError, match=words) as caught:
        score_flow(predictions, dataset, flow)
    assert "\n" not in str(caught.value)


def test_a_missing_prediction_is_named(world):
    predictions, dataset, flow = world
    (predictions / "a" / "00000009.png").unlink()
    with pytest.raises(DataError, match=r"a/00000009\.png: .*run predict again"):
        score_flow(predictions, dataset, flow)
