"""Names of views on the command line and in recipes, and words for a budget of time."""

import sys
from pathlib import Path

import pytest

from semivss.cli import main
from semivss.errors import RecipeError
from semivss.infer.views import views_from
from semivss.presets import PRESETS, parse_budget, preset_views, with_presets
from semivss.recipe import dump_recipe, load_recipe, parse_recipe

ROOT = Path(__file__).parents[1]
DATA = {"train": [{"kind": "toy"}]}


def recipe(views):
    return parse_recipe({"name": "x", "data": DATA, "predict": {"views": views}})


def test_presets_are_those_of_the_paper_and_grow():
    assert PRESETS["paper"] == load_recipe(ROOT / "recipes" / "paper" / "table3.toml").predict.views
    counts = {name: len(views_from(views)) for name, views in PRESETS.items()}
    assert counts == {"single": 1, "fast": 2, "released": 6, "paper": 16}
    # by hand, as in the published protocol: 2, 2, 2, 3, 6, 8, 8 and 10 windows a frame of 480x853, and their mirror images
    windows = {name: sum(len(view.windows((480, 853))) for view in views_from(views)) for name, views in PRESETS.items()}
    assert windows == {"single": 1, "fast": 2, "released": 14, "paper": 82}


def test_whole_images_keep_scales_and_have_no_windows():
    views = preset_views("paper", whole=True)
    assert (views.scales, views.flip, views.short_side) == (PRESETS["paper"].scales, True, 896)
    assert all(len(view.windows((480, 853))) == 1 for view in views_from(views))


def test_a_preset_in_a_recipe_is_its_views_written_out():
    named, written = recipe({"preset": "released"}), recipe(PRESETS["released"].model_dump(mode="json", exclude_defaults=True))
    assert named == written
    assert named.digest() == written.digest()
    assert recipe({"preset": "single"}).digest() == parse_recipe({"name": "x", "data": DATA}).digest()
    assert "preset" not in dump_recipe(named)
    assert recipe({"preset": "paper", "whole": True, "sampling": "direct"}).predict.views == preset_views("paper", whole=True).model_copy(
        update={"sampling": "direct"}
    )


def test_a_tree_without_presets_stays_as_it_is():
    tree = {"name": "x", "predict": {"views": {"scales": [0.5]}}, "pseudo": 3, "data": {"views": "none"}}
    assert with_presets(tree) == tree


def test_a_preset_takes_the_place_of_the_views_of_a_base(tmp_path):
    (tmp_path / "below.toml").write_text('[[data.train]]\nkind = "toy"\n[pseudo]\nviews = { scales = [0.5, 1.0], base = [96, 128] }\n')
    (tmp_path / "above.toml").write_text('base = "below.toml"\n[pseudo]\nviews = { preset = "fast" }\n')
    assert load_recipe(tmp_path / "above.toml").pseudo.views == PRESETS["fast"]
    assert load_recipe(tmp_path / "below.toml", ['pseudo.views={preset="released"}']).pseudo.views == PRESETS["released"]


@pytest.mark.parametrize(
    ("views", "told"),
    [
        ({"preset": "released_"}, r"'predict\.views\.preset': no views are called 'released_'; did you mean 'released'\?"),
        ({"preset": "fast", "flip": True, "base": [8, 8]}, r"'predict\.views': a preset brings sizes of its own; leave base, flip out"),
        ({"preset": 3}, r"'predict\.views': preset is a name \(single, fast, released, paper\)"),
        ({"preset": "fast", "whole": 1}, "whole is true or false"),
    ],
)
def test_wrong_presets_are_told_in_one_line(views, told):
    with pytest.raises(RecipeError, match=told) as caught:
        recipe(views)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "seconds"), [("2h", 7200), ("90m", 5400), ("45s", 45), ("1h30m", 5400), ("1.5h", 5400), ("1m5s", 65)])
def test_times(text, seconds):
    budget = parse_budget(text)
    assert budget.seconds == seconds
    assert list(budget.views) == ["single", "fast", "released", "paper"]


def test_a_budget_goes_up_to_the_preset_that_is_named():
    assert list(parse_budget("1h", up_to="fast").views) == ["single", "fast"]
    assert parse_budget("1h", up_to="released", whole=True).views["released"].crop is None


@pytest.mark.parametrize("text", ["", "2", "0s", "h", "2 hours", "30m1h", "-1h"])
def test_what_is_no_time(text):
    with pytest.raises(RecipeError, match="not a time; write hours, minutes and seconds such as 2h"):
        parse_budget(text)


@pytest.mark.parametrize("verb", ["predict", "pseudo-label"])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--views", "papr"], "did you mean 'paper'? Known ones: single, fast, released, paper"),
        (["--views", "paper", "--flip", "--crop", "64x64"], "--views and --flip, --crop: presets bring sizes of their own"),
        (["--budget", "2h", "--scales", "1,2"], "--budget and --scales: presets bring sizes of their own"),
        (["--budget", "soon"], "--budget soon: not a time"),
        (["--budget", "1h", "--views", "slow"], "no views are called 'slow'"),
        (["--whole"], "--whole: goes with --views or --budget"),
    ],
)
def test_words_of_the_command_line(verb, words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["semivss", verb, str(tmp_path), str(tmp_path), *words])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr().err
    assert (left.value.code, said.count("\n")) == (2, 1)
    assert told in said
