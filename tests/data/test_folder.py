"""Own data through dataset.toml: layouts, encodings, splits, lists, and what a wrong description says."""

import numpy as np
import pytest
from PIL import Image
from tests.data.owndata import COLORS, NAMES, color_mask, frame, ids, save, write_own
from tests.data.videos import write_video

from semivss.data.clips import Clip
from semivss.data.description import FILE_NAME, Description, load_description, read_class_list, save_description
from semivss.data.folder import color_codes, read_folder
from semivss.data.policy import read_pair
from semivss.errors import DataError, DefectError

CLASSES = "".join(
    f'[[classes]]\nname = "{name}"\ncolor = [{", ".join(map(str, color))}]\n' for name, color in zip(NAMES, COLORS, strict=True)
)
IDS = '[masks]\nfolder = "masks"\n'


def describe(root, text: str) -> None:
    (root / FILE_NAME).write_text(text, encoding="utf-8")


def test_frames_and_masks_in_one_folder_a_video(tmp_path):
    describe(write_own(tmp_path), f'name = "own"\nframes = "frames"\n{IDS}{CLASSES}')
    dataset = read_folder(tmp_path, "train")
    assert [(clip.name, tuple(clip.stems)) for clip in dataset.clips] == [("a", ("0000", "0001")), ("b", ("0000", "0001"))]
    assert dataset.label_set.names == NAMES
    assert dataset.label_set.colors == COLORS
    assert all(isinstance(clip, Clip) for clip in dataset.clips)
    np.testing.assert_array_equal(dataset.clips[1].labels(1), ids(11))
    assert dataset.clips[0].frame(1).shape == (20, 30, 3)
    assert [stem for stem, _ in dataset.clips[0].stream()] == ["0000", "0001"]


def test_flat_folders_are_one_video_named_after_the_data_set(tmp_path):
    for index in range(3):
        save(tmp_path / "frames" / f"{index}.png", frame(index))
    save(tmp_path / "masks" / "1.png", ids(4))
    describe(tmp_path, f'name = "orchard"\nframes = "frames"\n{IDS}{CLASSES}')
    (clip,) = read_folder(tmp_path / FILE_NAME, "train").clips
    assert clip.name == "orchard"
    assert [clip.is_labelled(index) for index in range(3)] == [False, True, False]
    np.testing.assert_array_equal(clip.labels(1), ids(4))


def test_offset_shifts_ids_and_other_values_are_errors(tmp_path):
    describe(write_own(tmp_path, offset=1), f'name = "own"\nframes = "frames"\n{IDS}offset = 1\nignore = [0]\n{CLASSES}')
    clip = read_folder(tmp_path, "train").clips[0]
    np.testing.assert_array_equal(clip.labels(0), ids(0))
    save(tmp_path / "masks" / "a" / "0000.png", np.full((20, 30), 7, np.uint8))
    with pytest.raises(DefectError, match=r"a/0000\.png: mask value 7 \(600 pixels\) stands for no class") as caught:
        clip.labels(0)
    assert caught.value.kind == "unknown_id"


def test_255_without_permission_is_an_error(tmp_path):
    describe(write_own(tmp_path), f'name = "own"\nframes = "frames"\n{IDS}ignore = []\n{CLASSES}')
    with pytest.raises(DefectError, match="mask value 255"):
        read_folder(tmp_path, "train").clips[0].labels(0)


@pytest.mark.parametrize("stored", ["rgb", "palette", "rgba"])
def test_colour_coded_masks_are_read_by_exact_colour(tmp_path, stored):
    write_own(tmp_path, colors=True)
    picture = Image.fromarray(color_mask(ids(0)))
    if stored == "palette":  # palette positions in an order of their own
        picture = picture.quantize(8)
        assert not np.array_equal(np.asarray(picture), ids(0))
    picture.convert("RGBA" if stored == "rgba" else picture.mode).save(tmp_path / "masks" / "a" / "0000.png")
    describe(tmp_path, f'name = "own"\nframes = "frames"\n{IDS}encoding = "colors"\nignore_colors = [[0, 0, 0]]\n{CLASSES}')
    np.testing.assert_array_equal(read_folder(tmp_path, "train").clips[0].labels(0), ids(0))


def test_a_colour_that_stands_for_nothing_is_named(tmp_path):
    write_own(tmp_path, colors=True)
    colors = color_mask(ids(0))
    colors[5, 5] = (128, 64, 129)  # one level off: an anti-aliased or recompressed mask
    save(tmp_path / "masks" / "a" / "0000.png", colors)
    describe(tmp_path, f'name = "own"\nframes = "frames"\n{IDS}encoding = "colors"\nignore_colors = [[0, 0, 0]]\n{CLASSES}')
    with pytest.raises(DefectError, match=r"a/0000\.png: colour 128,64,129 \(1 pixels\) stands for no class") as caught:
        read_folder(tmp_path, "train").clips[0].labels(0)
    assert (caught.value.labels[5, 5], caught.value.labels[6, 6]) == (255, ids(0)[6, 6])


def test_two_classes_of_one_colour_cannot_be_told_apart():
    with pytest.raises(DataError, match="colour 1,2,3 stands for two classes"):
        color_codes(((1, 2, 3), (1, 2, 3)), ())


def test_splits_by_video_by_frame_and_by_list_file(tmp_path):
    (tmp_path / "val.txt").write_bytes(b"b\r\n")
    splits = '[splits]\ntrain = ["a"]\nsome = ["b/0001"]\nval = "val.txt"\neverything = "all"\n'
    describe(write_own(tmp_path), f'name = "own"\nframes = "frames"\n{IDS}{splits}{CLASSES}')
    found = {split: [(clip.name, *clip.stems) for clip in read_folder(tmp_path, split).clips] for split in ("train", "some", "val")}
    assert found == {"train": [("a", "0000", "0001")], "some": [("b", "0001")], "val": [("b", "0000", "0001")]}
    assert not read_folder(tmp_path, "some").defects
    with pytest.raises(DataError, match="no split 'test'; it has train, some, val, everything"):
        read_folder(tmp_path, "test")


def test_no_mask_outside_the_labelled_list_is_opened(tmp_path):
    describe(write_own(tmp_path), f'name = "own"\nframes = "frames"\n{IDS}{CLASSES}')
    (tmp_path / "few.txt").write_text("a/0001")
    (tmp_path / "masks" / "a" / "0000.png").unlink()
    (tmp_path / "masks" / "b" / "0000.png").unlink()
    dataset = read_folder(tmp_path, "train", labelled="few.txt")
    assert [[clip.is_labelled(index) for index in range(2)] for clip in dataset.clips] == [[False, True], [False, False]]


@pytest.mark.parametrize(("line", "kind"), [("c", "missing_video"), ("b/0009", "listed_frame")])
def test_a_list_that_names_what_is_missing(tmp_path, line, kind):
    describe(write_own(tmp_path), f'name = "own"\nframes = "frames"\n{IDS}[splits]\ntrain = ["a", "b/0000", "{line}"]\n{CLASSES}')
    with pytest.raises(DefectError, match=f"{line} is listed") as caught:
        read_folder(tmp_path, "train")
    assert caught.value.kind == kind
    dataset = read_folder(tmp_path, "train", policy="skip")
    assert [(clip.name, len(clip.stems)) for clip in dataset.clips] == [("a", 2), ("b", 1)]
    assert dataset.defects == {kind: [f"{tmp_path / FILE_NAME}: {line}"]}


def test_videos_with_masks_by_frame_number(tmp_path):
    write_video(tmp_path / "drive.mp4", 12)
    save(tmp_path / "masks" / "drive" / "00000007.png", ids(3, (48, 64)))
    save(tmp_path / "masks" / "drive" / "00000099.png", ids(3, (48, 64)))
    describe(tmp_path, f'name = "own"\n{IDS}[[videos]]\nname = "drive"\nfile = "drive.mp4"\nframes = 12\n{CLASSES}')
    with pytest.raises(DefectError, match=r"drive/00000099\.png: the mask has no frame; add the frame, or rename or remove the mask"):
        read_folder(tmp_path, "train")
    dataset = read_folder(tmp_path, "train", policy="skip")
    (clip,) = dataset.clips
    assert [index for index in range(12) if clip.is_labelled(index)] == [7]
    np.testing.assert_array_equal(clip.labels(7), ids(3, (48, 64)))
    assert clip.frame(7).shape == (48, 64, 3)
    assert dataset.defects == {"missing_frame": [str(tmp_path / "masks" / "drive" / "00000099.png")]}


def test_a_mask_of_another_size_than_its_video_is_named(tmp_path):
    write_video(tmp_path / "drive.mp4", 4)
    save(tmp_path / "masks" / "drive" / "00000002.png", ids(3, (24, 32)))
    describe(tmp_path, f'name = "own"\n{IDS}[[videos]]\nname = "drive"\nfile = "drive.mp4"\nframes = 4\n{CLASSES}')
    (clip,) = read_folder(tmp_path, "train").clips
    with pytest.raises(DefectError, match=r"masks/drive/00000002\.png: mask is 32x24, its frame 64x48"):
        read_pair(clip, 2, "strict")


@pytest.mark.parametrize("splits", ["", '[splits]\ntrain = ["a"]\n'])
def test_masks_without_a_frame_stop_strict_and_are_counted_otherwise(tmp_path, splits):
    write_own(tmp_path)
    gone = [tmp_path / "masks" / name for name in ("a/0007.png", "c/0000.png")]  # no such frame, no such video
    for path in gone:
        save(path, ids(0))
    describe(tmp_path, f'name = "own"\nframes = "frames"\n{IDS}{splits}{CLASSES}')
    with pytest.raises(DefectError, match=r"a/0007\.png: the mask has no frame \(2 such masks\); add the frame") as caught:
        read_folder(tmp_path, "train")
    assert caught.value.kind == "missing_frame"
    for policy in ("skip", "ignore"):
        assert read_folder(tmp_path, "train", policy=policy).defects == {"missing_frame": [str(path) for path in gone]}
    (tmp_path / "few.txt").write_text("a/0001")
    assert not read_folder(tmp_path, "train", labelled="few.txt").defects  # the list says which masks are meant


def test_a_folder_without_frames_stops_strict(tmp_path):
    (write_own(tmp_path) / "frames" / "c").mkdir()
    describe(tmp_path, f'name = "own"\nframes = "frames"\n{IDS}{CLASSES}')
    with pytest.raises(DefectError, match=r"frames/c: the folder holds no frames; add \.jpg or \.png frames"):
        read_folder(tmp_path, "train")
    assert read_folder(tmp_path, "train", policy="skip").defects == {"empty_video": [str(tmp_path / "frames" / "c")]}


def test_masks_and_description_among_the_frames_are_no_videos(tmp_path):
    own = write_own(tmp_path)
    (own / "masks").rename(own / "frames" / "masks")
    (own / "frames" / "set").mkdir()
    describe(own / "frames" / "set", f'name = "own"\nframes = ".."\n[masks]\nfolder = "../masks"\n{CLASSES}')
    assert [clip.name for clip in read_folder(own / "frames" / "set", "train").clips] == ["a", "b"]


def test_masks_whose_names_fit_no_frame_are_told(tmp_path):
    write_own(tmp_path, videos=("a",))
    for path in (tmp_path / "masks" / "a").iterdir():
        path.rename(path.with_stem(f"{path.stem}_mask"))
    describe(tmp_path, f'name = "own"\nframes = "frames"\n{IDS}{CLASSES}')
    with pytest.raises(DataError, match=r"0000_mask\.png: none of the masks has the name of a frame"):
        read_folder(tmp_path, "train")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "own"\nframs = "frames"\n', r"unknown key 'frams'; did you mean 'frames'"),
        ('name = "own"\nframes = "frames"\n[masks]\nfolder = "masks"\nofset = 1\n', r"unknown key 'masks.ofset'; did you mean 'offset'"),
        ('name = "own"\n', "needs a folder of frames or a list of videos"),
        ('name = "own"\nframes = "frames"\n[masks]\nfolder = "masks"\n', "masks need classes"),
        ('name = "own"\nframes = "frames"\nname = "again"\n', "not valid TOML"),
        ('name = "own"\nframes = "frames"\n[masks]\nfolder = "masks"\noffset = "one"\n', "key 'masks.offset'.*integer"),
        ('name = "own"\nframes = "nowhere"\n', "nowhere: no such folder"),
        (f'name = "own"\nframes = "frames"\n{IDS}[[classes]]\nname = "only"\n', "give 2 to 254 classes"),
        (
            f'name = "own"\nframes = "frames"\n{IDS}encoding = "colors"\n[[classes]]\nname = "a"\n[[classes]]\nname = "b"\n',
            "give every class its color",
        ),
    ],
)
def test_a_wrong_description_is_one_line(tmp_path, text, words):
    describe(write_own(tmp_path), text)
    with pytest.raises(DataError, match=words) as caught:
        read_folder(tmp_path, "train")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value) or "label set" in str(caught.value)


def test_a_folder_without_description_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"no description of the data set; write it with `semivss data import"):
        read_folder(tmp_path, "train")


def test_a_description_survives_writing_and_reading(tmp_path):
    text = f'name = "own"\nframes = "frames"\n{IDS}offset = 1\nignore = [0, 255]\n[splits]\ntrain = ["a"]\n{CLASSES}'
    describe(tmp_path, text)
    loaded = load_description(tmp_path / FILE_NAME)
    save_description(loaded, tmp_path / "again.toml")
    assert load_description(tmp_path / "again.toml") == loaded
    assert isinstance(loaded, Description)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("c.txt", "road\r\nsky\r\ncar", [("road", None), ("sky", None), ("car", None)]),
        ("c.txt", "# ours\n\nroad: 1,2,3\nsky : 4, 5, 6\n", [("road", (1, 2, 3)), ("sky", (4, 5, 6))]),
        ("c.json", '{"id2label": {"1": "sky", "0": "road"}}', [("road", None), ("sky", None)]),
        ("c.json", '["road", "sky"]', [("road", None), ("sky", None)]),
    ],
)
def test_class_lists(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert [(row.name, row.color) for row in read_class_list(tmp_path / name)] == expected


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.txt", "", "is empty"),
        ("c.txt", "road: 1,2", "line 'road: 1,2' has no colour"),
        ("c.txt", "road: 1,2,300", "three numbers 0..255"),
        ("c.json", '{"1": "sky"}', "ids 0, 1, 2"),
        ("c.json", "{", "correct it"),
    ],
)
def test_wrong_class_lists_are_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        read_class_list(tmp_path / name)
