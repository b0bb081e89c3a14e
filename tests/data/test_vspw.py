"""The VSPW layout: lists, frames as the key, masks where they may be opened, and the known defects of the released files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semivss.data.clips import Clip
from semivss.data.labels import vspw124
from semivss.data.policy import DefectCounter, read_labels, read_pair
from semivss.data.source import open_source
from semivss.data.vspw import read_vspw
from semivss.errors import DataError, DefectError
from semivss.settings import Source


def write(path: Path, array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(array, np.uint8)).save(path)
    return path


def frame(root: Path, video: str, stem: str, height=4, width=6, suffix=".jpg") -> Path:
    return write(root / "data" / video / "origin" / f"{stem}{suffix}", np.full((height, width, 3), 90))


def mask(root: Path, video: str, stem: str, values=None) -> Path:
    return write(root / "data" / video / "mask" / f"{stem}.png", np.full((4, 6), 1) if values is None else values)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training videos, one whose name begins with - after its number, and one test video without masks."""
    root = tmp_path / "VSPW_480p"
    for video, stems in {"1_abc": ("00001173", "00001175", "00001180"), "1_-x_y-": ("00000009", "00000010")}.items():
        for stem in stems:
            frame(root, video, stem)
            mask(root, video, stem, [[0, 1, 2, 124, 255, 1]] * 4)
    frame(root, "7_test", "00000001", 16, 9)
    (root / "train.txt").write_text("1_abc\n1_-x_y-\n")
    (root / "test.txt").write_text("7_test\n")
    return root


def test_clips_follow_the_list_and_frames_their_names(root):
    dataset = read_vspw(root, "train")
    assert [clip.name for clip in dataset.clips] == ["1_abc", "1_-x_y-"]
    assert list(dataset.clips[0].stems) == ["00001173", "00001175", "00001180"]
    assert all(isinstance(clip, Clip) for clip in dataset.clips)
    assert dataset.name == "VSPW_480p"
    assert dataset.label_set == vspw124()
    assert dataset.defects == {}
    assert [stem for stem, _ in dataset.clips[1].stream()] == ["00000009", "00000010"]


def test_a_video_without_any_mask_among_labelled_ones_is_recorded(root):
    folder = root / "data" / "1_-x_y-" / "mask"
    for path in folder.iterdir():
        path.unlink()
    assert read_vspw(root, "train").defects == {"missing_mask": [str(folder)]}
    assert read_vspw(root, "test").defects == {}
    (root / "few.txt").write_text("1_abc\n")
    assert read_vspw(root, "train", labelled="few.txt").defects == {}


def test_the_mask_encoding(root):
    labels = read_vspw(root, "train").clips[0].labels(0)
    assert labels.dtype == np.uint8
    assert labels[0].tolist() == [255, 0, 1, 123, 255, 0]


def test_a_test_split_has_no_masks_and_portrait_frames_stay_upright(root):
    (clip,) = read_vspw(root, "test").clips
    assert not clip.is_labelled(0)
    assert clip.frame(0).shape == (16, 9, 3)
    pair, defects = read_pair(clip, 0, "strict")
    assert pair.labels is None
    assert defects == ()
    with pytest.raises(IndexError, match="no labels"):
        clip.labels(0)


@pytest.mark.parametrize(
    "text", ["1_abc\r\n1_-x_y-\r\n", "1_abc\n1_-x_y-", "\n1_abc\n\n  1_-x_y-  \n\n", "\ufeff1_abc\n1_-x_y-\n", "1_abc\n1_-x_y-\n1_abc\n"]
)
def test_lists_of_any_make(root, text):
    (root / "train.txt").write_bytes(text.encode())
    assert [clip.name for clip in read_vspw(root, "train").clips] == ["1_abc", "1_-x_y-"]


def test_without_lists_every_video_counts(root):
    for path in root.glob("*.txt"):
        path.unlink()
    (root / "data" / ".hidden").mkdir()
    assert [clip.name for clip in read_vspw(root, "train").clips] == ["1_-x_y-", "1_abc", "7_test"]


def test_a_list_of_frames_is_a_split(root):
    (root / "semi").mkdir()
    (root / "semi/some.txt").write_text("1_abc/00001175\n1_-x_y-\n")
    assert [list(clip.stems) for clip in read_vspw(root, "semi/some.txt").clips] == [["00001175"], ["00000009", "00000010"]]


def test_dot_files_are_not_frames(root):
    for name in ("origin/._00001173.jpg", "mask/._00001173.png", "origin/.DS_Store"):
        (root / "data/1_abc" / name).write_bytes(b"\0\5\x16\7")
    dataset = read_vspw(root, "train")
    assert len(dataset.clips[0].stems) == 3
    assert dataset.defects == {}


def test_frames_are_the_key(root):
    """A frame without a mask stays, a mask without a frame goes, both are said."""
    gone = root / "data/1_abc/mask/00001175.png"
    gone.unlink()
    orphan = mask(root, "1_abc", "00009999")
    dataset = read_vspw(root, "train")
    clip = dataset.clips[0]
    assert [clip.is_labelled(index) for index in range(3)] == [True, False, True]
    assert dataset.defects == {"missing_mask": [str(gone)], "missing_frame": [str(orphan)]}
    assert str(DefectCounter(dataset.defects)) == "missing_frame 1, missing_mask 1"


def test_png_and_jpeg_frames_mix(root):
    frame(root, "1_abc", "00001174", suffix=".png")
    frame(root, "1_abc", "00001176", suffix=".JPEG")
    assert list(read_vspw(root, "train").clips[0].stems) == ["00001173", "00001174", "00001175", "00001176", "00001180"]


# --- which masks may be opened


@pytest.mark.parametrize("line", ["1_abc/00001175", "1_abc/00001175.jpg"])
def test_only_the_listed_masks_are_opened(root, line):
    (root / "labelled.txt").write_text(f"{line}\n")
    for path in root.glob("data/*/mask/*.png"):
        if path.stem != "00001175":
            path.unlink()
    dataset = read_vspw(root, "train", labelled="labelled.txt")
    labelled = [(clip.name, stem) for clip in dataset.clips for index, stem in enumerate(clip.stems) if clip.is_labelled(index)]
    assert labelled == [("1_abc", "00001175")]
    assert sum(len(clip.stems) for clip in dataset.clips) == 5
    assert dataset.defects == {}
    assert dataset.clips[0].labels(1)[0, 1] == 0


def test_masks_outside_the_list_are_never_touched(root):
    (root / "labelled.txt").write_text("1_-x_y-\n")
    for path in (root / "data/1_abc/mask").iterdir():
        path.write_bytes(b"not a mask")
    dataset = read_vspw(root, "train", labelled="labelled.txt")
    pairs = [read_pair(clip, index, "strict")[0] for clip in dataset.clips for index in range(len(clip.stems))]
    assert [pair.labels is None for pair in pairs] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("line", "kind"), [("1_abc/00000001", "listed_frame"), ("9_none", "listed_frame"), ("1_abc/00001173", "missing_mask")]
)
def test_a_labelled_list_that_promises_too_much(root, line, kind):
    (root / "data/1_abc/mask/00001173.png").unlink()
    (root / "labelled.txt").write_text(f"1_abc/00001175\n{line}\n")
    with pytest.raises(DefectError, match=line) as caught:
        read_vspw(root, "train", labelled="labelled.txt")
    assert caught.value.kind == kind
    dataset = read_vspw(root, "train", labelled="labelled.txt", policy="skip")
    assert dataset.defects == {kind: [f"{root / 'labelled.txt'}: {line}"]}


def test_an_unlabelled_stream_has_no_masks_at_all(root):
    dataset = open_source(Source(kind="vspw", path=str(root)), labels=False)
    assert not any(clip.is_labelled(0) for clip in dataset.clips)
    assert read_pair(dataset.clips[0], 0, "strict")[0].labels is None


# --- what is missing or wrong


def test_a_listed_video_that_is_missing(root):
    (root / "train.txt").write_text("1_abc\n5_gone\n")
    with pytest.raises(DefectError, match=r"train\.txt: video 5_gone has no folder .*; correct the list"):
        read_vspw(root, "train")
    dataset = read_vspw(root, "train", policy="skip")
    assert [clip.name for clip in dataset.clips] == ["1_abc"]
    assert dataset.defects == {"missing_video": [f"{root / 'train.txt'}: 5_gone"]}


def test_an_empty_video(root):
    (root / "data/3_empty/origin").mkdir(parents=True)
    (root / "train.txt").write_text("1_abc\n3_empty\n")
    with pytest.raises(DefectError, match="3_empty/origin: no frames"):
        read_vspw(root, "train")
    assert list(read_vspw(root, "train", policy="ignore").defects) == ["empty_video"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list is empty"),
        ("\n\n", "list is empty"),
        ("a/b/c\n", "neither <video> nor"),
        ("../x\n", "neither"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_lists_that_are_wrong(root, text, message):
    (root / "train.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_vspw(root, "train")


def test_folders_and_lists_that_are_not_there(root, tmp_path):
    with pytest.raises(DataError, match=r"val\.txt: no such list; the folder has train\.txt, test\.txt"):
        read_vspw(root, "val")
    with pytest.raises(DataError, match="no folder 'data'"):
        read_vspw(tmp_path / "elsewhere", "train")
    (tmp_path / "empty/data").mkdir(parents=True)
    with pytest.raises(DataError, match="no videos"):
        read_vspw(tmp_path / "empty", "train")


# --- other classes


def classes_file(root: Path, table) -> None:
    (root / "label_num_dic_final.json").write_text(json.dumps(table))


def test_the_class_list_of_the_folder(root):
    classes_file(root, {"others": "0", "sky": "1", "zebra": "2"})
    (root / "categories.json").write_text(
        json.dumps([{"id": 0, "name": "sky", "color": [1, 2, 3]}, {"id": 1, "name": "zebra", "color": [4, 5, 6]}])
    )
    dataset = read_vspw(root, "train")
    assert dataset.label_set.names == ("sky", "zebra")
    assert dataset.label_set.colors == ((1, 2, 3), (4, 5, 6))
    with pytest.raises(DefectError, match="mask value 124"):
        dataset.clips[0].labels(0)


def test_the_distributed_class_list_is_vspw(root):
    classes_file(root, {"others": "0"} | {name: str(index + 1) for index, name in enumerate(vspw124().names)})
    assert read_vspw(root, "train").label_set == vspw124()


@pytest.mark.parametrize("table", [{"a": "1", "b": "3"}, {"a": "one", "b": "2"}, ["a", "b"], {"a": "1"}])
def test_class_lists_that_are_wrong(root, table):
    classes_file(root, table)
    with pytest.raises(DataError):
        read_vspw(root, "train")


@pytest.mark.parametrize(
    "text", ["{", '[{"name": "sky"}]', '[{"name": "sky", "color": [1, 2, 300]}, {"name": "zebra", "color": [1, 2, 3]}]']
)
def test_class_colours_that_are_wrong(root, text):
    classes_file(root, {"sky": "1", "zebra": "2"})
    (root / "categories.json").write_text(text)
    with pytest.raises(DataError, match=r"categories\.json"):
        read_vspw(root, "train")


def test_a_remap_leads_to_the_target_classes(root):
    names = ("sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car", "pedestrian", "bicyclist")
    classes_file(root, {"others": "0"} | {name: str(index + 1) for index, name in enumerate(names)})
    mask(root, "1_abc", "00001173", [[0, 1, 2, 11, 255, 9]] * 4)
    dataset = open_source(Source(kind="vspw", path=str(root), remap="camvid11_to_vspw124"))
    assert dataset.label_set == vspw124()
    assert dataset.clips[0].labels(0)[0].tolist() == [255, 28, 21, 255, 255, 48]
    with pytest.raises(DataError, match="choose its map"):
        open_source(Source(kind="vspw", path=str(root), remap="ade20k150_to_vspw124"))


# --- policies


def damage(root: Path, what: str) -> str:
    path = root / "data/1_abc" / ("origin/00001175.jpg" if what.endswith("frame") else "mask/00001175.png")
    match what:
        case "empty frame" | "empty mask":
            path.write_bytes(b"")
        case "cut frame" | "cut mask":
            path.write_bytes(path.read_bytes()[:-20])
        case "stray value":
            mask(root, "1_abc", "00001175", [[1, 2, 252, 0, 255, 3]] * 4)
        case "other size":
            mask(root, "1_abc", "00001175", np.ones((3, 6)))
        case "colour mask":
            write(path, np.ones((4, 6, 3)))
    return str(path)


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("empty frame", "zero_byte"),
        ("cut frame", "truncated"),
        ("empty mask", "zero_byte"),
        ("cut mask", "truncated"),
        ("stray value", "unknown_id"),
        ("other size", "size_mismatch"),
        ("colour mask", "mask_rgb"),
    ],
)
def test_policies(root, what, kind):
    path = damage(root, what)
    clip = read_vspw(root, "train").clips[0]
    with pytest.raises(DefectError) as caught:
        read_pair(clip, 1, "strict")
    assert (caught.value.kind, caught.value.path) == (kind, path)
    assert "\n" not in str(caught.value)
    assert read_pair(clip, 1, "skip") == (None, ((kind, path),))
    pair, defects = read_pair(clip, 1, "ignore")
    assert defects == ((kind, path),)
    if what.endswith("frame"):
        assert pair is None
    elif what == "stray value":
        assert pair.labels[0].tolist() == [0, 1, 255, 255, 255, 2]
    else:
        assert pair.labels.shape == (4, 6)
        assert (pair.labels == 255).all()
    sound, none = read_pair(clip, 0, "skip")
    assert sound.labels[0, 1] == 0
    assert none == ()


def test_labels_alone_follow_the_policy_too(root):
    damage(root, "stray value")
    damage_path = damage(root, "stray value")
    clip = read_vspw(root, "train").clips[0]
    assert read_labels(clip, 1, "ignore")[0][0].tolist() == [0, 1, 255, 255, 255, 2]
    assert read_labels(clip, 1, "skip") == (None, (("unknown_id", damage_path),))
    with pytest.raises(DefectError):
        read_labels(clip, 1, "strict")
    damage(root, "cut mask")
    assert read_labels(clip, 1, "ignore")[0] is None


def test_the_counter_counts_files_not_readings():
    counter = DefectCounter()
    for path in ("b", "a", "a"):
        counter.add([("truncated", path)])
    other = DefectCounter({"truncated": ["a", "c"], "zero_byte": ["d"], "none": []})
    counter.merge(other)
    assert counter.counts() == {"truncated": 3, "zero_byte": 1}
    assert counter.to_dict(limit=2)["truncated"] == {"count": 3, "files": ["a", "b"]}
    assert DefectCounter.from_dict(counter.to_dict(limit=None)).counts() == counter.counts()
    assert str(counter) == "truncated 3, zero_byte 1"
    assert counter
    assert not DefectCounter()


# --- real video


@pytest.mark.parametrize(("split", "frames"), [("train", 367), ("val", 101), ("test", 122)])
def test_camvid_counts(camvid, split, frames):
    dataset = read_vspw(camvid, split)
    assert sum(len(clip.stems) for clip in dataset.clips) == frames
    assert all(clip.is_labelled(index) for clip in dataset.clips for index in range(len(clip.stems)))
    assert dataset.label_set.name == "camvid11"
    assert dataset.defects == {}
    assert dataset.clips[0].frame(0).shape == (360, 480, 3)


@pytest.mark.parametrize(
    ("split", "shares"),
    [
        ("train", (3.95, 16.85, 23.26, 0.98, 31.66, 4.49, 9.72, 1.17, 1.13, 5.87, 0.64, 0.29)),
        ("val", (1.70, 9.18, 25.96, 0.56, 28.95, 8.72, 16.34, 0.89, 3.08, 1.75, 0.65, 2.22)),
        ("test", (4.92, 17.19, 21.62, 0.99, 22.58, 7.45, 16.23, 0.58, 1.19, 6.25, 0.73, 0.28)),
    ],
)
def test_camvid_pixel_shares(camvid, split, shares):
    counts = np.zeros(256, np.int64)
    for clip in read_vspw(camvid, split).clips:
        for index in range(len(clip.stems)):
            counts += np.bincount(clip.labels(index).ravel(), minlength=256)
    percent = 100 * counts / counts.sum()
    assert [percent[255], *percent[:11]] == pytest.approx(shares, abs=0.0051)


def test_camvid_lists_are_nested_and_name_frames_that_exist(camvid):
    labelled = {}
    for parts, count in ((32, 11), (16, 23), (8, 46), (4, 92)):
        dataset = read_vspw(camvid, "train", labelled=f"semi/frames_1_{parts}_seed0_labeled.txt")
        labelled[parts] = {(clip.name, stem) for clip in dataset.clips for index, stem in enumerate(clip.stems) if clip.is_labelled(index)}
        assert len(labelled[parts]) == count
    assert labelled[32] < labelled[16] < labelled[8] < labelled[4]
