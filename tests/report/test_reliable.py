import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semivss.data.codes import ABOVE, code_of_entropy, percentile_code
from semivss.data.pseudo import open_pseudo
from semivss.data.source import open_source
from semivss.digest import file_sha256
from semivss.recipe import Recipe, load_recipe
from semivss.report.reliable import Reliable, _cut_text, reliable_pixels, thresholds
from semivss.settings import Threshold

from .conftest import semi_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A semi-supervised run that tests only look at."""
    return semi_run(tmp_path_factory.mktemp("reliable"), threshold={"kind": "dataset_percentile", "alpha": 30.0})


def _recipe(run: Path, *overrides: str) -> Recipe:
    return load_recipe(run / "recipe.toml", overrides)


def _seen(run: Path, *overrides: str) -> Reliable:
    found = reliable_pixels(run, _recipe(run, *overrides))
    assert found is not None
    return found


def _decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_shares_and_accuracies_are_those_of_the_pixels(run: Path) -> None:
    folder, dataset = open_pseudo(run / "pseudo"), open_source(_recipe(run).data.unlabelled[0])
    names = [(clip, index) for clip in dataset.clips for index in range(len(clip.stems))]
    labels = np.stack([folder.labels(clip.name, clip.stems[index]) for clip, index in names])
    codes = np.stack([folder.codes(clip.name, clip.stems[index]) for clip, index in names])
    truth = np.stack([clip.labels(index) for clip, index in names])
    kept = codes < folder.thresholds(30.0)[0]
    found = _seen(run)
    assert (found.frames, found.of, found.corrected, found.gap) == (6, 6, 0, "")
    assert found.counts.kept == pytest.approx(kept.mean())
    assert found.counts.accuracy == pytest.approx((truth == labels)[kept & (truth != 255)].mean())
    assert found.counts.accuracy_rest == pytest.approx((truth == labels)[~kept & (truth != 255)].mean())
    shares = sorted(kept.mean((1, 2)))
    assert [row.rank for row in found.rows] == ["least", "median", "most"]
    assert [row.counts.kept for row in found.rows] == pytest.approx([shares[0], shares[3], shares[5]])


def test_a_class_that_was_never_predicted_has_no_part_in_the_text_about_thresholds() -> None:
    constant = Threshold(kind="dataset_percentile", alpha=50, schedule="constant", per_class=True)
    text = _cut_text(constant, np.array([32768, ABOVE]))
    assert "alpha = 50 %, as a percentile" in text
    assert "from 0.173 nats" in text  # (32768 / 65535)^2 log 2
    assert "every pixel" not in text
    everything = _cut_text(constant.model_copy(update={"alpha": 0.0}), np.array([ABOVE, ABOVE]))
    assert everything.startswith("Threshold: alpha = 0 %")
    assert everything.endswith("every pixel is reliable.")
    assert "at the start of training" in _cut_text(constant.model_copy(update={"schedule": "linear"}), np.array([32768, ABOVE]))


def test_masks_that_training_learned_from_tell_nothing_about_pseudo_labels(run: Path) -> None:
    recipe = _recipe(run)
    source = recipe.data.unlabelled[0]
    clips = open_source(source).clips
    assert source.toy is not None
    learned = source.model_copy(update={"toy": source.toy.model_copy(update={"labelled_clips": 1})})  # its first video
    found = reliable_pixels(run, recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": (learned,)})}))
    assert found is not None
    assert found.counts.accuracy is not None
    assert found.counts.accuracy != _seen(run).counts.accuracy
    for row in found.rows:
        assert ("truth" in dict(row.pictures)) == (row.name.split("/")[1] != clips[0].name)


def test_unreliable_pixels_are_striped_and_the_others_have_their_colour(run: Path) -> None:
    folder, row = open_pseudo(run / "pseudo"), _seen(run).rows[0]
    pictures = {caption: _decoded(uri) for caption, uri in row.pictures}
    assert list(pictures) == ["frame", "pseudo label", "entropy", "reliable pixels", "truth"]
    _, video, stem = row.name.split("/")
    dropped = folder.codes(video, stem) >= folder.thresholds(30.0)[0]
    assert dropped.any()
    changed = (pictures["reliable pixels"] != pictures["pseudo label"]).any(2)
    np.testing.assert_array_equal(changed, dropped)
    assert len(np.unique(pictures["reliable pixels"][dropped], axis=0)) == 2
    clip = next(clip for clip in open_source(_recipe(run).data.unlabelled[0]).clips if clip.name == video)
    labels = clip.labels(list(clip.stems).index(stem))
    colors = np.array([*folder.label_set.colors, (0, 0, 0)])
    np.testing.assert_array_equal(pictures["truth"], colors[np.minimum(labels, 12)])


def test_a_pixel_on_the_threshold_is_unreliable(tmp_path: Path) -> None:
    run = semi_run(tmp_path, threshold={"kind": "dataset_percentile", "alpha": 30.0})
    path = next((run / "pseudo" / "entropy").glob("0001_*/00000001.png"))
    Image.fromarray(np.full((24, 40), open_pseudo(run / "pseudo").thresholds(30.0)[0], np.uint16)).save(path)
    manifest = json.loads((run / "pseudo" / "manifest.json").read_text())  # as if labelling had written it so
    entry = next(one for one in manifest["files"] if one["path"] == path.relative_to(run / "pseudo").as_posix())
    entry |= {"size": path.stat().st_size, "sha256": file_sha256(path)}
    (run / "pseudo" / "manifest.json").write_text(json.dumps(manifest))
    row = _seen(run).rows[0]
    assert row.name == f"pseudo/{path.parent.name}/00000001"
    assert row.counts.kept == 0
    pictures = {caption: _decoded(uri) for caption, uri in row.pictures}
    assert (pictures["reliable pixels"] != pictures["pseudo label"]).any(2).all()


def test_thresholds_follow_the_recipe(run: Path) -> None:
    folder = open_pseudo(run / "pseudo")
    one = [folder]
    code = folder.thresholds(30.0)[0]
    for kind in ("batch_percentile", "dataset_percentile"):
        assert (thresholds(one, Threshold(kind=kind, alpha=30.0)) == code).all()
    np.testing.assert_array_equal(thresholds(one, Threshold(alpha=30.0, per_class=True)), folder.thresholds(30.0, per_class=True))
    absolute = thresholds(one, Threshold(kind="absolute", gamma=0.5))
    assert len(absolute) == 12
    assert 0 <= absolute[0] - int(code_of_entropy(0.5, 12)) < 16


def test_folders_share_one_percentile(run: Path) -> None:
    one = open_pseudo(run / "pseudo")
    other = replace(one, histogram=np.roll(one.histogram, -100, 1))
    together = thresholds([one, other], Threshold(alpha=30.0))
    assert (together == percentile_code((one.histogram + other.histogram).sum(0), 30.0)).all()
    assert together[0] != one.thresholds(30.0)[0]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("semi.threshold.kind=batch_percentile", "In training each batch has the percentile of its own pixels"),
        ("semi.threshold.kind=absolute", "the entropy set in the recipe, from 0.5"),
        ("semi.threshold.per_class=true", "within each pseudo class"),
        ("semi.threshold.alpha=40.0", "alpha = 40 %"),
        ("semi.threshold.schedule=linear", "falls to 0"),
    ],
)
def test_it_is_said_where_the_threshold_comes_from(run: Path, override: str, words: str) -> None:
    assert words in _seen(run, override).cut
    assert ("falls to 0" in _seen(run, override, "semi.threshold.schedule=constant").cut) is False


def test_without_the_data_there_is_neither_frame_nor_truth(run: Path) -> None:
    found = _seen(run, 'data.unlabelled=[{kind = "vspw", path = "$NOWHERE_AT_ALL"}]')
    assert "Without frames and truth: " in found.gap
    assert found.counts.accuracy is None
    assert [caption for caption, _ in found.rows[0].pictures] == ["pseudo label", "entropy", "reliable pixels"]


def test_masks_out_of_reach_are_not_opened(run: Path) -> None:
    source = '{kind = "toy", toy = {clips = 2, frames = 3, first_clip = 1, size = [24, 40], labelled_clips = 1}}'
    found = _seen(run, f"data.unlabelled=[{source}]")
    for row in found.rows:
        labelled = row.name.split("/")[1].startswith("0001")
        assert ("truth" in dict(row.pictures)) == labelled
        assert (row.counts.accuracy is not None) == labelled
    assert found.counts.accuracy is not None


def test_other_modes_have_no_stored_labels_to_show(run: Path) -> None:
    assert reliable_pixels(run, _recipe(run, "semi.mode=online", "semi.threshold.kind=batch_percentile")) is None
    assert reliable_pixels(run, _recipe(run).model_copy(update={"semi": None})) is None


def test_unfinished_or_broken_labels_are_a_sentence(tmp_path: Path) -> None:
    run = semi_run(tmp_path)
    (run / "pseudo" / "histogram.npz").write_bytes(b"")
    assert "histogram of entropies cannot be read" in _seen(run).gap
    (run / "pseudo" / "manifest.json").unlink()
    assert _seen(run).gap == "No pictures: this run has no finished pseudo labels yet."


def test_frames_corrected_by_hand_have_rows_of_their_own(tmp_path: Path) -> None:
    run = semi_run(tmp_path)
    path = next((run / "pseudo").glob("0001_*/00000001.png"))
    labels = np.asarray(Image.open(path)).copy()
    labels[:5], labels[5:] = 255, 7
    Image.fromarray(labels).save(path)
    found = _seen(run)
    assert (found.frames, found.of, found.corrected) == (5, 5, 1)
    assert [row.rank for row in found.rows] == ["least", "median", "most", "corrected"]
    assert found.rows[3].name == f"pseudo/{path.parent.name}/00000001"
    assert found.rows[3].counts.kept == 1
    assert found.edited_since == (found.rows[3].name,)
    again = reliable_pixels(run, _recipe(run), [found.rows[3].name])
    assert again is not None
    assert again.edited_since == ()
