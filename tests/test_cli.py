"""The command line from outside: help without torch, one line and exit code 2 for mistakes, 130 for Ctrl-C."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from semivss.settings import Views
from semivss.verbs import views_hint


def semivss(*words: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "semivss", *map(str, words)], capture_output=True, text=True, timeout=120, check=False, **options
    )


def fails(*words: object) -> str:
    done = semivss(*words)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("words", [(), ("data",), ("train",), ("predict",), ("export",), ("data", "import")])
def test_help_answers_without_heavy_imports(words):
    code = "import sys; sys.argv = ['semivss', *sys.argv[1:], '--help']\nimport semivss.cli\n"
    code += "try: semivss.cli.main()\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'numpy', 'transformers', 'timm', 'av', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_version_option():
    assert semivss("--version").stdout.startswith("semivss ")


def test_mistakes_in_recipes_answer_without_torch(tmp_path):
    recipe = tmp_path / "bad.toml"
    recipe.write_text('name = "x"\n[[data.train]]\nkind = "toy"\n[train]\nstepz = 3\n')
    assert "did you mean 'steps'" in fails("train", recipe)
    assert "cannot read" in fails("train", tmp_path / "none.toml")


MISTAKES = """
import json, sys
from semivss.cli import main
for words in json.loads(sys.argv.pop()):
    sys.argv = ["semivss", *words]
    try:
        main()
    except SystemExit as left:
        print(left.code, flush=True)
heavy = {"torch", "transformers", "timm", "av", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


def test_wrong_paths_are_told_before_torch_is_loaded(tmp_path):
    recipe, file, run, new = (tmp_path / name for name in ("own.toml", "file", "run", "new"))
    recipe.write_text('[[data.train]]\nkind = "folder"\npath = "$SEMIVSS_NOT_SET"\n')
    file.write_text("")
    (run / "student" / "model").mkdir(parents=True)
    (run / "student" / "model" / "config.json").write_text("{}")
    frames = tmp_path / "frames"
    frames.mkdir()
    later = ("-o", "data.train.0.kind=toy", "-o", 'data.test=[{kind="folder", path="$SEMIVSS_TEST_NOT_SET"}]')
    mistakes = {
        ("train", recipe, "--out", new): "data path $SEMIVSS_NOT_SET: the variable is not set",
        ("run", recipe, "--out", new): "data path $SEMIVSS_NOT_SET: the variable is not set",
        ("train", recipe, "--out", new, "-o", f"data.train.0.path={tmp_path / 'gone'}"): f"{tmp_path / 'gone'}: no such file or folder",
        ("run", recipe, "--out", new, *later): "data path $SEMIVSS_TEST_NOT_SET: the variable is not set",
        ("train", recipe, "--out", file): f"{file}: cannot write there",
        ("predict", run, tmp_path / "gone.mp4"): f"{tmp_path / 'gone.mp4'}: no such file or folder",
        ("predict", run, frames, "--out", file): f"{file}: a file, not a folder",
        ("pseudo-label", run, frames, "--out", file / "deep" / "er"): f"{file}: a file, not a folder",
        ("predict", tmp_path / "gone", frames): f"{tmp_path / 'gone'}: no such file or folder",
    }
    words = json.dumps([[str(word) for word in line] for line in mistakes])
    done = subprocess.run([sys.executable, "-c", MISTAKES, words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"] * len(mistakes)
    for line, expected in zip(done.stderr.splitlines(), mistakes.values(), strict=True):
        assert line.startswith(f"semivss: {expected}")


def test_predict_says_how_to_get_the_views_of_the_run(tmp_path):
    assert views_hint([tmp_path], Views()) is None  # a bare model folder
    toml = '[[data.train]]\nkind = "toy"\n[predict.views]\nscales = [0.75, 1, 1.25]\nflip = true\ncrop = [96, 128]\n'
    (tmp_path / "recipe.toml").write_text(toml)
    hint = views_hint([tmp_path], Views())
    assert hint == f"1 view a frame; the recipe of {tmp_path} has 6: --scales 0.75,1,1.25 --flip --crop 96x128"
    assert views_hint([tmp_path], Views(flip=True)) is None
    (tmp_path / "recipe.toml").write_text('[[data.train]]\nkind = "toy"\n')
    assert views_hint([tmp_path], Views()) is None
    (tmp_path / "recipe.toml").write_text("of = 'another version'")
    assert views_hint([tmp_path], Views()) is None


def test_words_that_make_no_sense(tmp_path):
    assert "at least one model" in fails("predict", tmp_path)
    assert "not a size" in fails("predict", tmp_path, tmp_path, "--crop", "12")
    assert "not numbers" in fails("predict", tmp_path, tmp_path, "--scales", "1,two")
    assert "greater than 0" in fails("predict", tmp_path, tmp_path, "--scales", "1,-2")
    assert "no model there" in fails("predict", tmp_path, tmp_path)


def test_show_resolves_a_recipe_and_counts_parameters():
    done = semivss("show", Path(__file__).parents[1] / "recipes" / "toy.toml", "-o", "train.steps=7")
    assert done.returncode == 0, done.stderr
    assert "steps = 7" in done.stdout
    assert "# parameters" in done.stdout
    assert "# training memory" in done.stdout


def test_ctrl_c_ends_with_130_and_one_line(tmp_path):
    # a shell's background job, and all that it starts, ignores the signal unless told otherwise
    heeding = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from semivss.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", heeding, "data", "toy", str(tmp_path / "out"), "--clips", "400"], stderr=subprocess.PIPE, text=True
    )
    try:
        while not list(tmp_path.glob("out/data/*/origin/*.jpg")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert stderr.count("\n") == 1
    assert "interrupted" in stderr
