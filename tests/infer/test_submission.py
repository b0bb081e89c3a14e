"""The challenge's zip: what is in it, and what is refused."""

import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semivss.data.vspw import read_vspw
from semivss.errors import SemivssError
from semivss.infer.submission import submit

STEMS = ("00000001", "00000005")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for video, size in (("1_a", (8, 12)), ("2_-b", (12, 8))):
        folder = tmp_path / "set" / "data" / video / "origin"
        folder.mkdir(parents=True)
        for stem in STEMS:
            Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / f"{stem}.jpg")
    (tmp_path / "set" / "test.txt").write_text("1_a\n2_-b\n")
    return tmp_path / "set"


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    for video, size in (("1_a", (8, 12)), ("2_-b", (12, 8))):
        for number, stem in enumerate(STEMS):
            save(tmp_path / "out" / video / f"{stem}.png", np.full(size, 120 + number, np.uint8))
    return tmp_path / "out"


def save(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)


def test_every_frame_is_in_the_zip_and_nothing_else(root: Path, predictions: Path, tmp_path: Path) -> None:
    save(predictions / "9_other" / "00000001.png", np.zeros((4, 4), np.uint8))
    (predictions / "manifest.json").write_text("{}")
    assert submit(predictions, read_vspw(root, "test"), tmp_path / "s.zip") == 4
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert archive.namelist() == [f"{video}/{stem}.png" for video in ("1_a", "2_-b") for stem in STEMS]
        with Image.open(BytesIO(archive.read("2_-b/00000005.png"))) as image:
            assert image.mode in ("L", "P")
            assert image.size == (8, 12)
            assert np.unique(np.asarray(image)).tolist() == [121]
    first = (tmp_path / "s.zip").read_bytes()
    submit(predictions, read_vspw(root, "test"), tmp_path / "s.zip")
    assert (tmp_path / "s.zip").read_bytes() == first


def drop_video(folder: Path) -> None:
    for path in (folder / "1_a").iterdir():
        path.unlink()
    (folder / "1_a").rmdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_video, "no predictions for video 1_a"),
        (lambda folder: [(folder / video / f"{STEMS[1]}.png").unlink() for video in ("1_a", "2_-b")], r"1_a/00000005\.png.*1 more frames"),
        (lambda folder: save(folder / "1_a" / "00000001.png", np.zeros((12, 8), np.uint8)), "8x12, its frame is 12x8"),
        (lambda folder: save(folder / "1_a" / "00000001.png", np.full((8, 12), 255, np.uint8)), r"id 255 is not in 0\.\.123"),
        (lambda folder: save(folder / "1_a" / "00000001.png", np.full((8, 12), 124, np.uint8)), r"id 124 is not in 0\.\.123"),
        (lambda folder: save(folder / "1_a" / "00000001.png", np.zeros((8, 12, 3), np.uint8)), "colour picture"),
        (lambda folder: save(folder / "1_a" / "00000001.png", np.zeros((8, 12), np.uint16)), "16 bits a pixel"),
        (lambda folder: (folder / "1_a" / "00000001.png").write_bytes(b"\x89PNG"), "ends in its header"),
    ],
)
def test_a_wrong_prediction_is_named_and_the_old_zip_stays(
    root: Path, predictions: Path, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    (tmp_path / "s.zip").write_bytes(b"old")
    spoil(predictions)
    with pytest.raises(SemivssError, match=words) as caught:
        submit(predictions, read_vspw(root, "test"), tmp_path / "s.zip")
    assert "\n" not in str(caught.value)
    assert "1_a" in str(caught.value)
    assert (tmp_path / "s.zip").read_bytes() == b"old"
    assert not list(tmp_path.glob(".s.zip*"))


def test_a_missing_folder_of_predictions_is_said(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SemivssError, match="no such folder"):
        submit(tmp_path / "nowhere", read_vspw(root, "test"), tmp_path / "s.zip")
