"""Still-picture data sets in their real layouts, with the traps of the real formats."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semivss.data.labels import label_set, vspw124
from semivss.data.policy import read_pair
from semivss.data.source import open_source
from semivss.data.stills import PanopticReader, read_ade20k, read_cityscapes, read_coco_panoptic, read_coco_stuff
from semivss.errors import DataError, DefectError
from semivss.settings import Source

VSPW = vspw124().names


def write(path: Path, array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(array, np.uint8)).save(path)
    return path


def picture(path: Path, grey=False, width=4) -> Path:
    return write(path, np.full((2, width) if grey else (2, width, 3), 120))


def names_at(dataset, index=0):
    """Class names along the first row of a clip's mask; None for ignored pixels."""
    return [None if label == 255 else dataset.label_set.names[label] for label in dataset.clips[index].labels(0)[0]]


# --- ADE20K


@pytest.fixture
def ade(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    picture(root / "images/training/ADE_train_00000001.jpg", grey=True)
    picture(root / "images/training/ADE_train_00000002.jpg")
    write(root / "annotations/training/ADE_train_00000001.png", [[0, 1, 2, 150]] * 2)
    write(root / "annotations/training/ADE_train_00000002.png", [[13, 13, 255, 0]] * 2)
    picture(root / "images/validation/ADE_val_00000001.jpg")
    write(root / "annotations/validation/ADE_val_00000001.png", [[21, 21, 21, 21]] * 2)
    return root


def test_ade20k_in_its_own_classes(ade):
    dataset = read_ade20k(ade, "train")
    assert [(clip.name, tuple(clip.stems)) for clip in dataset.clips] == [
        (f"ADE_train_0000000{i}", (f"ADE_train_0000000{i}",)) for i in (1, 2)
    ]
    assert names_at(dataset) == [None, "wall", "building", "flag"]
    assert names_at(dataset, 1) == ["person", "person", None, None]
    assert dataset.label_set == label_set("ade20k150")
    assert dataset.defects == {}


def test_ade20k_remapped_once(ade):
    dataset = open_source(Source(kind="ade20k", path=str(ade), split="val", remap="ade20k150_to_vspw124"))
    assert dataset.label_set == vspw124()
    assert names_at(dataset) == ["car"] * 4


def test_a_grey_jpeg_becomes_rgb(ade):
    assert read_ade20k(ade, "training").clips[0].frame(0).shape == (2, 4, 3)


def test_a_label_outside_the_map(ade):
    path = write(ade / "annotations/training/ADE_train_00000001.png", [[151, 151, 1, 2]] * 2)
    clip = read_ade20k(ade, "train", remap="ade20k150_to_vspw124").clips[0]
    with pytest.raises(DefectError, match=r"mask value 151 \(4 pixels\)") as caught:
        read_pair(clip, 0, "strict")
    assert caught.value.path == str(path)
    pair, _ = read_pair(clip, 0, "ignore")
    assert pair.labels[0].tolist() == [255, 255, 0, 21]


def test_ade20k_files_that_do_not_pair(ade):
    (ade / "annotations/training/ADE_train_00000002.png").unlink()
    write(ade / "annotations/training/ADE_train_00000009.png", [[1]])
    dataset = read_ade20k(ade, "train")
    assert [clip.is_labelled(0) for clip in dataset.clips] == [True, False]
    assert {kind: [Path(name).stem[-1] for name in names] for kind, names in dataset.defects.items()} == {
        "missing_mask": ["2"],
        "missing_frame": ["9"],
    }


def test_a_list_of_labelled_pictures(ade):
    (ade / "labelled.txt").write_text("ADE_train_00000002\n")
    (ade / "annotations/training/ADE_train_00000001.png").unlink()
    dataset = open_source(Source(kind="ade20k", path=str(ade), labelled="labelled.txt"))
    assert [clip.is_labelled(0) for clip in dataset.clips] == [False, True]
    assert dataset.defects == {}
    (ade / "labelled.txt").write_text("ADE_train_00000001\n")
    with pytest.raises(DefectError, match="ADE_train_00000001 is no labelled picture"):
        read_ade20k(ade, "train", labelled="labelled.txt")
    assert read_ade20k(ade, "train", labelled="labelled.txt", policy="skip").defects == {"missing_mask": ["ADE_train_00000001"]}


@pytest.mark.parametrize("read", [read_ade20k, read_coco_stuff, read_coco_panoptic, read_cityscapes])
def test_an_empty_folder_names_what_was_expected(read, tmp_path):
    with pytest.raises(DataError, match="no pictures"):
        read(tmp_path, "train")


def test_the_map_of_another_set_is_refused(ade):
    with pytest.raises(DataError, match="choose ade20k150_to_vspw124"):
        read_ade20k(ade, "train", remap="cityscapes19_to_vspw124")


# --- COCO-Stuff

GAPS = [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90]


def coco_pictures(root, layout):
    for stem in ("000000000009", "000000000025"):
        picture(root / layout / "train2017" / f"{stem}.jpg", grey=stem.endswith("25"))


@pytest.mark.parametrize(("images", "masks"), [(".", "stuffthingmaps"), ("images", "annotations")])
def test_coco_stuff_in_both_layouts(tmp_path, images, masks):
    coco_pictures(tmp_path, images)
    write(tmp_path / masks / "train2017/000000000009.png", [[0, 12, 181, 255]] * 2)
    write(tmp_path / masks / "train2017/000000000025.png", [[11, 89, 91, 2]] * 2)
    dataset = read_coco_stuff(tmp_path, "train")
    assert len(dataset.label_set) == 171
    assert names_at(dataset) == ["person", "stop sign", "wood", None]
    assert names_at(dataset, 1) == [None, "toothbrush", "banner", "car"]
    assert dataset.clips[1].frame(0).shape == (2, 4, 3)
    remapped = read_coco_stuff(tmp_path, "train", remap="coco_stuff171_to_vspw124")
    assert names_at(remapped)[:2] == ["person", "billboard_or_Bulletin_Board"]


def test_the_gaps_of_coco_never_reach_a_class(tmp_path):
    picture(tmp_path / "val2017/1.jpg", width=256)
    write(tmp_path / "stuffthingmaps/val2017/1.png", np.arange(182)[None].repeat(2, 0))
    labels = read_coco_stuff(tmp_path, "val").clips[0].labels(0)[0]
    assert np.flatnonzero(labels == 255).tolist() == GAPS
    assert labels[labels != 255].tolist() == list(range(171))
    write(tmp_path / "stuffthingmaps/val2017/1.png", [[182, 1]])
    with pytest.raises(DefectError, match="mask value 182"):
        read_coco_stuff(tmp_path, "val").clips[0].labels(0)


def test_contiguous_coco_files_are_preferred(tmp_path):
    coco_pictures(tmp_path, "images")
    for stem in ("000000000009", "000000000025"):
        write(tmp_path / f"annotations/train2017/{stem}.png", [[181] * 4] * 2)
        write(tmp_path / f"annotations/train2017/{stem}_labelTrainIds.png", [[0, 11, 170, 255]] * 2)
    dataset = read_coco_stuff(tmp_path, "train")
    assert names_at(dataset) == ["person", "stop sign", "wood", None]
    assert dataset.defects == {}
    assert names_at(read_coco_stuff(tmp_path, "train", remap="coco_stuff171_to_vspw124"))[1] == "billboard_or_Bulletin_Board"


# --- COCO panoptic


def rgb(ids):
    ids = np.asarray(ids)
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)


@pytest.fixture
def panoptic(tmp_path):
    """A person, a crowd, a stop sign (category 13, after a gap) and a segment id that needs all three bytes."""
    picture(tmp_path / "val2017/000000000139.jpg", width=5)
    write(tmp_path / "annotations/panoptic_val2017/000000000139.png", rgb([[0, 3, 700, 3_226_956, 70_000]] * 2))
    segments = [(3_226_956, 13, 0), (3, 1, 0), (700, 1, 1), (70_000, 200, 0)]
    info = [{"id": i, "category_id": c, "iscrowd": crowd, "bbox": [0, 0, 1, 1], "area": 1} for i, c, crowd in segments]
    tree = {
        "annotations": [{"image_id": 139, "file_name": "000000000139.png", "segments_info": info}],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "annotations/panoptic_val2017.json").write_text(json.dumps(tree))
    return tmp_path


def test_panoptic_segments_are_looked_up(panoptic):
    assert names_at(read_coco_panoptic(panoptic, "val")) == [None, "person", None, "stop sign", "rug-merged"]
    dataset = open_source(Source(kind="coco_panoptic", path=str(panoptic), split="val", remap="coco_panoptic133_to_vspw124"))
    assert names_at(dataset) == [None, "person", None, "billboard_or_Bulletin_Board", "cushion_or_carpet"]


def test_a_segment_that_the_json_file_does_not_have(panoptic):
    write(panoptic / "annotations/panoptic_val2017/000000000139.png", rgb([[3, 4, 4, 4, 16_777_215]] * 2))
    clip = read_coco_panoptic(panoptic, "val").clips[0]
    with pytest.raises(DefectError, match=r"segment 4 \(8 pixels") as caught:
        clip.labels(0)
    assert caught.value.kind == "unknown_id"
    pair, _ = read_pair(clip, 0, "ignore")
    assert pair.labels[0].tolist() == [0, 255, 255, 255, 255]


def test_grey_files_in_the_place_of_panoptic_masks(panoptic):
    write(panoptic / "annotations/panoptic_val2017/000000000139.png", [[1] * 5] * 2)
    with pytest.raises(DefectError, match="grey picture"):
        read_coco_panoptic(panoptic, "val").clips[0].labels(0)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"annotations": [{"file_name": "a.png", "segments_info": [{"id": 1, "category_id": 12}]}]}']
)
def test_panoptic_json_files_that_are_wrong(panoptic, content):
    (panoptic / "annotations/panoptic_val2017.json").write_text(content)
    with pytest.raises(DataError, match=r"panoptic_val2017\.json"):
        read_coco_panoptic(panoptic, "val")


def test_a_picture_that_the_json_file_does_not_have(panoptic):
    (panoptic / "annotations/panoptic_val2017.json").write_text('{"annotations": []}')
    with pytest.raises(DefectError, match="not in the panoptic JSON"):
        read_coco_panoptic(panoptic, "val").clips[0].labels(0)


@settings(max_examples=30, deadline=None)
@given(segments=st.dictionaries(st.integers(1, 2**24 - 1), st.integers(0, 132), min_size=1, max_size=12), seed=st.integers(0, 999))
def test_any_segment_ids_are_found(tmp_path_factory, segments, seed):
    ids = np.array([0, *sorted(segments)], np.int64)
    classes = np.array([255, *(segments[i] for i in sorted(segments))], np.uint8)
    choice = np.random.default_rng(seed).integers(0, len(ids), (3, 7))
    path = write(tmp_path_factory.mktemp("panoptic") / "a.png", rgb(ids[choice]))
    assert (PanopticReader({"a": (ids, classes)})(path) == classes[choice]).all()


# --- Cityscapes


def city(root, split="train", forms=("labelIds",)):
    for name in ("aachen", "zurich"):
        stem = f"{name}_000001_000019"
        picture(root / f"leftImg8bit/{split}/{name}/{stem}_leftImg8bit.png")
        for form in forms:
            values = [7, 0, 33, 26] if form == "labelIds" else [0, 255, 18, 13]
            write(root / f"gtFine/{split}/{name}/{stem}_gtFine_{form}.png", [values] * 2)
        write(root / f"gtFine/{split}/{name}/{stem}_gtFine_color.png", rgb([[1, 2, 3, 4]]))


@pytest.mark.parametrize("forms", [("labelIds",), ("labelTrainIds",), ("labelIds", "labelTrainIds")])
def test_cityscapes_in_both_forms(tmp_path, forms):
    city(tmp_path, forms=forms)
    dataset = read_cityscapes(tmp_path, "train")
    assert [clip.name for clip in dataset.clips] == ["aachen_000001_000019", "zurich_000001_000019"]
    assert dataset.clips[0].stems == ("aachen_000001_000019",)
    assert names_at(dataset, 1) == ["road", None, "bicycle", "car"]
    assert dataset.defects == {}
    remapped = open_source(Source(kind="cityscapes", path=str(tmp_path), remap="cityscapes19_to_vspw124"))
    assert names_at(remapped) == ["road", None, "bicycle", "car"]
    assert set(names_at(remapped)) - {None} <= set(VSPW)


def test_a_split_without_annotations_is_unlabelled(tmp_path):
    city(tmp_path, "test", forms=())
    dataset = read_cityscapes(tmp_path, "test")
    assert not any(clip.is_labelled(0) for clip in dataset.clips)
    assert dataset.defects == {}
