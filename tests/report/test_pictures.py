import base64
import io

import numpy as np
import pytest
from PIL import Image

from semivss.data.images import read_mask
from semivss.data.source import open_source
from semivss.metrics.score import score_folder
from semivss.report.pictures import Material, films, panels


@pytest.fixture
def material(finished) -> Material:
    return _material(finished)


def _material(run) -> Material:
    dataset, predictions = open_source(run.recipe.data.val), run.folder / "predictions" / "val"
    return Material(dataset, predictions, score_folder(predictions, dataset, run.recipe.score))


def _decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_panels_are_best_median_and_worst_frame(material):
    found = panels(material)
    order = sorted((miou, name) for video in material.scores.videos for miou, name in zip(video.frame_miou, video.stems, strict=True))
    assert [panel.rank for panel in found] == ["best", "median", "worst"]
    assert [panel.miou for panel in found] == [order[-1][0], order[len(order) // 2 - 1][0], order[0][0]]
    assert found[0].name.endswith("/00000000")  # the noise of the predictions grows with time
    assert found[2].name.endswith("/00000018")


def test_panel_holds_frame_truth_prediction_entropy_in_class_colours(material):
    panel = panels(material)[0]
    pictures = {caption: _decoded(uri) for caption, uri in panel.pictures}
    assert list(pictures) == ["frame", "truth", "prediction", "entropy"]
    colors = material.dataset.label_set.colors
    assert tuple(pictures["truth"][-1, -1]) == colors[0]
    assert tuple(pictures["truth"][0, 0]) == (0, 0, 0)  # ignored
    assert tuple(pictures["prediction"][0, 0]) == colors[1]
    assert panel.legend[0] == ("road", "#{:02x}{:02x}{:02x}".format(*colors[0]))


def test_entropy_is_undone_from_its_square_root(material, finished):
    path = finished.folder / "predictions" / "val" / "entropy" / "2_plain" / "00000000.png"
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(path)
    np.testing.assert_allclose(material.entropy("2_plain", "00000000"), [[0, 0.25, 1]], atol=1e-4)
    path.write_bytes(b"no picture")
    assert material.entropy("2_plain", "00000000") is None


def test_films_show_evenly_spaced_frames_truth_beside_prediction(material):
    found = films(material, 10, 10_000_000)
    assert [film.video for film in found] == ["1_<i>a&b", "2_plain"]
    assert [frame.stem for frame in found[0].frames] == [f"{3 * t:08d}" for t in range(7)]
    assert [frame.miou for frame in found[1].frames] == list(material.scores.videos[1].frame_miou)
    assert _decoded(found[0].frames[0].source).shape == (36, 64 + 4 + 64, 3)


def test_films_keep_to_their_budget(material):
    one = len(films(material, 1, 10_000_000)[0].frames[0].source)
    found = films(material, 2, 2 * 3 * one + one)
    assert [len(film.frames) for film in found] == [3, 3]
    assert [frame.stem for frame in found[0].frames] == ["00000000", "00000009", "00000018"]


def test_fewer_films_than_videos_are_spread_from_best_to_worst(material):
    scores = {video.name: video.miou for video in material.scores.videos}
    assert films(material, 1, 10**6)[0].video == max(scores, key=scores.__getitem__)


def test_a_damaged_file_costs_its_frame_only(finished):
    scored = _material(finished)
    finished.data.joinpath("data", "2_plain", "origin", "00000009.jpg").write_bytes(b"")
    again = Material(open_source(finished.recipe.data.val), scored.predictions, scored.scores)
    assert "00000009" not in [frame.stem for frame in films(again, 2, 10**7)[1].frames]


def test_unlabelled_frames_are_shown_without_truth(finished):
    (finished.data / "data" / "2_plain" / "mask" / "00000006.png").unlink()
    film = films(_material(finished), 2, 10**7)[1]
    assert len(film.frames) == 7
    assert film.frames[2].miou is None


def test_large_frames_are_made_smaller(finished):
    for video in ("1_<i>a&b", "2_plain"):
        for path in [*(finished.data / "data" / video).rglob("*.*"), *finished.predictions(video)]:
            array = read_mask(path) if path.suffix == ".png" else np.asarray(Image.open(path))
            Image.fromarray(array.repeat(12, 0).repeat(12, 1)).save(path)
    material = _material(finished)
    assert _decoded(films(material, 2, 10**8)[0].frames[0].source).shape == (180, 320 + 4 + 320, 3)
    assert _decoded(films(material, 2, 40_000)[0].frames[0].source).shape == (99, 176 + 4 + 176, 3)
    assert _decoded(panels(material)[0].pictures[1][1]).shape == (236, 420, 3)
