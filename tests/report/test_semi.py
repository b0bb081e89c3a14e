"""The page of a semi-supervised run."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from semivss.digest import weights_hash
from semivss.errors import DataError
from semivss.report.html import write_report

from .conftest import semi_run
from .test_html import Page


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    """A finished run with its page; tests only look at it."""
    run = semi_run(tmp_path_factory.mktemp("semi"))
    return run, Page(write_report(run))


def _change(run: Path, **provenance: object) -> Page:
    """The page with other entries in the provenance of the scores."""
    path = run / "scores.json"
    content = json.loads(path.read_text())
    content["provenance"] |= provenance
    path.write_text(json.dumps(content))
    return Page(write_report(run))


def test_page_is_one_small_file(written):
    run, page = written
    assert (run / "report" / "index.html").stat().st_size < 8_000_000
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert [name for name in page.ids if name in ("comparison", "training", "reliable")] == ["comparison", "training", "reliable"]


def test_models_are_compared_and_the_comparison_is_no_set(written):
    _, page = written
    part = page.text[page.text.index("Comparison val") :].partition("One run with one seed")[0]
    for words in ("student, labelled frames only 40.00", "teacher, labelled frames only 50.00 +10.00", "student, retrained 55.00 +15.00"):
        assert words in part
    assert "points above or below “student, labelled frames only”" in part
    assert page.text.count("weighted IoU") == 2  # one card and one column


def test_every_training_has_its_curves(written):
    _, page = written
    training = page.source[page.source.index('<section id="training">') : page.source.index('<section id="reliable">')]
    titles = re.findall(r"<h3>(.*?)</h3>", training)
    assert titles == ["teacher, labelled frames only", "student, labelled frames only", "student, retrained"]
    assert training.count('<img class="plot"') == 3


def test_all_final_models_and_pseudo_labels_are_identified(written):
    run, page = written
    for folder, title in (("teacher", "teacher, labelled frames only"), ("retrained", "student, retrained")):
        assert f"model hash: {title} {weights_hash(run / folder / 'model')}" in page.text
    manifest = hashlib.sha256((run / "pseudo" / "manifest.json").read_bytes()).hexdigest()
    assert f"pseudo-label manifest of pseudo, SHA-256 {manifest}" in page.text
    assert "score again" not in page.text
    assert weights_hash(run / "student" / "model") not in page.text  # it is not among the final ones
    assert "by hand" not in page.text


def test_weights_changed_since_the_score_are_pointed_out(tmp_path):
    run = semi_run(tmp_path)
    scored = weights_hash(run / "retrained" / "model")
    (run / "retrained" / "model" / "model.safetensors").write_bytes(b"other")
    assert f"{weights_hash(run / 'retrained' / 'model')} (scored with {scored}: score again)" in Page(write_report(run)).text


def test_corrections_are_provenance(tmp_path):
    run = semi_run(tmp_path)
    names = [f"pseudo/<i>v/{stem:04d}" for stem in range(12)]
    text = _change(run, edited_pseudo_labels=names).text
    assert f"12 pseudo-labelled frames: {', '.join(names[:8])} and 4 more" in text
    path = next((run / "pseudo").glob("0001_*/00000000.png"))
    Image.open(path).point(lambda label: 7).save(path)
    name = path.relative_to(run).with_suffix("").as_posix()
    assert f"not named by the scores: {name}." in _change(run).text
    text = _change(run, edited_pseudo_labels=[name]).text
    assert "not named by the scores" not in text
    assert f"1 pseudo-labelled frame: {name}" in text
    assert "Not among them: 1 corrected by hand" in text


def test_defects_of_all_trainings_and_of_pseudo_labels_are_listed(tmp_path):
    run = semi_run(tmp_path)
    path = run / "pseudo" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"defects": {"truncated": {"count": 2, "files": ["cut.jpg"]}}}))
    text = Page(write_report(run)).text
    for words in (
        "training: teacher, labelled frames only zero_byte 1 teacher.jpg",
        "training: student, labelled frames only zero_byte 1 student.jpg",
        "training: student, retrained zero_byte 1 retrained.jpg",
        "pseudo labels in pseudo truncated 2 cut.jpg",
    ):
        assert words in text


def test_what_is_not_made_yet_is_left_out_with_a_note(tmp_path):
    run = semi_run(tmp_path)
    (run / "scores.json").unlink()
    (run / "retrained" / "metrics.csv").unlink()
    (run / "pseudo" / "manifest.json").unlink()
    page = Page(write_report(run))
    for words in ("Not scored yet", "this run has no retrained/metrics.csv", "this run has no finished pseudo labels yet"):
        assert words in page.text
    assert "comparison" not in page.ids


def test_a_broken_comparison_is_named(tmp_path):
    run = semi_run(tmp_path)
    (run / "scores.json").write_text(json.dumps({"comparison": {"student": {"val": 0.5}}}))
    with pytest.raises(DataError, match=r"scores\.json: comparison: "):
        write_report(run)


def test_a_plain_run_has_none_of_these_parts(finished):
    page = Page(write_report(finished.folder))
    assert not {"comparison", "reliable"} & set(page.ids)
    for word in ("Comparison", "Pseudo", "teacher", "retrain"):
        assert word not in page.text.partition("Recipe Every")[0]
