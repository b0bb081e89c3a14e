"""Validation videos: exactly the asked ones or the asked share, no video twice, written down, and used by recipes/own.toml."""

import sys
from pathlib import Path

import pytest
from tests.data.owndata import color_mask, ids, write_own
from tests.data.test_importer import write_cvat

from semivss.cli import main
from semivss.data.check import check
from semivss.data.description import load_description
from semivss.data.folder import read_folder
from semivss.data.holdout import Holdout
from semivss.data.importer import import_any
from semivss.data.source import open_source
from semivss.errors import DataError
from semivss.recipe import evaluation_sets, load_recipe

VIDEOS = tuple("abcdefghij")
OWN = Path(__file__).parents[2] / "recipes" / "own.toml"
OWN_SEMI = OWN.with_name("own_semi.toml")


def imported(tmp_path: Path, holdout: Holdout, videos=VIDEOS, bare=()):
    """Splits of a data set of `videos`, of which `bare` have no masks."""
    own = write_own(tmp_path / "own", videos=tuple(videos))
    for video in bare:
        (own / "masks" / video).rename(tmp_path / f"unused_{video}")
    import_any(own / "frames", tmp_path / "out", masks=own / "masks", classes=own / "classes.txt", holdout=holdout)
    return load_description(tmp_path / "out" / "dataset.toml").splits


@pytest.mark.parametrize(("share", "count"), [(0.2, 2), (0.25, 2), (0.01, 1), (0.5, 5), (0.9, 9)])
def test_a_share_is_exact_and_no_video_is_twice(tmp_path, share, count):
    splits = imported(tmp_path, Holdout(share=share))
    assert len(splits["val"]) == count
    assert sorted(splits["train"] + splits["val"]) == list(VIDEOS)


def test_a_share_counts_labelled_videos_only_and_is_the_same_each_time(tmp_path):
    splits = imported(tmp_path, Holdout(share=0.5), bare="abcdef")
    assert splits["val"] == ("h", "j")
    assert splits["train"] == ("a", "b", "c", "d", "e", "f", "g", "i")


def test_named_videos_are_read_as_the_split_val(tmp_path):
    assert imported(tmp_path, Holdout(("c", "b")))["val"] == ("b", "c")
    clips = {split: [clip.name for clip in read_folder(tmp_path / "out", split).clips] for split in ("train", "val")}
    assert clips == {"train": ["a", *"defghij"], "val": ["b", "c"]}
    assert not check(tmp_path / "out").warnings


def test_a_large_share_leaves_a_labelled_video_to_train_on(tmp_path):
    assert len(imported(tmp_path, Holdout(share=0.95))["train"]) == 1


@pytest.mark.parametrize(
    ("holdout", "videos", "bare", "words"),
    [
        (Holdout(("z",)), "ab", "", r"--val z: is no video of the data set; choose among a, b"),
        (Holdout(("b",)), "ab", "b", r"--val b: has no masks to compare with; choose among a"),
        (Holdout(("a", "b")), "ab", "", "none with masks would be left to train on"),
        (Holdout(share=0.2), "a", "", "out: 1 labelled video, so none with masks would be left"),
        (Holdout(share=0.0), "ab", "", "--val-share 0: not a share"),
        (Holdout(share=1.0), "ab", "", "--val-share 1: not a share"),
    ],
)
def test_what_cannot_be_held_out_is_one_line_and_writes_nothing(tmp_path, holdout, videos, bare, words):
    with pytest.raises(DataError, match=words):
        imported(tmp_path, holdout, videos, bare)
    assert not (tmp_path / "out").exists()


def test_cvat_exports_too_unless_they_have_subsets(tmp_path):
    masks = {"v1/a": color_mask(ids(0)), "v2/a": color_mask(ids(1))}
    import_any(write_cvat(tmp_path / "task.zip", masks), tmp_path / "out", holdout=Holdout(("v2",)))
    assert [clip.name for clip in read_folder(tmp_path / "out", "val").clips] == ["v2"]
    parts = write_cvat(tmp_path / "parts.zip", masks, Train="v1/a\n", Validation="v2/a\n")
    with pytest.raises(DataError, match="has the splits train, validation already; leave out --val"):
        import_any(parts, tmp_path / "parts", holdout=Holdout(("v2",)))


def semivss(monkeypatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["semivss", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_the_recipe_for_own_data_is_measured_on_the_split(tmp_path, monkeypatch, capsys):
    write_own(tmp_path, videos=VIDEOS[:5])
    monkeypatch.chdir(tmp_path)
    words = ("data", "import", "frames", "farm", "--masks", "masks", "--classes", "classes.txt")
    assert semivss(monkeypatch, *words, "--val", "a", "--val-share", "0.2") == 2
    assert semivss(monkeypatch, *words) == 0
    monkeypatch.setenv("SEMIVSS_OWN", "farm")
    recipe = load_recipe(OWN)
    with pytest.raises(
        DataError, match=r"no split 'val'; it has train; import it again with --val-share 0\.2 --force, or .* -o data\.val="
    ):
        open_source(evaluation_sets(recipe)["val"])
    assert not evaluation_sets(load_recipe(OWN, ["data.val="]))
    assert semivss(monkeypatch, *words, "--val-share", "0.2", "--force") == 0
    assert "validation: 1 of 5 labelled videos: c" in capsys.readouterr().err
    assert [clip.name for clip in open_source(evaluation_sets(recipe)["val"]).clips] == ["c"]
    assert [clip.name for clip in open_source(recipe.data.train[0]).clips] == ["a", "b", "d", "e"]
    semi = load_recipe(OWN_SEMI)
    assert [clip.name for clip in open_source(semi.data.unlabelled[0]).clips] == ["a", "b", "d", "e"]
    assert evaluation_sets(semi) == evaluation_sets(recipe)
