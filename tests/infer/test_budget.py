"""The largest views that fit a budget of time, and that a folder goes on with."""

import json
import re
import shutil

import pytest
from crew import PixelModel, write_clips

from semivss.errors import SemivssError
from semivss.infer import budget as timing
from semivss.infer.budget import FILE, choose_views, seconds_a_frame
from semivss.infer.inputs import open_inputs
from semivss.infer.predict import predict, predict_job
from semivss.models.bias_memory import BiasMemory
from semivss.presets import Budget
from semivss.settings import Predict, Views

LADDER = {"single": Views(), "fast": Views(flip=True), "large": Views(scales=(1.0, 1.5), flip=True)}


@pytest.fixture
def videos(tmp_path):
    return open_inputs(write_clips(tmp_path / "in", videos=2, frames=5, size=(64, 96)))


@pytest.fixture
def choose(videos, tmp_path):
    """Views for so many seconds; ten frames of 0.05 s a window, one window at a time."""

    def chosen(seconds, out="out", pause=0.05, views=LADDER, inputs=videos):
        settings = Predict(batch=1, overlay="none")
        models = [PixelModel(pause=float(pause)).eval()]

        def job_of(views):
            return predict_job(models, tmp_path / out, settings.model_copy(update={"views": views}))

        return choose_views(Budget(float(seconds), views), job_of, inputs)

    return chosen


def test_the_time_of_a_frame_is_that_of_its_windows(videos, tmp_path):
    settings = Predict(views=Views(flip=True), batch=1, overlay="none")
    job = predict_job([PixelModel(pause=0.2).eval()], tmp_path / "out", settings)
    assert seconds_a_frame(job, videos, 1.0, warm=True) == pytest.approx(0.4, rel=0.2)
    assert not (tmp_path / "out").exists()


def test_the_largest_that_fits_is_taken(choose, capsys):
    # at least 0.5, 1 and 2 seconds for ten frames, and the timing before
    assert choose(60, "a") == LADDER["large"]
    said = capsys.readouterr().err
    assert "views: large, the largest that fits 60 s; expected: single" in said
    assert choose(5, "b", pause=0.25) == LADDER["single"]  # 2.5, 5 and 10 seconds
    assert "about" in capsys.readouterr().err  # what is beyond reach is not timed


def test_too_little_time_is_refused_before_anything_is_written(choose, tmp_path):
    with pytest.raises(SemivssError, match=r"--budget of 0\.4 s: too little, single") as told:
        choose(0.4)
    assert "give fewer frames" in str(told.value)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{FILE}.lock"}


def test_a_folder_goes_on_with_what_was_chosen(choose, videos, tmp_path, capsys, monkeypatch):
    assert choose(60) == LADDER["large"]

    def never(*_given, **_more):
        raise AssertionError("timed again")

    with monkeypatch.context() as patch:
        patch.setattr(timing, "seconds_a_frame", never)
        assert choose(60) == LADDER["large"]  # nothing is finished, but it is the same budget
        assert re.search(r"views: large, as was chosen for \S+ \(expected then: single 0\.\S+ s, fast", capsys.readouterr().err)
    assert choose(5, pause=0.25) == LADDER["single"]  # another one, and nothing would be lost
    predict([PixelModel(pause=0.15)], videos[:1], tmp_path / "out", Predict(views=LADDER["single"], batch=1, overlay="none"))
    with monkeypatch.context() as patch:
        patch.setattr(timing, "seconds_a_frame", never)
        assert choose(1000) == LADDER["single"]  # a video is finished


def test_other_models_are_timed_anew(choose, tmp_path):
    choose(60)
    record = json.loads((tmp_path / "out" / FILE).read_text())
    record["made_from"]["models"] = ["others"]
    (tmp_path / "out" / FILE).write_text(json.dumps(record))
    assert choose(5, pause=0.25) == LADDER["single"]
    (tmp_path / "out" / FILE).write_text("damaged")
    assert choose(60, pause=0) == LADDER["large"]


def test_finished_videos_do_not_count(choose, videos, tmp_path):
    for views in LADDER.values():
        predict([PixelModel(pause=0.0)], videos, tmp_path / "out", Predict(views=views, batch=1, overlay="none"))
    assert choose(0.2, pause=0.1) == LADDER["large"]  # the last ones, which are there: nothing is left to do
    shutil.rmtree(tmp_path / "out" / "records")
    with pytest.raises(SemivssError, match="too little"):
        choose(0.3, pause=0.1)


def test_views_that_the_models_cannot_have_are_left_out(choose, capsys):
    tiny = LADDER | {"tiny": Views(scales=(0.1,), flip=True)}
    assert choose(60, pause=0, views=tiny) == LADDER["large"]
    assert "views: tiny left out, scale 0.1 makes a view of" in capsys.readouterr().err


def test_timing_leaves_nothing_behind(choose, tmp_path):
    (dead := tmp_path / "out" / ".timing_dead").mkdir(parents=True)
    (dead / "0.png").touch()
    choose(60, pause=0)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {FILE, f"{FILE}.lock"}


def test_limits_of_biases_are_what_they_were_before_the_timing():
    model = PixelModel(pause=0.0)
    model.biases = BiasMemory(100)
    with timing._undone([model]):
        model.biases.shrink(10)
    assert model.biases.limit == 100


def test_an_unknown_number_of_frames_is_refused(choose, videos):
    class Endless:
        name = "endless"
        frames, fps, identity, sources = videos[0].frames, videos[0].fps, videos[0].identity, videos[0].sources

        def count(self):
            return None

    with pytest.raises(SemivssError, match="endless: how many frames it has is not known"):
        choose(60, inputs=[Endless()])
