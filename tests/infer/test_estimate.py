"""What is said about a long run after its first frames, and the operations that are counted for it."""

import itertools
import time
from functools import partial

import pytest
from crew import PixelModel, write_clips

from semivss.cost.forward_cost import forward_cost
from semivss.data.labels import vspw124
from semivss.errors import SemivssError
from semivss.infer import estimate, job
from semivss.infer.estimate import Forecast, Work, bytes_a_frame, flops_a_frame, forecast, frame_size
from semivss.infer.inputs import open_inputs
from semivss.infer.predict import predict
from semivss.infer.stream import Fit
from semivss.infer.views import View, views_from
from semivss.models.zoo import build_segmenter
from semivss.presets import PRESETS
from semivss.settings import Model, Predict, Views
from semivss.wording import duration, megabytes, operations, readable


@pytest.fixture
def videos(tmp_path):
    return open_inputs(write_clips(tmp_path / "in", videos=2, frames=10))


def work(out, *models, views=None, batch=4):
    return Work(models or (PixelModel(),), views or (View(),), "32", out, lambda size: Fit(batch))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.04, "0.04 s"),
        (4.62, "4.6 s"),
        (9.96, "10 s"),
        (12, "12 s"),
        (2700, "45 min"),
        (12000, "3 h 20 min"),
        (864000, "10.0 days"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_words_for_operations_and_bytes():
    assert [operations(count) for count in (5e9, 34.5e12, 2.011e15, 5.8e19)] == ["5 GFLOP", "34.5 TFLOP", "2.01 PFLOP", "58 EFLOP"]
    assert [megabytes(count) for count in (1, 956e6, 1_050_000_001)] == ["1 MB", "956 MB", "1,051 MB"]
    assert [readable(count) for count in (4_400, 640e6, 3.2e9, 1.25e12)] == ["4 kB", "640 MB", "3.2 GB", "1.2 TB"]


def test_operations_of_many_sizes_are_those_of_each_counted(tmp_path):
    model = build_segmenter(Model(backbone="vit_adapter_tiny"), vspw124())
    wanted = work(tmp_path, model, model, views=views_from(PRESETS["paper"]))
    windows = wanted.windows((96, 170))
    assert len({height * width for height, width in windows}) > 3
    exact = sum(forward_cost(model, size, 1).flops for size in windows)
    assert flops_a_frame(wanted, (96, 170)) == pytest.approx(2 * exact, rel=0.01)


def test_operations_of_models_of_others_are_not_known(tmp_path):
    assert flops_a_frame(work(tmp_path), (24, 40)) is None


def test_the_rate_leaves_the_first_frame_out_and_takes_whole_batches(videos, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    seen: list[Forecast] = []

    def steps():  # two frames of a batch a second apart every 4 seconds, after 100 seconds in which a library gets ready
        now[0] = 100.0
        for _ in range(6):
            for pause in (3, 1):
                now[0] += pause
                yield True

    wanted = work(tmp_path, batch=2)
    assert sum(forecast(steps(), wanted, videos, 12, [], seen.append)) == 12
    assert len(seen) == 1
    assert seen[0].seconds == pytest.approx(2)
    assert seen[0].run == pytest.approx(24)
    assert seen[0].size == (24, 40)


def test_frames_of_other_workers_are_not_timed_and_are_shared(videos, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    now = itertools.count(0, 3)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(now)))
    seen: list[Forecast] = []
    assert list(forecast([True, False, True, False, True], work(tmp_path, batch=1), videos, 20, [], seen.append))
    assert [one.seconds for one in seen] == [3]
    assert seen[0].run == pytest.approx(30)


def test_long_runs_are_told_about_and_short_ones_are_not(tmp_path, capsys):
    model = build_segmenter(Model(backbone="tiny"), vspw124())
    for frames in (59, 12_000):
        Forecast(work(tmp_path, model), (64, 64), frames, 1.0, 1e5).tell()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("1 window for a frame of 64x64, ")
    assert "FLOP in all" in said[0]
    assert said[1] == "expected: 3 h 20 min for 12,000 frames (1 s a frame); 1.2 GB on disk"
    Forecast(work(tmp_path), (64, 64), None, 0.5, 2e5).tell()
    said = capsys.readouterr().err.splitlines()
    assert "not known how many operations" in said[0]
    assert said[1] == "expected: 0.5 s and 200 kB on disk a frame; how many frames there are is not known"


def test_a_run_is_forecast_from_its_own_frames(videos, tmp_path, monkeypatch):
    seen: list[Forecast] = []
    monkeypatch.setattr(estimate, "ENOUGH", 0.3)
    monkeypatch.setattr(job, "forecast", partial(forecast, tell=seen.append))
    out = tmp_path / "out"
    done = predict([PixelModel(pause=0.1)], videos, out, Predict(views=Views(flip=True), batch=1, overlay="none"))
    assert len(seen) == 1
    assert seen[0].frames == done.frames == 20
    assert seen[0].run == pytest.approx(done.seconds, rel=0.2)
    stored = sum(path.stat().st_size for path in out.rglob("*.png"))
    assert seen[0].stored * 20 == pytest.approx(stored, rel=0.2)


def test_bytes_are_those_of_new_files(videos, tmp_path):
    out = tmp_path / "out"
    predict([PixelModel(pause=0.0)], videos, out, Predict())
    stored = sum(path.stat().st_size for path in out.rglob("*") if path.suffix in (".png", ".mp4") and path.is_file())
    assert bytes_a_frame(out, ["v0", "v1"], time.time() - 60) == pytest.approx(stored / 20)
    assert bytes_a_frame(out, ["v0", "v1"], time.time() + 60) == 0


def test_the_size_of_a_frame(videos, tmp_path):
    assert frame_size(videos) == (24, 40)
    (tmp_path / "in" / "v0" / "0000.png").write_bytes(b"no picture")
    assert frame_size(videos) == (24, 40)
    assert frame_size([]) is None


def test_a_scale_that_leaves_nothing_to_see_is_refused(tmp_path):
    inputs = open_inputs(write_clips(tmp_path / "in", videos=1, frames=1, size=(64, 96)))
    with pytest.raises(SemivssError, match=r"scale 0\.25 makes a view of 16x24 pixels, and models need 32 a side") as told:
        predict([PixelModel()], inputs, tmp_path / "out", Predict(views=Views(scales=(1.0, 0.25))))
    assert "larger scales" in str(told.value)
    with pytest.raises(SemivssError, match=r"scale 1 makes a view of 10x10 pixels, and models need 32 a side"):
        predict([PixelModel()], inputs, tmp_path / "out", Predict(views=Views(base=(10, 10))))
    assert not list((tmp_path / "out").glob("v0*"))
