"""Smaller copies of data sets: what is in them, that they open as the same kind, are gone on with, and what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semivss.data.cache import cache_copies
from semivss.data.description import Description, Masks, describe, save_description
from semivss.data.folder import read_folder
from semivss.data.images import read_frame
from semivss.data.video import VideoWriter
from semivss.data.vspw import read_vspw
from semivss.errors import DataError, DefectError

SIZE = (96, 128)
NAMES = ("road", "car", "tree")


def smooth(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    waves = [np.sin((y + 7 * seed) / 17), np.cos(x / 23), np.sin((x + 2 * y) / 31)]
    return np.stack([128 + 100 * wave for wave in waves], 2).astype(np.uint8)


def quarters(seed: int) -> np.ndarray:
    labels = np.full(SIZE, 255, np.uint8)
    labels[:48, :64], labels[:48, 64:], labels[48:, :64] = seed % 3, (seed + 1) % 3, (seed + 2) % 3
    return labels


def vspw(root: Path) -> Path:
    for number, video in enumerate(("a", "b")):
        for kind in ("origin", "mask"):
            (root / "data" / video / kind).mkdir(parents=True)
        for index in range(3):
            Image.fromarray(smooth(number + index)).save(root / "data" / video / "origin" / f"{index:03d}.jpg", quality=95)
        Image.fromarray(quarters(number) + np.uint8(1)).save(root / "data" / video / "mask" / "001.png")
    (root / "train.txt").write_text("a\n")
    (root / "val.txt").write_text("b\n")
    (root / "semi").mkdir()
    (root / "semi" / "labeled.txt").write_text("a/001\n")
    (root / "label_num_dic_final.json").write_text(json.dumps({"others": "0", "road": "1", "car": "2", "tree": "3"}))
    return root


def test_a_copy_in_the_vspw_layout_is_the_same_set_with_half_the_side(tmp_path: Path) -> None:
    source, out = vspw(tmp_path / "big"), tmp_path / "small"
    assert cache_copies(source, out, 48) == 6
    for split, video in (("train", "a"), ("val", "b")):
        (before,), (after,) = read_vspw(source, split).clips, read_vspw(out, split).clips
        assert (after.name, after.stems) == (video, before.stems)
        assert [after.is_labelled(index) for index in range(3)] == [False, True, False]
        np.testing.assert_array_equal(after.labels(1), before.labels(1)[1::2, 1::2])  # blocks: every id stays where it was
        area = before.frame(0).reshape(48, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(after.frame(0) - area).mean() < 2
    assert read_vspw(out, "train").label_set.names == NAMES
    assert read_vspw(out, "train", labelled="semi/labeled.txt").clips[0].is_labelled(1)


def test_frames_that_are_small_enough_are_copied_as_they_are(tmp_path: Path) -> None:
    source, out = vspw(tmp_path / "big"), tmp_path / "same"
    cache_copies(source, out, 96)
    for path in sorted(source.glob("data/*/origin/*")):
        assert (out / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_what_the_source_no_longer_has_goes_from_the_copy(tmp_path: Path) -> None:
    source, out = vspw(tmp_path / "big"), tmp_path / "small"
    Image.fromarray(quarters(0) + np.uint8(1)).save(source / "data/a/mask/000.png")
    cache_copies(source, out, 48)
    (source / "data/a/mask/001.png").unlink()
    (source / "data/a/origin/002.jpg").unlink()
    cache_copies(source, out, 48)
    for root in (source, out):
        (clip,) = read_vspw(root, "train").clips
        assert clip.stems == ("000", "001")
        assert [clip.is_labelled(index) for index in range(2)] == [True, False]


def described(root: Path) -> Path:
    (root / "pictures" / "a").mkdir(parents=True)
    (root / "drawn" / "a").mkdir(parents=True)
    (root / "drawn" / "film").mkdir(parents=True)
    for index in range(2):
        Image.fromarray(smooth(index)).save(root / "pictures" / "a" / f"{index}.png")
    Image.fromarray(quarters(0) + np.uint8(5), "L").save(root / "drawn" / "a" / "1.png")  # ids + 5; 4 = 255 + 5 is ignored
    Image.fromarray(quarters(1) + np.uint8(5), "L").save(root / "drawn" / "film" / "00000002.png")
    with VideoWriter(root / "film.mp4", 10.0) as video:
        for index in range(4):
            video.write(smooth(index))
    (root / "lists").mkdir()
    (root / "lists" / "held_back.txt").write_text("film\n")
    values = {
        "name": "mine",
        "frames": "pictures",
        "masks": Masks(folder="drawn", offset=5, ignore=(4,)),
        "splits": {"train": ("a",), "val": "lists/held_back.txt"},
        "videos": ({"name": "film", "file": "film.mp4", "frames": 4},),
        "classes": tuple({"name": name} for name in NAMES),
    }
    description: Description = describe("test", **values)
    save_description(description, root / "dataset.toml")
    return root


def test_a_copy_of_a_described_folder_holds_pictures_of_its_videos_too(tmp_path: Path) -> None:
    source, out = described(tmp_path / "mine"), tmp_path / "small"
    assert cache_copies(source, out, 48) == 6
    for split in ("train", "val"):
        (before,), (after,) = read_folder(source, split).clips, read_folder(out, split).clips
        assert (after.name, after.stems) == (before.name, before.stems)
        for index in range(len(before.stems)):
            assert after.frame(index).shape == (48, 64, 3)
            assert after.is_labelled(index) == before.is_labelled(index)
            if before.is_labelled(index):
                np.testing.assert_array_equal(after.labels(index), before.labels(index)[1::2, 1::2])


def test_a_second_call_makes_only_what_has_changed(tmp_path: Path) -> None:
    source, out = vspw(tmp_path / "big"), tmp_path / "small"
    cache_copies(source, out, 48)
    (out / "data" / "b" / "origin" / "002.jpg").unlink()
    changed = source / "data" / "a" / "origin" / "000.jpg"
    Image.fromarray(255 - smooth(5)).save(changed)
    os.utime(changed, (1, 1))
    times = {path: path.stat().st_mtime_ns for path in out.glob("data/*/*/*")}
    assert cache_copies(source, out, 48) == 6
    again = {path.relative_to(out).as_posix() for path in out.glob("data/*/*/*") if times.get(path) != path.stat().st_mtime_ns}
    assert again == {"data/a/origin/000.jpg", "data/b/origin/002.jpg"}
    assert np.abs(read_frame(out / "data/a/origin/000.jpg") - (255.0 - smooth(5)[1::2, 1::2])).mean() < 5


def test_frames_whose_names_begin_alike_keep_their_copies(tmp_path: Path) -> None:
    source, out = vspw(tmp_path / "big"), tmp_path / "small"
    pictures = source / "data" / "a" / "origin"
    for name in ("000.b", "[0]"):
        Image.fromarray(smooth(4)).save(pictures / f"{name}.jpg")
    assert cache_copies(source, out, 48) == 8
    for time in range(5):
        os.utime(pictures / "000.jpg", (time, time))
        (out / "data" / "a" / "mask" / "001.png").unlink()
        cache_copies(source, out, 48)
        assert {path.stem for path in (out / "data" / "a" / "origin").iterdir()} == {"000", "001", "002", "000.b", "[0]"}
        assert (out / "data" / "a" / "mask" / "001.png").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    source = vspw(tmp_path / "big")
    with pytest.raises(DataError, match="lies in the data set"):
        cache_copies(source, source / "small", 48)
    cache_copies(source, tmp_path / "small", 48)
    with pytest.raises(DataError, match="other short_side"):
        cache_copies(source, tmp_path / "small", 32)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        cache_copies(source, tmp_path / "full", 48)
    (tmp_path / "leftImg8bit").mkdir()
    with pytest.raises(DataError, match="not of cityscapes"):
        cache_copies(tmp_path, tmp_path.parent / "x", 48)


def test_a_damaged_frame_stops_a_strict_copy_and_is_left_out_of_a_lenient_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = vspw(tmp_path / "big"), tmp_path / "small"
    (source / "data" / "b" / "origin" / "001.jpg").write_bytes(b"")
    with pytest.raises(DefectError, match=r"001\.jpg"):
        cache_copies(source, out, 48)
    assert (out / "data" / "a" / "origin" / "000.jpg").exists()
    assert cache_copies(source, out, 48, policy="skip") == 5
    assert "zero_byte 1" in capsys.readouterr().err
    assert not (out / "data" / "b" / "origin" / "001.jpg").exists()
