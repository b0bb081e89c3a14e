import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from semivss.data.source import open_source
from semivss.errors import DataError
from semivss.metrics.score import score_folder
from semivss.metrics.scores import Scores, percent
from semivss.recipe import dump_recipe
from semivss.report.html import write_report

from .conftest import Run, finish, make_run


class Page(HTMLParser):
    """What a page refers to, its text, and its section ids."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.words.append(data)


def _scores(run) -> Scores:
    return Scores.from_dict(json.loads((run.folder / "scores.json").read_text())["val"])


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Run, Path, Page]:
    """A finished run with its page; tests only look at it."""
    with pytest.MonkeyPatch.context() as patch:
        run = finish(make_run(tmp_path_factory.mktemp("report")), patch)
        path = write_report(run.folder)
    return run, path, Page(path)


def test_page_is_one_file_without_outside_references(written):
    run, path, page = written
    assert path == run.folder / "report" / "index.html"
    assert [child.name for child in path.parent.iterdir()] == ["index.html"]
    assert page.references
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert not re.search(r"https?://|url\(|@import|fetch\(", page.source)
    assert "default-src 'none'" in page.source


def test_page_shows_the_numbers(written):
    run, _, page = written
    scores = _scores(run)
    numbers = [
        scores.overall.miou,
        scores.overall.weighted_iou,
        *(part.vc for part in scores.vc),
        *scores.overall.iou,
        scores.videos[1].miou,
    ]
    for number in numbers:
        assert percent(number) in page.text
    for word in ("VC2", "VC4", "2_plain", run.recipe.digest(), "0123456789ab", "9.9.9", "2 videos, 14 frames"):
        assert word.replace("VC2", "VC2") in page.text


def test_names_are_escaped(written):
    _, _, page = written
    assert "<b>sky</b>" in page.text  # as text
    assert "1_<i>a&b" in page.text
    assert "x/<u>.jpg" in page.text
    assert "i" not in page.tags
    assert "u" not in page.tags
    assert page.source.count("<b>sky") == 0


def test_scores_of_another_model_are_pointed_out(written):
    run, _, page = written
    assert "scored with " + "f" * 64 + ": score again" in page.text
    assert f"{run.recipe.digest()} (scored" not in page.text


def test_defects_of_every_stage_are_listed(finished):
    finished.data.joinpath("data", "2_plain", "mask", "00000003.png").write_bytes(b"")
    recipe = finished.recipe.model_copy(update={"data": finished.recipe.data.model_copy(update={"policy": "skip"})})
    scores = score_folder(finished.folder / "predictions" / "val", open_source(recipe.data.val, "skip"), recipe.score, "skip")
    (finished.folder / "scores.json").write_text(json.dumps({"val": scores.to_dict()}))
    text = Page(write_report(finished.folder)).text
    for words in ("training zero_byte 2", "prediction of val truncated 1 broken.jpg", "scoring of val zero_byte 1"):
        assert words in text


@pytest.mark.parametrize(
    ("removed", "note"),
    [
        ("student", "No curves"),
        ("scores.json", "Not scored yet"),
        ("predictions/val/entropy", "left out where predict wrote none"),
        ("predictions", "holds no predictions of these videos"),
    ],
)
def test_what_a_run_lacks_is_left_out_with_a_note(finished, removed, note):
    path = finished.folder / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = Page(write_report(finished.folder))
    assert note in page.text
    assert ("no model in this run" in page.text) == (removed == "student")
    assert ("entropy" in re.findall(r"<figcaption>(\w+)</figcaption>", page.source)) == (removed == "student")


def test_empty_sections_name_the_command_that_fills_them(finished):
    run = finished.folder
    (run / "scores.json").unlink()
    command = f"semivss run {run}/recipe.toml --out {run} fills this in."
    assert Page(write_report(run)).text.count(command) == 5
    bare = finished.recipe.model_copy(update={"data": finished.recipe.data.model_copy(update={"val": None, "test": ()})})
    (run / "recipe.toml").write_text(dump_recipe(bare))
    assert Page(write_report(run)).text.count(f"add data with masks as [[data.test]] to {run}/recipe.toml, then {command}") == 5


def test_numbers_are_shown_where_the_data_has_moved(finished, monkeypatch):
    monkeypatch.delenv("REPORT_TEST_DATA")
    page = Page(write_report(finished.folder))
    assert "No pictures: data path $REPORT_TEST_DATA: the variable is not set" in page.text
    assert percent(_scores(finished).overall.miou) in page.text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no recipe\.toml"):
        write_report(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]", '{"val": {"dataset": "x"}}'])
def test_a_broken_scores_file_is_named(finished, content):
    (finished.folder / "scores.json").write_text(content)
    with pytest.raises(DataError, match=r"scores\.json: "):
        write_report(finished.folder)


def test_same_run_same_page(written, monkeypatch):
    run, path, page = written
    monkeypatch.setenv("REPORT_TEST_DATA", str(run.data))
    write_report(run.folder)
    assert path.read_text(encoding="utf-8") == page.source


def test_slider_shows_another_frame_in_a_browser(written, tmp_path):
    run, path, _ = written
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    script = """<script>
      const film = document.querySelector(".film"), slider = film.querySelector("input"), before = film.querySelector("img").src;
      slider.value = 4;
      slider.dispatchEvent(new Event("input"));
      document.title = [film.querySelector("img").src !== before, film.querySelector("output").textContent,
                        film.querySelector("polyline").getAttribute("points").split(" ").length].join("|");
    </script>"""
    page = tmp_path / "page.html"
    page.write_text(path.read_text().replace("</body>", script + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync"
    command = [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    frame_miou = _scores(run).videos[0].frame_miou
    assert f"<title>true|00000012 · mIoU {100 * frame_miou[4]:.1f}|7</title>" in dom
    assert np.isfinite(frame_miou).all()
