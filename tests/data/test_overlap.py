"""Which scored videos the training has seen labelled is told from the recipe."""

import json

from semivss.data.overlap import seen_in_training, warning
from semivss.data.source import open_source
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


def test_the_line_counts_videos():
    assert "2 of its 5 videos were among the labelled training videos" in warning(["a", "b"], 5)


def test_scores_and_report_say_that_val_was_trained_on(tmp_path):
    train = {"steps": 1, "batch": 2, "evaluate_every": 5}
    sources = {"train": [toy(0).model_dump()], "val": toy(1).model_dump(), "absent_classes": "allow", "augment": {"crop": (64, 64)}}
    recipe = parse_recipe({"name": "x", "data": sources, "train": train, "predict": {"overlay": "none"}})
    run(recipe, tmp_path)
    scores = json.loads((tmp_path / "scores.json").read_text())["val"]
    assert len(scores["trained_on"]) == 1
    assert scores["warning"].startswith("1 of its 2 videos")
    assert "1 of its 2 videos were among the labelled training videos" in (tmp_path / "report" / "index.html").read_text()
    honest = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": (toy(10),)})})
    score_stage(honest, tmp_path)
    assert "warning" not in json.loads((tmp_path / "scores.json").read_text())["val"]
