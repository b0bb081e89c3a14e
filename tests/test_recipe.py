"""Recipes: strict reading, overrides, round trip; every shipped recipe resolves without its data."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semivss.errors import RecipeError
from semivss.recipe import dump_recipe, load_recipe, parse_recipe

ROOT = Path(__file__).parents[1]
MINIMAL = 'name = "x"\n[[data.train]]\nkind = "toy"\n'


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "x.toml"
    path.write_text(text)
    return path


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text), overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_name_defaults_to_the_file_stem(tmp_path):
    assert load_recipe(write(tmp_path, '[[data.train]]\nkind = "toy"\n')).name == "x"


def test_unknown_key_names_the_nearest_known_one(tmp_path):
    text = message(tmp_path, MINIMAL + "[train]\nstep = 5\n")
    assert "unknown key 'train.step'" in text
    assert "did you mean 'steps'" in text


def test_unknown_key_inside_a_list_of_sources(tmp_path):
    assert "did you mean 'labelled'" in message(tmp_path, MINIMAL + 'labeled = "list.txt"\n')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[train]\nlr = 'fast'\n", "train.lr"),
        ("[train]\nsteps = 0\n", "train.steps"),
        ("[train]\nsteps = 1.5\n", "train.steps"),
        ("[model]\nhead = 'cnn'\n", "'pixel' or 'mask2former'"),
        ("[model.mask2former]\nchannels = 100\nheads = 8\n", "multiple of heads"),
        ("[data.val]\nkind = 'vspw'\n", "path is missing"),
    ],
)
def test_wrong_value_is_one_line_that_names_the_key(tmp_path, text, expected):
    assert expected in message(tmp_path, MINIMAL + text)


def test_phases_need_one_weight_a_source(tmp_path):
    assert "one a training source" in message(tmp_path, MINIMAL + "[[data.phases]]\nuntil = 5\nweights = [1, 2]\n")


def test_unreadable_and_broken_files(tmp_path):
    with pytest.raises(RecipeError, match="cannot read"):
        load_recipe(tmp_path / "none.toml")
    assert "not valid TOML" in message(tmp_path, "name = \n")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="not valid TOML"):
        load_recipe(tmp_path / "b.toml")


def test_the_toy_world_is_shown_of_toy_sources_only(tmp_path):
    folder = "kind = 'folder'\npath = 'x'\n"
    recipe = load_recipe(
        write(tmp_path, f"{MINIMAL}[[data.train]]\n{folder}[data.val]\n{folder}[[data.test]]\n{folder}toy = {{ seed = 3 }}\n")
    )
    text = dump_recipe(recipe)
    assert "[data.val.toy]" not in text
    assert text.count("clips = 48") == 2  # of the toy source, and of the one that sets a seed
    assert load_recipe(write(tmp_path, text)) == recipe


def test_an_override_of_nothing_takes_a_key_out(tmp_path):
    text = MINIMAL + "[data.val]\nkind = 'toy'\n[train]\nsteps = 7\n"
    assert load_recipe(write(tmp_path, text)).data.val is not None
    recipe = load_recipe(write(tmp_path, text), ["data.val=", "train.steps=", "data.test="])
    assert (recipe.data.val, recipe.train.steps, recipe.data.test) == (None, 1000, ())


def test_a_base_is_another_file_of_which_only_differences_are_said(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "first.toml").write_text(MINIMAL + "[train]\nsteps = 7\nbatch = 3\n[data.augment]\ncrop = [8, 9]\n")
    (tmp_path / "deep" / "second.toml").write_text('base = "first.toml"\n[train]\nsteps = 8\n')
    folder = "[[data.train]]\nkind = 'folder'\npath = 'x'\n"
    recipe = load_recipe(write(tmp_path, f'base = "deep/second.toml"\nname = "third"\n{folder}'), ["train.lr=1.0"])
    assert (recipe.name, recipe.train.steps, recipe.train.batch, recipe.train.lr, recipe.data.augment.crop) == ("third", 8, 3, 1.0, (8, 9))
    assert [source.kind for source in recipe.data.train] == ["folder"]  # lists are replaced
    assert load_recipe(tmp_path / "deep" / "second.toml").name == "second"
    assert "base" not in dump_recipe(recipe).split("[data")[0]


def test_a_base_that_is_not_there_or_goes_round_in_circles(tmp_path):
    assert "cannot read the base of" in message(tmp_path, 'base = "none.toml"\n')
    assert "is made from itself" in message(tmp_path, 'base = "x.toml"\n')
    assert "must be the path of another recipe" in message(tmp_path, "base = 3\n")


def test_size_at_scale_1_is_said_once(tmp_path):
    text = message(tmp_path, MINIMAL, "predict.views.base=[8, 9]", "predict.views.short_side=8")
    assert "predict.views" in text
    assert "base and short_side both say" in text
    assert "base and short_side both say" in message(tmp_path, MINIMAL, "data.augment.base=[8, 9]", "data.augment.short_side=8")


def test_overrides_reach_values_lists_and_words(tmp_path):
    recipe = load_recipe(
        write(tmp_path, MINIMAL), ["train.steps=7", "model.backbone=timm/resnet18", "data.train.0.toy.clips=3", "data.augment.crop=[8, 9]"]
    )
    assert (recipe.train.steps, recipe.model.backbone, recipe.data.train[0].toy.clips, recipe.data.augment.crop) == (
        7,
        "timm/resnet18",
        3,
        (8, 9),
    )


@pytest.mark.parametrize("override", ["train.steps", "=5", "data.train.4.split=val", "data.train.a=1", "name.x=1", "train.stops=3"])
def test_bad_overrides_are_recipe_errors(tmp_path, override):
    message(tmp_path, MINIMAL, override)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.steps=true", "valid integer"),
        ("train.steps='100'", "valid integer"),
        ("train.lr=inf", "finite"),
        ("data.augment.flip='yes'", "valid number"),
        ("data.augment.scale=[2.0, 0.5]", r"smaller one first, got \[2.0, 0.5\]"),
    ],
)
def test_values_of_another_type_are_not_guessed(tmp_path, override, words):
    assert re.search(words, message(tmp_path, MINIMAL, override))


def test_variables_in_paths_are_filled_when_the_data_is_opened(tmp_path, monkeypatch):
    recipe = load_recipe(write(tmp_path, 'name = "x"\n[[data.train]]\nkind = "vspw"\npath = "$SOME_SET/here"\n'))
    monkeypatch.delenv("SOME_SET", raising=False)
    with pytest.raises(RecipeError, match="variable is not set"):
        recipe.data.train[0].folder()
    monkeypatch.setenv("SOME_SET", "/data")
    assert recipe.data.train[0].folder() == Path("/data/here")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipe_resolves_and_survives_a_round_trip(path, monkeypatch, tmp_path):
    monkeypatch.delenv("SEMIVSS_CAMVID", raising=False)
    recipe = load_recipe(path)
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


@given(steps=st.integers(1, 10**6), lr=st.floats(1e-9, 10), seed=st.integers(0, 2**31))
def test_digest_changes_with_any_setting(steps, lr, seed):
    tree = {"name": "x", "data": {"train": [{"kind": "toy"}]}, "train": {"steps": steps, "lr": lr, "seed": seed}}
    recipe = parse_recipe(tree)
    assert recipe.digest() == parse_recipe(tree).digest()
    assert recipe.digest() != parse_recipe(tree | {"train": {"steps": steps + 1, "lr": lr, "seed": seed}}).digest()


def test_retraining_averages_unless_it_is_told_not_to():
    unlabelled = {"data": {"train": [{"kind": "toy"}], "unlabelled": [{"kind": "toy"}]}}
    for semi, decay in (({}, 0.999), ({"train": {"steps": 8}}, 0.999), ({"train": {"ema": 0.0}, "contrast": {"weight": 0}}, 0.0)):
        assert parse_recipe({"name": "x", **unlabelled, "semi": semi}).semi.train.ema == decay


@pytest.mark.parametrize("alpha", [-1, 100.5])
def test_alpha_is_a_percentage(tmp_path, alpha):
    text = f'[[data.train]]\nkind = "toy"\n[[data.unlabelled]]\nkind = "toy"\n[semi.threshold]\nalpha = {alpha}\n'
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError, match=r"semi\.threshold\.alpha"):
        load_recipe(tmp_path / "r.toml")


def test_precision_may_be_written_as_a_number(tmp_path):
    (tmp_path / "r.toml").write_text('[[data.train]]\nkind = "toy"\n')
    for word in ("32", "'32'"):
        assert load_recipe(tmp_path / "r.toml", [f"train.precision={word}"]).train.precision == "32"
    for word in ("16", "32.0", "true"):
        with pytest.raises(RecipeError, match=r"train\.precision"):
            load_recipe(tmp_path / "r.toml", [f"train.precision={word}"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"semi": {}}, r"semi.mode offline needs unlabelled video; add \[\[data.unlabelled\]\]"),
        ({"semi": {"mode": "online", "supervised_steps": 1000}, "unlabelled": True}, "must be below semi.train.steps"),
        ({"semi": {"threshold": {"kind": "absolute", "per_class": True}}, "unlabelled": True}, "per_class is for percentiles"),
        ({"semi": {"likelihood": 1.0}, "unlabelled": True}, r"^recipe: semi\.likelihood is for masks.*model\.head mask2former"),
        ({"semi": {"weigh_masks": True}, "unlabelled": True}, r"semi\.weigh_masks is for masks"),
        ({"pseudo": {"weights": [1, 2]}}, "2 numbers for 1 model;"),
        ({"teacher": {}, "pseudo": {"weights": [1]}}, "1 number for 2 models;"),
    ],
)
def test_sections_that_do_not_fit_together_are_refused(more, message):
    tree = {"name": "x", "data": {"train": [{"kind": "toy"}]}}
    if more.pop("unlabelled", False):
        tree["data"]["unlabelled"] = [{"kind": "toy"}]
    with pytest.raises(RecipeError, match=message):
        parse_recipe(tree | more)
