"""Label sets, label maps and the tables made of them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semivss.data.labels import LabelSet, StrayValuesError, label_map_names, label_set, load_label_map, offset_table, source_table, vspw124
from semivss.data.remap import remap_tree
from semivss.errors import DataError, DefectError

SETS = {"vspw124": 124, "ade20k150": 150, "coco_stuff171": 171, "coco_panoptic133": 133, "cityscapes19": 19, "camvid11": 11}
MAPPED = {  # classes with a counterpart, from the table in the maps' documentation
    "ade20k150_to_vspw124": 139,
    "coco_stuff171_to_vspw124": 156,
    "coco_panoptic133_to_vspw124": 125,
    "cityscapes19_to_vspw124": 19,
    "camvid11_to_vspw124": 10,
    "vspw124_to_camvid11": 33,
}


@pytest.mark.parametrize("name", SETS)
def test_label_sets_have_their_classes(name):
    classes = label_set(name)
    assert len(classes) == len(classes.colors) == len(classes.things) == SETS[name]
    assert len(classes.palette()) == 768
    assert tuple(classes.palette()[3:6]) == classes.colors[1]
    if name != "vspw124":  # there two classes share a colour
        assert len(set(classes.colors)) == len(classes)


def test_vspw_has_58_things_and_known_names():
    assert sum(vspw124().things) == 58
    assert vspw124().names[0] == "wall"
    assert vspw124().names[123] == "train"


@pytest.mark.parametrize("name", MAPPED)
def test_every_target_name_stands_at_its_id(name):
    label_map = load_label_map(name)
    assert label_map.source_names == label_set(name.split("_to_")[0]).names
    assert (label_map.ids != 255).sum() == (label_map.table != 255).sum() == MAPPED[name]
    assert (label_map.ids[len(label_map.source_names) :] == 255).all()
    assert label_map.known[label_map.table != 255].all()
    assert set(label_map_names()) == set(MAPPED)


@pytest.mark.parametrize(
    ("name", "value", "target"),
    [
        ("ade20k150_to_vspw124", 1, "wall"),
        ("ade20k150_to_vspw124", 13, "person"),
        ("ade20k150_to_vspw124", 0, None),
        ("coco_stuff171_to_vspw124", 0, "person"),
        ("coco_stuff171_to_vspw124", 2, "car"),
        ("coco_stuff171_to_vspw124", 12, "billboard_or_Bulletin_Board"),  # after the first gap
        ("coco_stuff171_to_vspw124", 11, None),  # a gap
        ("cityscapes19_to_vspw124", 7, "road"),
        ("cityscapes19_to_vspw124", 33, "bicycle"),
        ("cityscapes19_to_vspw124", 1, None),
        ("camvid11_to_vspw124", 1, "sky"),
        ("camvid11_to_vspw124", 11, None),
        ("vspw124_to_camvid11", 29, "sky"),
    ],
)
def test_single_mask_values(name, value, target):
    label_map = load_label_map(name)
    classes = label_set(label_map.target)
    assert label_map.known[value]
    assert label_map.table[value] == (255 if target is None else classes.names.index(target))


def test_panoptic_categories_are_looked_up_by_category_id():
    label_map = load_label_map("coco_panoptic133_to_vspw124")
    assert len(label_map.category_table) == 133
    assert label_map.category_table[1] == vspw124().names.index("person")
    assert label_map.category_table[13] == vspw124().names.index("billboard_or_Bulletin_Board")
    assert 12 not in label_map.category_table


def test_unknown_names_list_the_known_ones():
    with pytest.raises(DataError, match="ade20k150_to_vspw124"):
        load_label_map("ade_to_vspw")
    with pytest.raises(DataError, match="cityscapes19"):
        label_set("cityscapes")


def test_label_sets_refuse_what_eight_bits_cannot_say():
    with pytest.raises(DataError, match="2 to 254"):
        LabelSet("one", ("a",), ((0, 0, 0),), (False,))
    with pytest.raises(DataError, match="'a' is listed twice"):
        LabelSet("twice", ("a", "b", "a"), ((0, 0, 0),) * 3, (False,) * 3)


# --- tables


@given(st.lists(st.integers(0, 255), min_size=1, max_size=50))
def test_vspw_values_follow_the_subtract_with_wrap_around_rule(values):
    raw = np.array([values], np.uint8)
    expected = np.where(raw - np.uint8(1) >= 124, 255, raw - np.uint8(1))
    try:
        labels = offset_table(124, 1).apply(raw, "mask.png")
        assert set(values) <= {*range(125), 255}
    except StrayValuesError as error:
        assert set(values) & set(range(125, 255))
        labels = error.labels
    assert (labels == expected).all()


def test_stray_values_are_counted_in_the_message():
    raw = np.array([[0, 1, 252, 252, 130, 255]], np.uint8)
    with pytest.raises(DefectError, match=r"a\.png: mask value 252 \(2 pixels\) and 1 other value stands for no class") as caught:
        offset_table(124, 1).apply(raw, Path("a.png"))
    assert caught.value.kind == "unknown_id"


@given(st.lists(st.integers(0, 18), min_size=1, max_size=30))
def test_chained_tables_equal_two_look_ups(ids):
    ids = np.array([ids], np.uint8)
    chained = offset_table(19, 1).then(load_label_map("cityscapes19_to_vspw124").ids)
    assert (chained.apply(ids + np.uint8(1), "a") == load_label_map("cityscapes19_to_vspw124").ids[ids]).all()


@pytest.mark.parametrize("name", SETS)
def test_source_tables_reach_every_class_once(name):
    table = source_table(name) if name != "coco_panoptic133" else offset_table(133, 0)
    assert sorted(table.ids[table.ids != 255]) == list(range(SETS[name]))
    assert table.known[table.ids != 255].all()
    assert table.known[255]


# --- trees of masks


def write(path: Path, ids, mode="L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(ids, np.uint8)).convert(mode).save(path)
    return path


def test_a_tree_keeps_its_shape_and_gets_target_ids(tmp_path):
    write(tmp_path / "in/validation/a.png", [[1, 2, 0]])
    write(tmp_path / "in/validation/._a.png", [[9, 9, 9]])
    assert remap_tree(tmp_path / "in", tmp_path / "out", "ade20k150_to_vspw124") == 1
    with Image.open(tmp_path / "out/validation/a.png") as picture:
        assert picture.mode == "P"
        assert np.asarray(picture).tolist() == [[0, 21, 255]]
        assert tuple(picture.getpalette()[63:66]) == vspw124().colors[21]


def test_the_vspw_encoding_and_training_ids_as_source(tmp_path):
    write(tmp_path / "in/a.png", [[0, 1, 255]])
    remap_tree(tmp_path / "in", tmp_path / "out", "ade20k150_to_vspw124", encoding="vspw", source_ids=True)
    with Image.open(tmp_path / "out/a.png") as picture:
        assert np.asarray(picture).tolist() == [[1, 22, 0]]
        assert tuple(picture.getpalette()[66:69]) == vspw124().colors[21]


def test_only_the_masks_of_a_vspw_folder_are_read(tmp_path):
    Image.new("RGB", (3, 1)).save((tmp_path / "in/data/v/origin").mkdir(parents=True) or tmp_path / "in/data/v/origin/1.png")
    write(tmp_path / "in/data/v/mask/1.png", [[1, 11, 0]])
    assert remap_tree(tmp_path / "in", tmp_path / "out", "camvid11_to_vspw124") == 1
    with Image.open(tmp_path / "out/data/v/mask/1.png") as picture:
        assert np.asarray(picture).tolist() == [[28, 255, 255]]


def test_contiguous_files_are_recognised_by_their_names(tmp_path):
    write(tmp_path / "in/x_gtFine_labelTrainIds.png", [[0, 13, 255]])
    remap_tree(tmp_path / "in", tmp_path / "out", "cityscapes19_to_vspw124")
    with Image.open(tmp_path / "out/x_gtFine_labelTrainIds.png") as picture:
        assert np.asarray(picture).tolist() == [[18, 48, 255]]


def test_unknown_ids_stop_with_the_file_name(tmp_path):
    path = write(tmp_path / "in/a.png", [[1, 151, 0]])
    with pytest.raises(DefectError, match="mask value 151") as caught:
        remap_tree(tmp_path / "in", tmp_path / "out", "ade20k150_to_vspw124")
    assert caught.value.path == str(path)
    assert not list((tmp_path / "out").rglob("*")) if (tmp_path / "out").exists() else True


@pytest.mark.parametrize("out", ["in", "in/new"])
def test_the_source_is_never_written_into(tmp_path, out):
    write(tmp_path / "in/a.png", [[1]])
    with pytest.raises(DataError, match="choose another folder"):
        remap_tree(tmp_path / "in", tmp_path / out, "ade20k150_to_vspw124")


def test_an_empty_tree_and_panoptic_maps_are_errors(tmp_path):
    with pytest.raises(DataError, match="no PNG masks"):
        remap_tree(tmp_path, tmp_path.parent / "out", "ade20k150_to_vspw124")
    with pytest.raises(DataError, match="segments"):
        remap_tree(tmp_path, tmp_path.parent / "out", "coco_panoptic133_to_vspw124")
