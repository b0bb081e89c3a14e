"""Which scored videos the training has seen labelled is told from the recipe."""

import json

import numpy as np
import pytest
from tests.data.owndata import NAMES, frame, ids, save

from semivss.data.overlap import seen_in_training, warning, without_learned
from semivss.data.source import open_source
from semivss.data.toy_files import write_toy
from semivss.pipeline import run, score_stage
from semivss.recipe import parse_recipe
from semivss.settings import Source, Toy


def toy(first: int, clips: int = 2, **more) -> Source:
    return Source(kind="toy", toy=Toy(clips=clips, frames=2, size=(60, 80), first_clip=first, **more))


def seen(train: list[Source], scored: Source) -> list[str]:
    return seen_in_training(train, scored, open_source(scored))


def test_videos_of_one_world_are_told_by_name():
    both = [clip.name for clip in open_source(toy(3, 1)).clips]
    assert seen([toy(0), toy(3)], toy(2)) == both
    assert seen([toy(0)], toy(2)) == []
    assert seen([toy(0)], toy(0, seed=1)) == []


def test_videos_without_a_training_mask_do_not_count():
    assert len(seen([toy(0, 4, labelled_clips=1)], toy(0, 4))) == 1


@pytest.mark.parametrize("kind", ["toy", "vspw"])
def test_masks_that_were_learned_are_out_of_reach(kind, tmp_path):
    train, scored = [toy(0, 4, labelled_clips=1)], toy(0, 4)
    if kind == "vspw":
        write_toy(tmp_path, clips=4, frames=2, size=(48, 64), seed=0, flow=False)
        scored = Source(kind="vspw", path=str(tmp_path), split="train")
        (tmp_path / "few.txt").write_text(f"{open_source(scored).clips[0].name}/00000000\n")
        train = [scored.model_copy(update={"labelled": "few.txt"})]
    dataset = open_source(scored)
    unseen = without_learned(train, scored, dataset)
    learned = {
        (clip.name, clip.stems[i]) for source in train for clip in open_source(source).clips for i in range(2) if clip.is_labelled(i)
    }
    assert learned
    for before, after in zip(dataset.clips, unseen.clips, strict=True):
        for index, stem in enumerate(before.stems):
            assert after.is_labelled(index) == ((before.name, stem) not in learned)
            if after.is_labelled(index):
                np.testing.assert_array_equal(after.labels(index), before.labels(index))
            np.testing.assert_array_equal(after.frame(index), before.frame(index))
    assert [clip.is_labelled(0) for clip in without_learned([toy(9)], scored, dataset).clips] == [True] * len(dataset.clips)


def test_a_data_set_is_the_same_by_its_folder_and_by_its_description(tmp_path):
    for index in range(2):
        save(tmp_path / "frames" / f"{index}.png", frame(index))
        save(tmp_path / "masks" / f"{index}.png", ids(4))
    classes = "".join(f'[[classes]]\nname = "{name}"\n' for name in NAMES)
    (tmp_path / "dataset.toml").write_text(f'name = "own"\nframes = "frames"\n[masks]\nfolder = "masks"\n{classes}')
    folder, description = (Source(kind="folder", path=str(path)) for path in (tmp_path, tmp_path / "dataset.toml"))
    assert seen([folder], description) == seen([description], folder) == ["own"]


def test_the_line_counts_videos():
    assert "2 of its 5 videos were among the labelled training videos" in warning(["a", "b"], 5)
    assert "1 of its 5 videos was among" in warning(["a"], 5)


def test_scores_and_report_say_that_val_was_trained_on(tmp_path):
    train = {"steps": 1, "batch": 2, "evaluate_every": 5}
    sources = {"train": [toy(0).model_dump()], "val": toy(1).model_dump(), "absent_classes": "allow", "augment": {"crop": (64, 64)}}
    recipe = parse_recipe({"name": "x", "data": sources, "train": train, "predict": {"overlay": "none"}})
    run(recipe, tmp_path)
    scores = json.loads((tmp_path / "scores.json").read_text())["val"]
    assert len(scores["trained_on"]) == 1
    assert scores["warning"].startswith("1 of its 2 videos")
    assert "1 of its 2 videos was among the labelled training videos" in (tmp_path / "report" / "index.html").read_text()
    honest = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": (toy(10),)})})
    score_stage(honest, tmp_path)
    assert "warning" not in json.loads((tmp_path / "scores.json").read_text())["val"]
