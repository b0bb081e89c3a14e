"""`semivss data check`: what is understood, counted and shown."""

import numpy as np
import pytest
from PIL import Image
from tests.data.owndata import NAMES, frame, ids, save, write_own
from tests.data.videos import write_video

from semivss.data.check import check, run_check
from semivss.data.detect import detect_kind, splits_of
from semivss.data.importer import import_any, import_frames
from semivss.errors import DataError


@pytest.fixture
def own(tmp_path):
    """Two videos of two labelled frames, described in place."""
    root = write_own(tmp_path / "own")
    import_frames(root / "frames", root / "masks", root / "classes.txt", root)
    return root


def write_vspw_like(root, splits=("train", "val")):
    for split in splits:
        (root / "data" / f"{split}_1").mkdir(parents=True)
        (root / f"{split}.txt").write_text(f"{split}_1\n")
        for index in range(2):
            save(root / "data" / f"{split}_1" / "origin" / f"{index:08d}.jpg", frame(index))
            save(root / "data" / f"{split}_1" / "mask" / f"{index:08d}.png", np.full((20, 30), 1 + index, np.uint8))
    return root


def test_pixels_frames_and_sizes_are_counted(own):
    (split,) = check(own).splits
    labels = np.stack([ids(seed) for seed in (0, 1, 10, 11)])
    np.testing.assert_array_equal(split.pixels, np.bincount(labels.ravel(), minlength=256))
    assert [int(split.frames_with[index]) for index in (0, 1, 2, 255, 3)] == [4, 4, 4, 4, 0]
    assert (split.clips, split.frames, split.labelled, dict(split.sizes)) == (2, 4, 4, {(20, 30): 4})
    assert split.label_set.names == NAMES
    assert not split.defects


def test_the_table_and_the_picture_show_it(own, tmp_path, capsys):
    assert run_check(own, out=tmp_path / "look.png") == 0
    shown = capsys.readouterr().out
    total = sum(ids(seed).size for seed in (0, 1, 10, 11))
    roads = sum(int((ids(seed) == 0).sum()) for seed in (0, 1, 10, 11))
    assert "2 videos, 4 frames, 4 labelled; 30x20 (4); 0 defects" in shown
    assert f"{roads / total:.2%}" in shown
    assert all(name in shown for name in (*NAMES, "(ignored)"))
    picture = np.asarray(Image.open(tmp_path / "look.png"))
    left, right = picture[26:100, 8:328], picture[26:100, 336:656]  # the first frame and its coloured twin
    assert left.std() < 3
    assert len(np.unique(right.reshape(-1, 3), axis=0)) >= 4  # three classes and the plain frame


def test_the_picture_lies_in_the_working_folder_by_default(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_check(own / "dataset.toml")
    assert (tmp_path / "check_own.png").is_file()


def test_every_defect_is_named_and_the_exit_code_follows_the_policy(own, tmp_path, capsys):
    mask = own / "masks" / "a" / "0001.png"
    mask.write_bytes(b"")
    save(own / "masks" / "b" / "0000.png", np.full((20, 30), 9, np.uint8))
    (own / "frames" / "b" / "0001.jpg").write_bytes((own / "frames" / "b" / "0001.jpg").read_bytes()[:200])
    (own / "masks" / "b" / "0001.png").write_bytes(b"no picture")
    assert run_check(own, out=tmp_path / "look.png") == 2
    lines = capsys.readouterr().out.splitlines()
    for path in ("a/0001.png", "b/0000.png", "b/0001.jpg", "b/0001.png"):  # the last two belong together: both are told
        assert sum(path in line and "; " in line for line in lines) == 1, path
    assert run_check(own, policy="skip", out=tmp_path / "look.png") == 0
    counts = {policy: check(own, policy=policy).splits[0] for policy in ("strict", "skip", "ignore")}
    assert {policy: (split.frames, split.labelled) for policy, split in counts.items()} == {
        "strict": (1, 1),
        "skip": (1, 1),
        "ignore": (3, 3),
    }
    assert int(counts["ignore"].pixels[255]) == 4 + 600 + 600  # the lost mask and the unknown ids


@pytest.mark.parametrize("kind", ["vspw", "folder"])
@pytest.mark.parametrize(
    ("line", "words"), [("gone", "the video is listed but not there"), ("train_1/99999999", "the frame is listed but not there")]
)
def test_what_a_list_names_and_is_not_there_is_told_with_its_cause(tmp_path, kind, line, words):
    root, name = write_vspw_like(tmp_path, ("train",)), "train.txt"
    (root / name).write_text(f"train_1/00000000\n{line}\n")
    if kind == "folder":
        (root / "frames").mkdir()
        (root / "data" / "train_1" / "origin").rename(root / "frames" / "train_1")
        (root / "data").rename(root / "other")
        (root / "dataset.toml").write_text('name = "own"\nframes = "frames"\n[splits]\ntrain = "train.txt"\n')
    (defect,) = check(root, kind=kind, split="train").defects
    assert defect.line.startswith(f"{root / name}: {line}: {words}; ")


def test_all_splits_unless_one_is_asked_for(tmp_path):
    root = write_vspw_like(tmp_path)
    result = check(root)
    assert [(split.name, split.clips) for split in result.splits] == [("train", 1), ("val", 1)]
    assert result.splits[0].label_set.name == "vspw124"
    assert [split.name for split in check(root, split="val").splits] == ["val"]


def test_a_video_in_two_splits_is_noted(tmp_path):
    root = write_vspw_like(tmp_path)
    (root / "val.txt").write_text("val_1\ntrain_1")
    assert check(root).warnings == ("video train_1 is in train and in val",)


@pytest.mark.parametrize(
    ("val", "count"), [('["b"]', 0), ('["a/0001", "b"]', 1), ('"all"', 2)], ids=["apart", "a frame in both", "a video in both"]
)
def test_frames_in_two_splits_of_own_data_are_a_warning(own, tmp_path, capsys, val, count):
    text = (own / "dataset.toml").read_text()
    (own / "dataset.toml").write_text(text.replace('train = "all"', f'train = ["a"]\nval = {val}'))
    assert run_check(own, out=tmp_path / "look.png") == 0
    warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert [line.split(",")[0] for line in warned] == [f"warning: {count} frames are in train and in val"] * bool(count)


@pytest.mark.parametrize(("ignored", "warned"), [(11, True), (10, False)])
def test_labels_that_are_mostly_ignored_are_a_warning_and_no_error(tmp_path, capsys, ignored, warned):
    root = write_own(tmp_path / "own")
    labels = ids(0)
    labels[:] = np.arange(20)[:, None] % 3
    labels[:ignored] = 255
    for mask in (root / "masks").rglob("*.png"):
        save(mask, labels)
    import_frames(root / "frames", root / "masks", root / "classes.txt", root)
    assert run_check(root, out=tmp_path / "look.png") == 0
    assert ("warning: train: 55% of the pixels of labelled frames are ignored" in capsys.readouterr().out) == warned


def test_a_video_is_read_to_its_end(tmp_path):
    result = check(write_video(tmp_path / "drive.mp4", 30, rotation=90))
    (split,) = result.splits
    assert (result.kind, split.frames, dict(split.sizes), list(split.rates)) == ("video", 30, {(64, 48): 30}, [29.97])
    path = write_video(tmp_path / "cut.mp4", 30, container={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    (split,) = check(path).splits
    assert 5 < split.frames < 30
    assert [defect.kind for defect in split.defects] == ["truncated"]


def test_described_videos_with_masks(tmp_path):
    write_video(tmp_path / "drive.mp4", 12)
    for index in (3, 7):
        save(tmp_path / "masks" / "drive" / f"{index:08d}.png", ids(index, (48, 64) if index == 3 else (20, 30)))
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    import_any(tmp_path / "drive.mp4", tmp_path, masks=tmp_path / "masks", classes=tmp_path / "classes.txt")
    (split,) = check(tmp_path).splits
    assert (split.frames, split.labelled) == (11, 1)
    assert [defect.kind for defect in split.defects] == ["size_mismatch"]
    text = (tmp_path / "dataset.toml").read_text()
    (tmp_path / "dataset.toml").write_text(text.replace("frames = 12", "frames = 14"))
    assert "frame_count" in [defect.kind for defect in check(tmp_path).splits[0].defects]


@pytest.mark.parametrize(
    ("sign", "kind", "splits"),
    [
        ("dataset.toml", "folder", None),
        ("data/v/origin/1.jpg", "vspw", ("train",)),
        ("images/training/1.jpg", "ade20k", ("training",)),
        ("leftImg8bit/val/city/1_leftImg8bit.png", "cityscapes", ("val",)),
        ("stuffthingmaps/val2017/1.png", "coco_stuff", ("val",)),
        ("annotations/panoptic_train2017.json", "coco_panoptic", ("train",)),
    ],
)
def test_data_sets_are_known_by_their_folders(tmp_path, sign, kind, splits):
    (tmp_path / sign).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / sign).write_bytes(b"")
    assert detect_kind(tmp_path) == kind
    assert splits is None or splits_of(tmp_path, kind) == splits


def test_panoptic_masks_beside_their_json_are_no_pixel_maps(tmp_path):
    for name in ("panoptic_train2017.json", "panoptic_train2017/1.png"):
        (tmp_path / "annotations" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "annotations" / name).write_bytes(b"")
    assert detect_kind(tmp_path) == "coco_panoptic"


def test_ade20k_is_checked_without_naming_it(tmp_path):
    save(tmp_path / "images" / "validation" / "ADE_val_00000001.jpg", frame(1)[..., 0])  # grey, as some are
    save(tmp_path / "annotations" / "validation" / "ADE_val_00000001.png", np.full((20, 30), 150, np.uint8))
    (split,) = check(tmp_path).splits
    assert (split.name, split.labelled, int(split.pixels[149])) == ("validation", 1, 600)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "the folder is empty"),
        (lambda root: (root / "notes.md").write_text("x"), "no data set is known by these folders"),
        (lambda root: save(root / "1.jpg", frame(1)), "semivss data import"),
        (lambda root: (root / "labelmap.txt").write_text("x"), "a CVAT export; .*semivss data import"),
        (lambda root: (root / "data" / "v").mkdir(parents=True), "data/<video>/origin"),
    ],
)
def test_what_is_no_data_set_is_told_with_the_way_to_make_it_one(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(DataError, match=words):
        check(tmp_path)


def test_zips_and_strange_files(tmp_path):
    (tmp_path / "task.zip").write_bytes(b"PK")
    (tmp_path / "table.csv").write_bytes(b"1")
    with pytest.raises(DataError, match=r"task\.zip: a CVAT export; .*semivss data import"):
        check(tmp_path / "task.zip")
    with pytest.raises(DataError, match=r"table\.csv: neither a data set nor a video"):
        check(tmp_path / "table.csv")
    with pytest.raises(DataError, match="no such file"):
        check(tmp_path / "nothing")
