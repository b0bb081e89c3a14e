"""The toy world as files: what the VSPW reader gets back."""

import json

import numpy as np
import pytest
from PIL import Image

from semivss.data.palette import colorize
from semivss.data.toy import toy_dataset, toy_labels
from semivss.data.toy_files import write_toy, write_vspw
from semivss.data.vspw import read_vspw
from semivss.errors import DataError
from semivss.settings import Toy

SIZE = (60, 80)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("toy") / "set"
    splits = {
        "train": Toy(clips=2, labelled_clips=1, frames=3, size=SIZE),
        "val": Toy(clips=1, labelled_clips=None, frames=3, size=SIZE, first_clip=1000),
    }
    write_vspw(out, splits, flow=True)
    return out, splits


def test_the_vspw_reader_gives_back_labels_exactly_and_frames_nearly(written):
    out, splits = written
    source, back = toy_dataset(splits["val"]), read_vspw(out, "val")
    assert back.label_set.names == toy_labels().names
    assert back.label_set.colors == toy_labels().colors
    assert back.label_set.things == toy_labels().things
    assert [clip.name for clip in back.clips] == ["1000_toy0"]
    for index in range(3):
        np.testing.assert_array_equal(back.clips[0].labels(index), source.clips[0].labels(index))
        error = back.clips[0].frame(index).astype(int) - source.clips[0].frame(index)
        assert np.sqrt((error**2).mean()) < 8


def test_masks_hold_the_id_plus_one_and_zero_for_no_class(written):
    out, splits = written
    image = Image.open(out / "data" / "0000_toy0" / "mask" / "00000001.png")
    mask = np.asarray(image)
    labels = toy_dataset(splits["train"]).clips[0].labels(1)
    np.testing.assert_array_equal(mask, np.where(labels == 255, 0, labels + 1))
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colorize(labels, toy_labels().colors))
    table = json.loads((out / "label_num_dic_final.json").read_text())
    assert table["others"] == "0"
    assert table["wall"] == "1"
    assert table["tree"] == "12"


def test_unlabelled_clips_have_no_masks(written):
    out, _ = written
    assert (out / "data" / "0000_toy0" / "mask").is_dir()
    assert not (out / "data" / "0001_toy0" / "mask").exists()
    assert len(list((out / "data" / "0001_toy0" / "origin").iterdir())) == 3


def test_flow_files_hold_the_flow_to_the_next_frame(written):
    out, splits = written
    folder = out / "data" / "1000_toy0" / "flow"
    assert sorted(path.name for path in folder.iterdir()) == ["00000000.npz", "00000001.npz"]
    with np.load(folder / "00000001.npz") as stored:
        clip = toy_dataset(splits["val"]).clips[0]
        np.testing.assert_array_equal(stored["flow"], clip.flow(1))
        np.testing.assert_array_equal(stored["visible"], clip.visible(1))


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(DataError, match="is not empty; give a new folder"):
        write_toy(tmp_path, clips=1, frames=1, size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_splits_that_share_a_clip_are_refused(tmp_path):
    toy = Toy(clips=2, labelled_clips=None, frames=1, size=SIZE)
    with pytest.raises(DataError, match="share a clip"):
        write_vspw(tmp_path / "set", {"train": toy, "val": toy})
    assert not (tmp_path / "set").exists()


def test_write_toy_makes_three_splits(tmp_path):
    write_toy(tmp_path / "set", clips=5, frames=1, size=SIZE, seed=3)
    lists = {split: (tmp_path / "set" / f"{split}.txt").read_text().split() for split in ("train", "val", "test")}
    assert {split: len(names) for split, names in lists.items()} == {"train": 5, "val": 1, "test": 1}
    assert lists["test"] == ["2000_toy3"]
