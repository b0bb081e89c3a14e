"""Importing own frames, masks, CVAT exports and videos: right ids, nothing overwritten, nothing outside, nothing half written."""

import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.owndata import COLORS, NAMES, color_mask, frame, ids, save, write_own
from tests.data.videos import write_video

from semivss.data import archive
from semivss.data.cvat import import_cvat
from semivss.data.description import load_description
from semivss.data.folder import read_folder
from semivss.data.importer import import_any, import_frames, import_videos
from semivss.data.unused import unused_files
from semivss.errors import DataError, DefectError

LABEL_MAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\n" + "".join(
    f"{name}:{','.join(map(str, color))}::\n" for name, color in zip(NAMES, COLORS, strict=True)
)


def write_cvat(
    path: Path, masks: dict[str, np.ndarray | Image.Image], label_map: str = LABEL_MAP, pictures: bool = True, **lists: str
) -> Path:
    """A CVAT export; a mask is an array or a picture."""
    root = path.with_suffix("")
    for name, mask in masks.items():
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        (root / "SegmentationClass" / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / "SegmentationClass" / f"{name}.png")
        save(root / "SegmentationObject" / f"{name}.png", frame(1))
        if pictures:
            save(root / "JPEGImages" / f"{name}.jpg", frame(3, (image.height, image.width)))
    (root / "labelmap.txt").write_text(label_map)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, text in (lists or {"default": "\n".join(masks)}).items():
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(text)
    with zipfile.ZipFile(path, "w") as archive_file:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive_file.write(file, file.relative_to(root))
    return path


@pytest.mark.parametrize(("offset", "colors"), [(0, False), (1, False), (0, True)])
def test_frames_and_masks_become_a_data_set(tmp_path, offset, colors):
    own = write_own(tmp_path / "own", offset=offset, colors=colors)
    given = offset or None  # 0, ignored, and 1 to 3: as in VSPW
    import_any(own / "frames", tmp_path / "out", masks=own / "masks", classes=own / "classes.txt", offset=given)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset.toml"]
    dataset = read_folder(tmp_path / "out", "train")
    assert dataset.label_set.names == NAMES
    for clip, base in zip(dataset.clips, (0, 10), strict=True):
        for index in range(2):
            np.testing.assert_array_equal(clip.labels(index), ids(base + index))


def test_a_data_set_described_in_place_can_move(tmp_path):
    own = write_own(tmp_path / "own")
    import_frames(own / "frames", own / "masks", own / "classes.txt", own)
    own.rename(tmp_path / "moved")
    assert len(read_folder(tmp_path / "moved", "train").clips) == 2


def test_palette_masks_are_ids_unless_their_colours_are_the_classes(tmp_path):
    palette = bytes([9, 9, 9, 200, 0, 0, 0, 200, 0]) + bytes(759)
    for kind in ("ids", "colours"):
        own = write_own(tmp_path / kind, videos=("a",), frames=1, colors=kind == "colours")
        if kind == "ids":
            save(own / "masks" / "a" / "0000.png", ids(0), palette)
        else:
            Image.fromarray(color_mask(ids(0))).quantize(8).save(own / "masks" / "a" / "0000.png")
        import_frames(own / "frames", own / "masks", own / "classes.txt", tmp_path / f"{kind}_out")
        np.testing.assert_array_equal(read_folder(tmp_path / f"{kind}_out", "train").clips[0].labels(0), ids(0))


def test_grey_masks_with_an_alpha_channel_are_ids(tmp_path):
    own = write_own(tmp_path / "own", videos=("a",), frames=1)
    Image.fromarray(ids(0)).convert("LA").save(own / "masks" / "a" / "0000.png")
    import_frames(own / "frames", own / "masks", own / "classes.txt", tmp_path / "out")
    np.testing.assert_array_equal(read_folder(tmp_path / "out", "train").clips[0].labels(0), ids(0))


def test_masks_that_fit_two_readings_need_an_offset(tmp_path):
    own = write_own(tmp_path / "own", videos=("a",), frames=1)
    save(own / "masks" / "a" / "0000.png", np.where(ids(0) == 0, 1, ids(0)))  # 1, 2 and 255 of three classes
    with pytest.raises(DataError, match=r"0000\.png: the masks hold 1 to 2 and never 0, so 'road' .*--offset 0 or --offset 1"):
        import_any(own / "frames", tmp_path / "out", masks=own / "masks", classes=own / "classes.txt")
    for offset in (0, 1):
        out = tmp_path / f"out{offset}"
        import_any(own / "frames", out, masks=own / "masks", classes=own / "classes.txt", offset=offset)
        labels = read_folder(out, "train").clips[0].labels(0)
        assert set(np.unique(labels)) == {1 - offset, 2 - offset, 255}


@pytest.mark.parametrize(
    ("values", "first"),
    [
        ((0, 1, 2), 0),
        ((0, 1, 2, 255), 0),
        ((0, 2), 0),
        ((1, 2, 3), 1),
        ((1, 3, 255), 1),
        ((255,), 0),  # nothing is labelled
        ((0, 1, 2, 3), None),  # with VSPW's 0 for others, or with a stray 3
        ((0, 3, 255), None),
        ((0, 1), None),
        ((0,), None),
        ((1, 2), None),
        ((2, 3), None),
        ((1,), None),
    ],
)
def test_the_first_class_is_found_only_where_one_reading_fits_end_to_end(tmp_path, capsys, values, first):
    own = write_own(tmp_path / "own", videos=("a",), frames=2)
    pixels = np.resize(np.array(values[:-1] or values, np.uint8), (20, 30))
    save(own / "masks" / "a" / "0000.png", pixels)
    pixels[7, 7] = values[-1]  # the last value is one pixel of one file
    save(own / "masks" / "a" / "0001.png", pixels)
    words = {"masks": own / "masks", "classes": own / "classes.txt"}
    if first is None:
        with pytest.raises(DefectError, match="say which with --offset 0 or --offset 1") as caught:
            import_any(own / "frames", tmp_path / "out", **words)
        holds_highest = caught.value.path
        assert max(np.unique(np.asarray(Image.open(holds_highest))), key=lambda value: value % 255) == max(v % 255 for v in values)
        assert not (tmp_path / "out").exists()
    else:
        import_any(own / "frames", tmp_path / "out", **words)
        assert f"value {first} is 'road', value {first + 2} is 'car'" in capsys.readouterr().err
        assert load_description(tmp_path / "out" / "dataset.toml").masks.offset == first


def test_one_stray_pixel_shifts_no_class(tmp_path):
    own = write_own(tmp_path / "own")
    labels = ids(11)
    labels[5, 5] = 3
    save(own / "masks" / "b" / "0001.png", labels)
    words = {"masks": own / "masks", "classes": own / "classes.txt"}
    with pytest.raises(DefectError, match=r"b/0001\.png: the masks hold 0 to 3, one value more than the 3 classes: 'road' is value 1"):
        import_any(own / "frames", tmp_path / "out", **words)
    with pytest.raises(DefectError, match=r"b/0001\.png: mask value 3 stands for no class: .* lists 3, from value 0 on"):
        import_any(own / "frames", tmp_path / "out", **words, offset=0)


def test_frames_alone_are_unlabelled(tmp_path):
    own = write_own(tmp_path / "own")
    import_any(own / "frames", tmp_path / "out")
    clips = read_folder(tmp_path / "out", "train").clips
    assert [len(clip.stems) for clip in clips] == [2, 2]
    assert not any(clip.is_labelled(0) for clip in clips)


def test_files_that_are_no_part_of_the_data_set_are_named(tmp_path, capsys):
    own = write_own(tmp_path / "own")
    frames = own / "frames"
    for place in ("a/0002.bmp", "a/0003.bmp", "a/0000.png", "b/more/0000.jpg"):
        save(frames / place, frame(1))
    (frames / "drive.MP4").write_bytes(b"a video beside folders of frames")
    (frames / "a" / ".0000.jpg").write_bytes(b"AppleDouble")
    (own / "masks" / "notes.txt").write_text("x")
    import_any(frames, frames / "set", masks=own / "masks", classes=own / "classes.txt")
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")]
    assert told == [
        f"left out: 2 .bmp in {frames}, such as a/0002.bmp",
        f"left out: 1 .jpg in {frames}, such as b/more/0000.jpg",
        f"left out: 1 .mp4 in {frames}, such as drive.MP4",
        f"left out: 1 .png in {frames}, such as a/0000.png",
        f"left out: 1 .txt in {own / 'masks'}, such as notes.txt",
    ]


@pytest.mark.parametrize("together", [False, True])
def test_nothing_is_left_out_of_a_clean_folder(tmp_path, capsys, together):
    own = write_own(tmp_path / "own")
    if together:  # frames and masks in one folder
        for mask in (own / "masks").rglob("*.png"):
            mask.rename(own / "frames" / mask.parent.name / mask.name)
    masks = own / ("frames" if together else "masks")
    import_any(own / "frames", own, masks=masks, classes=own / "classes.txt")
    assert "left out" not in capsys.readouterr().err
    assert all(clip.is_labelled(0) for clip in read_folder(own, "train").clips)


def test_linked_folders_are_part_of_the_data_set_and_loops_end(tmp_path, capsys):
    own = write_own(tmp_path / "own")
    (own / "frames" / "a").rename(tmp_path / "elsewhere")
    (own / "frames" / "a").symlink_to(tmp_path / "elsewhere")
    import_any(own / "frames", tmp_path / "out")
    (own / "frames" / "b" / "loop").symlink_to(own / "frames")
    assert [clip.name for clip in read_folder(tmp_path / "out", "train").clips] == ["a", "b"]
    assert list(unused_files(read_folder(tmp_path / "out", "train"), [own / "frames"], tmp_path / "out")) == []
    assert "left out" not in capsys.readouterr().err


def test_videos_that_were_not_taken_are_named(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4", 5)
    (tmp_path / "in" / "b.wmv2").write_bytes(b"x")
    import_any(tmp_path / "in", tmp_path / "out")
    assert f"left out: 1 .wmv2 in {tmp_path / 'in'}, such as b.wmv2" in capsys.readouterr().err


def test_nothing_is_overwritten_without_force(tmp_path):
    own = write_own(tmp_path / "own")
    import_any(own / "frames", tmp_path / "out")
    before = (tmp_path / "out" / "dataset.toml").read_bytes()
    with pytest.raises(DataError, match=r"dataset\.toml: exists; .*--force"):
        import_any(own / "frames", tmp_path / "out", masks=own / "masks", classes=own / "classes.txt")
    assert (tmp_path / "out" / "dataset.toml").read_bytes() == before
    import_any(own / "frames", tmp_path / "out", masks=own / "masks", classes=own / "classes.txt", force=True)
    assert read_folder(tmp_path / "out", "train").clips[0].is_labelled(0)


def _id_outside(own: Path) -> None:
    save(own / "masks" / "b" / "0001.png", np.full((20, 30), 4, np.uint8))


def _truncated(own: Path) -> None:
    path = own / "masks" / "b" / "0001.png"
    path.write_bytes(path.read_bytes()[:-20])


def _rgb(own: Path) -> None:
    save(own / "masks" / "b" / "0001.png", color_mask(ids(0)))


def _jpeg_mask(own: Path) -> None:
    (own / "masks" / "b" / "0001.png").unlink()
    save(own / "masks" / "b" / "0001.jpg", ids(11))


def _no_masks(own: Path) -> None:
    for path in (own / "masks").rglob("*.png"):
        path.unlink()


def _no_frames(own: Path) -> None:
    for path in (own / "frames").rglob("*.jpg"):
        path.unlink()


def _other_names(own: Path) -> None:
    (own / "masks").rename(own / "m")
    (own / "m" / "a").rename(own / "masks")


def _four_misnamed(own: Path) -> None:
    for path in (own / "masks").rglob("*.png"):
        path.with_stem(f"{path.stem}_mask").write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_four_misnamed, r"masks/a/0000_mask\.png: the mask has no frame \(4 such masks\); add the frame, or rename or remove the mask"),
        (lambda own: (own / "frames" / "c").mkdir(), r"frames/c: the folder holds no frames"),
        (_id_outside, r"b/0001\.png: mask value 4 stands for no class"),
        (_truncated, r"b/0001\.png: .*cut short"),
        (_rgb, r"b/0001\.png: the mask shows colours; give every class of .*classes\.txt its colour"),
        (_jpeg_mask, r"b/0001\.jpg: the mask is a JPEG, which changes ids when it compresses; write the masks as PNG"),
        (_no_masks, r"masks: no masks"),
        (_no_frames, r"frames: no pictures"),
        (_other_names, r"masks/0000\.png: none of the masks has the name of a frame"),
        (lambda own: (own / "classes.txt").write_text(""), r"classes\.txt: the class list is empty"),
    ],
)
def test_what_does_not_fit_is_one_line_and_writes_nothing(tmp_path, spoil, words):
    own = write_own(tmp_path / "own")
    spoil(own)
    with pytest.raises(DataError, match=words) as caught:
        import_frames(own / "frames", own / "masks", own / "classes.txt", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_cvat_colours_become_ids_by_the_label_map(tmp_path):
    masks = {"v1/frame_000000": color_mask(ids(0)), "v1/frame_000001": color_mask(ids(1)), "v2/frame_000000": color_mask(ids(2))}
    import_any(write_cvat(tmp_path / "task.zip", masks), tmp_path / "out")
    dataset = read_folder(tmp_path / "out", "train")
    assert dataset.label_set.names == NAMES
    assert [(clip.name, tuple(clip.stems)) for clip in dataset.clips] == [
        ("v1", ("frame_000000", "frame_000001")),
        ("v2", ("frame_000000",)),
    ]
    np.testing.assert_array_equal(dataset.clips[0].labels(1), ids(1))
    with Image.open(tmp_path / "out" / "masks" / "v1" / "frame_000001.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), ids(1))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.toml", "frames", "masks"]


def test_cvat_background_can_be_a_class(tmp_path):
    import_any(write_cvat(tmp_path / "task.zip", {"f": color_mask(ids(0))}), tmp_path / "out", background_class=True)
    dataset = read_folder(tmp_path / "out", "train")
    assert dataset.label_set.names == ("background", *NAMES)
    np.testing.assert_array_equal(dataset.clips[0].labels(0), ids(0) + np.uint8(1))  # 255 + 1 = 0, the background


def test_cvat_one_channel_masks_palette_rows_and_grey_colours(tmp_path):
    palette = Image.fromarray(color_mask(ids(0))).quantize(8)
    rows = np.where(ids(1) == 255, 0, ids(1) + 1).astype(np.uint8)  # row numbers of the label map
    import_any(write_cvat(tmp_path / "task.zip", {"a": palette, "b": rows}), tmp_path / "out")
    (clip,) = read_folder(tmp_path / "out", "train").clips
    np.testing.assert_array_equal(clip.labels(0), ids(0))
    np.testing.assert_array_equal(clip.labels(1), ids(1))
    greys = "dark:2,2,2::\nlight:1,1,1::\n"  # a label map of greys: the value is the colour, not the row
    import_any(write_cvat(tmp_path / "grey.zip", {"a": np.array([[0, 1, 2]], np.uint8)}, greys), tmp_path / "grey_out")
    np.testing.assert_array_equal(read_folder(tmp_path / "grey_out", "train").clips[0].labels(0), [[255, 1, 0]])


def test_cvat_subsets_become_splits(tmp_path):
    masks = {"v1/a": color_mask(ids(0)), "v2/a": color_mask(ids(1))}
    import_any(write_cvat(tmp_path / "task.zip", masks, Train="v1/a\n", Validation="v2/a\n"), tmp_path / "out")
    assert [clip.name for clip in read_folder(tmp_path / "out", "validation").clips] == ["v2"]


def test_cvat_masks_of_a_video_task_fit_the_video(tmp_path):
    write_video(tmp_path / "drive.mp4", 12)
    zipped = write_cvat(tmp_path / "task.zip", {"frame_000007": color_mask(ids(0, (48, 64)))}, pictures=False)
    import_any(zipped, tmp_path / "out", frames=tmp_path / "drive.mp4")
    (clip,) = read_folder(tmp_path / "out", "train").clips
    assert [index for index in range(12) if clip.is_labelled(index)] == [7]
    np.testing.assert_array_equal(clip.labels(7), ids(0, (48, 64)))


def test_cvat_masks_without_a_frame_are_told_by_their_place_in_the_export(tmp_path):
    zipped = write_cvat(tmp_path / "task.zip", {"v1/a": color_mask(ids(0)), "v1/b": color_mask(ids(1))}, pictures=False)
    save(tmp_path / "frames" / "v1" / "a.png", frame(1))
    with pytest.raises(DefectError, match=r"^masks/v1/b\.png: the mask has no frame"):
        import_any(zipped, tmp_path / "out", frames=tmp_path / "frames")
    assert not (tmp_path / "out").exists()


def test_cvat_with_frames_given_apart_and_an_unpacked_export(tmp_path):
    zipped = write_cvat(tmp_path / "task.zip", {"v1/a": color_mask(ids(0))}, pictures=False)
    with pytest.raises(DataError, match=r"task\.zip: holds masks but no pictures; .*--frames"):
        import_any(zipped, tmp_path / "out")
    save(tmp_path / "frames" / "v1" / "a.png", frame(1))
    import_any(zipped.with_suffix(""), tmp_path / "out", frames=tmp_path / "frames")
    np.testing.assert_array_equal(read_folder(tmp_path / "out", "train").clips[0].labels(0), ids(0))


def test_cvat_force_replaces_old_masks_as_a_whole(tmp_path):
    import_any(write_cvat(tmp_path / "one.zip", {"a": color_mask(ids(0)), "b": color_mask(ids(1))}), tmp_path / "out")
    import_any(write_cvat(tmp_path / "two.zip", {"a": color_mask(ids(2))}), tmp_path / "out", force=True)
    (clip,) = read_folder(tmp_path / "out", "train").clips
    assert clip.stems == ("a",)
    np.testing.assert_array_equal(clip.labels(0), ids(2))


@pytest.mark.parametrize(
    ("label_map", "words"),
    [
        ("road:128,64,128::\nsky:128,64,128::\n", "colour 128,64,128 stands for two classes"),
        ("road:128,64,128::\nsky:::\n", "line 'sky:::' has no colour"),
        ("road\n", "not of the form name:r,g,b:parts:actions"),
        ("road:128,64,128::\nsky:70,130,180::\n", r"a\.png: colour 0,0,142 \(\d+ pixels\) stands for no class"),
    ],
)
def test_cvat_label_maps_that_do_not_fit(tmp_path, label_map, words):
    with pytest.raises(DataError, match=words):
        import_cvat(write_cvat(tmp_path / "task.zip", {"a": color_mask(ids(0))}, label_map), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _spoiled(path: Path, name: str, mode: int = 0, data: bytes = b"x") -> Path:
    write_cvat(path, {"a": color_mask(ids(0))})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        member.compress_type = zipfile.ZIP_DEFLATED
        file.writestr(member, data)
    return path


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "SegmentationClass/../../evil.png", "..\\evil.png", "C:evil.png"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(DefectError, match=r"would leave the folder") as caught:
        import_any(_spoiled(tmp_path / "in" / "task.zip", name), tmp_path / "out")
    assert caught.value.kind == "unsafe_zip"
    assert not list(tmp_path.rglob("evil*"))
    assert not (tmp_path / "out").exists()


def test_links_are_refused(tmp_path):
    with pytest.raises(DefectError, match="is a link or device"):
        import_any(
            _spoiled(tmp_path / "in" / "task.zip", "SegmentationClass/b.png", stat.S_IFLNK | 0o777, b"/etc/passwd"), tmp_path / "out"
        )


def test_bombs_are_refused(tmp_path, monkeypatch):
    bomb = _spoiled(tmp_path / "in" / "task.zip", "SegmentationClass/b.png", data=bytes(5_000_000))
    with pytest.raises(DefectError, match="packed more than 100-fold"):
        import_any(bomb, tmp_path / "out")
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(DefectError, match=r"unpacks to .* GB"):
        import_any(write_cvat(tmp_path / "task.zip", {"a": color_mask(ids(0))}), tmp_path / "out")


@pytest.mark.parametrize(("cut", "kind"), [(300, "truncated"), (0, "not_zip")])
def test_a_broken_zip_is_one_line(tmp_path, cut, kind):
    path = write_cvat(tmp_path / "task.zip", {"a": color_mask(ids(0))})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DefectError, match=r"task\.zip: not a complete zip") as caught:
        import_any(path, tmp_path / "out")
    assert caught.value.kind == kind


def test_bare_videos_become_an_unlabelled_set(tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4", 5)
    write_video(tmp_path / "in" / "b.mov", 7, rotation=90)
    import_any(tmp_path / "in", tmp_path / "out")
    dataset = read_folder(tmp_path / "out", "train")
    assert [(clip.name, len(clip.stems), clip.frame(0).shape) for clip in dataset.clips] == [("a", 5, (48, 64, 3)), ("b", 7, (64, 48, 3))]


def test_videos_with_masks(tmp_path):
    write_video(tmp_path / "a.mp4", 5)
    save(tmp_path / "masks" / "a" / "00000003.png", ids(0, (48, 64)))
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    import_videos(tmp_path / "a.mp4", tmp_path / "out", masks=tmp_path / "masks", classes=tmp_path / "classes.txt")
    np.testing.assert_array_equal(read_folder(tmp_path / "out", "train").clips[0].labels(3), ids(0, (48, 64)))


def test_a_damaged_video_is_named_and_nothing_written(tmp_path):
    write_video(tmp_path / "a.mp4", 5)
    (tmp_path / "b.mp4").write_bytes(b"")
    with pytest.raises(DefectError, match=r"b\.mp4: the file is empty"):
        import_any(tmp_path, tmp_path / "new" / "out")
    assert not (tmp_path / "new" / "out").exists()


def test_a_source_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        import_any(tmp_path / "nowhere", tmp_path / "out")


def test_a_vspw_folder_is_a_data_set_already(tmp_path):
    save(tmp_path / "set" / "data" / "v1" / "origin" / "1.jpg", frame(1))
    with pytest.raises(DataError, match=r'set: a data set in the VSPW layout already.*kind = "vspw"'):
        import_any(tmp_path / "set", tmp_path / "out")
    assert not (tmp_path / "out").exists()
