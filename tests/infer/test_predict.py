"""Files that predict writes, what it skips and makes anew, and what it refuses."""

import hashlib
import io
import json
import math
import resource
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor, nn

from semivss.accelerator import choose_accelerator
from semivss.data.labels import LabelSet
from semivss.data.policy import DefectCounter
from semivss.data.video import VideoFile, VideoWriter
from semivss.data.vspw import read_vspw
from semivss.errors import DataError, DefectError, SemivssError
from semivss.infer import job
from semivss.infer.inputs import ClipInput, Frames, OnDefect, open_inputs
from semivss.infer.png16 import png16
from semivss.infer.predict import predict
from semivss.infer.stream import stream_distribution
from semivss.infer.views import views_from
from semivss.posterior import entropy
from semivss.settings import Predict, Views
from semivss.tensors import PixelLogits
from semivss.train import processes

CLASSES = LabelSet("three", ("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), (False,) * 3)
QUICK = Predict(entropy=False, overlay="none")


class ColorModel(nn.Module):
    """The strongest colour channel is the class."""

    rule = "spread"
    label_set = CLASSES

    def __init__(self, gain: float = 0.05) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.frames = 0

    def forward(self, frames: Tensor) -> PixelLogits:
        self.frames += len(frames)
        return PixelLogits(frames.float() * self.gain, frames.float())


def picture(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def frame_folder(folder: Path, count: int = 3, size: tuple[int, int] = (24, 40), seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(picture(*size, seed + index)).save(folder / f"{index:08d}.png")
    return folder


def video_file(path: Path, count: int = 6, fps: float = 12.5) -> Path:
    with VideoWriter(path, fps) as video:
        for index in range(count):
            video.write(np.full((32, 48, 3), (250, 20, 20) if index % 2 else (20, 20, 250), np.uint8))
    return path


def files(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file() and path.name[0] != "."
    }


def manifest(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


def test_label_pngs_hold_ids_and_colours_at_the_frames_size(tmp_path: Path) -> None:
    folder = frame_folder(tmp_path / "clip")
    predict([ColorModel()], open_inputs(folder), tmp_path / "out", QUICK)
    for index in range(3):
        with Image.open(tmp_path / "out" / "clip" / f"{index:08d}.png") as image:
            assert image.mode == "P"
            assert image.getpalette()[:9] == [255, 0, 0, 0, 255, 0, 0, 0, 255]
            assert np.array_equal(np.asarray(image), picture(24, 40, index).argmax(2))


def test_entropy_and_probability_files_can_be_turned_back(tmp_path: Path) -> None:
    folder, model = frame_folder(tmp_path / "clip", 1), ColorModel()
    settings = Predict(views=Views(scales=(1.0, 1.5), flip=True), overlay="none", probabilities="float16")
    predict([model], open_inputs(folder), tmp_path / "half", settings)
    predict([model], open_inputs(folder), tmp_path / "byte", settings.model_copy(update={"probabilities": "uint8"}))
    (p,) = stream_distribution([model], None, [picture(24, 40, 0)], views_from(settings.views))
    with Image.open(tmp_path / "half" / "entropy" / "clip" / "00000000.png") as image:
        assert image.mode == "I;16"
        code = np.asarray(image).astype(np.float64)
    np.testing.assert_allclose((code / 65535) ** 2 * math.log(3), entropy(p[None])[0].numpy(), atol=5e-5)
    for out, tolerance in (("half", 1e-3), ("byte", 0.5 / 255 + 1e-6)):
        stored = np.load(tmp_path / out / "probabilities" / "clip" / "00000000.npz")
        assert stored["p"].dtype == (np.float16 if out == "half" else np.uint8)
        np.testing.assert_allclose(stored["p"].astype(np.float32) * stored["scale"], p.numpy(), atol=tolerance)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (24, 40)])
def test_16_bit_pngs_are_read_back_equal(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, size, dtype=np.uint16)
    with Image.open(io.BytesIO(png16(values))) as image:
        image.verify()
    with Image.open(io.BytesIO(png16(values))) as image:
        assert image.mode == "I;16"
        assert np.array_equal(np.asarray(image), values)


def test_the_manifest_lists_every_file_with_its_hash(tmp_path: Path) -> None:
    frame_folder(tmp_path / "in" / "a", 2)
    video_file(tmp_path / "in" / "b.mp4")
    done = predict([ColorModel()], open_inputs(tmp_path / "in"), tmp_path / "out", Predict(views=Views(flip=True)), [2.0])
    assert (done.predicted, done.skipped, done.frames) == (("a", "b"), (), 8)
    written = files(tmp_path / "out")
    listed = {entry["path"]: (entry["size"], entry["sha256"]) for entry in manifest(tmp_path / "out")["files"]}
    kept = {path: data for path, data in written.items() if not path.startswith("records/") and path != "manifest.json"}
    assert listed == {path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in kept.items()}
    assert {"a.mp4", "b.mp4", "a/00000001.png", "entropy/b/00000005.png"} <= listed.keys()
    videos = manifest(tmp_path / "out")["videos"]
    assert [(video["name"], video["frames"], video["defects"]) for video in videos] == [("a", 2, 0), ("b", 6, 0)]
    pixels = b"".join(frame.tobytes() for _, frame in VideoFile(tmp_path / "in" / "b.mp4").stream())
    assert videos[1]["input_sha256"] == hashlib.sha256(pixels).hexdigest()
    assert manifest(tmp_path / "out")["made_from"]["views"]["flip"] is True
    assert {"semivss", "torch"} <= manifest(tmp_path / "out")["versions"].keys()


def test_the_overlay_has_the_videos_rate_and_the_classes_colours(tmp_path: Path) -> None:
    predict([ColorModel()], open_inputs(video_file(tmp_path / "v.mp4")), tmp_path / "out", Predict(entropy=False))
    overlay = VideoFile(tmp_path / "out" / "v.mp4")
    assert overlay.fps == pytest.approx(12.5)
    shown = [frame for _, frame in overlay.stream()]
    assert len(shown) == 6
    assert shown[1][40, 40].argmax() == 0
    assert shown[0][40, 40].argmax() == 2
    frame_folder(tmp_path / "clip", 2)
    predict([ColorModel()], open_inputs(tmp_path / "clip"), tmp_path / "out", Predict(entropy=False, overlay="side_by_side", fps=5.0))
    both = VideoFile(tmp_path / "out" / "clip.mp4")
    assert both.fps == pytest.approx(5)
    assert both.size[1] == 2 * 10 * 40  # 24 x 40 is enlarged tenfold


def test_portrait_and_landscape_frames_of_one_folder_share_an_overlay(tmp_path: Path) -> None:
    folder = frame_folder(tmp_path / "clip", 2)
    Image.fromarray(picture(40, 24, 9)).save(folder / "00000002.png")
    predict([ColorModel()], open_inputs(folder), tmp_path / "out", Predict(entropy=False))
    assert VideoFile(tmp_path / "out" / "clip.mp4").count() == 3
    with Image.open(tmp_path / "out" / "clip" / "00000002.png") as image:
        assert image.size == (24, 40)


def test_a_second_call_does_nothing_and_a_damaged_output_is_made_anew(tmp_path: Path) -> None:
    frame_folder(tmp_path / "in" / "a")
    frame_folder(tmp_path / "in" / "b", seed=7)
    model, out = ColorModel(), tmp_path / "out"
    predict([model], open_inputs(tmp_path / "in"), out, QUICK)
    before, model.frames = files(out), 0
    again = predict([model], open_inputs(tmp_path / "in"), out, QUICK)
    assert (again.skipped, again.frames, model.frames) == (("a", "b"), 0, 0)
    assert files(out) == before
    (out / "b" / "00000001.png").write_bytes(b"")
    again = predict([model], open_inputs(tmp_path / "in"), out, QUICK)
    assert (again.predicted, again.skipped) == (("b",), ("a",))
    assert files(out) == before


@pytest.mark.parametrize("change", ["model", "views", "weights", "what", "input"])
def test_a_video_is_made_anew_when_what_decides_it_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str) -> None:
    folder, out = frame_folder(tmp_path / "clip"), tmp_path / "out"
    models = [ColorModel(), ColorModel(0.02)]
    predict(models, open_inputs(folder), out, QUICK)
    settings, weights = QUICK, None
    match change:
        case "model":
            models[1].gain.data += 1e-6
        case "views":
            settings = QUICK.model_copy(update={"views": Views(flip=True)})
        case "weights":
            weights = [1.0, 2.0]
        case "what":
            settings = QUICK.model_copy(update={"entropy": True})
        case "input":
            Image.fromarray(picture(24, 40, 99)).save(folder / "00000000.png")
    assert predict(models, open_inputs(folder), out, settings, weights).frames == 3
    assert "clip: made before with other" in capsys.readouterr().err
    batch = settings.model_copy(update={"batch": 1})
    assert predict(models, open_inputs(folder), out, batch, weights).skipped == ("clip",)


def test_files_of_an_earlier_call_go_when_the_video_is_shorter_now(tmp_path: Path) -> None:
    folder, out = frame_folder(tmp_path / "clip"), tmp_path / "out"
    predict([ColorModel()], open_inputs(folder), out, Predict())
    (out / "clip" / "mine.txt").write_text("kept")
    (folder / "00000002.png").unlink()
    predict([ColorModel()], open_inputs(folder), out, QUICK)
    assert sorted(path for path in files(out) if "clip" in path) == [
        "clip/00000000.png",
        "clip/00000001.png",
        "clip/mine.txt",
        "records/clip.jsonl",
    ]


def test_a_damaged_frame_stops_strict_and_keeps_what_is_written(tmp_path: Path) -> None:
    frame_folder(tmp_path / "in" / "a")
    frame_folder(tmp_path / "in" / "b")
    bad = tmp_path / "in" / "b" / "00000001.png"
    bad.write_bytes(bad.read_bytes()[:100])
    out = tmp_path / "out"
    with pytest.raises(DefectError, match=r"00000001\.png") as caught:
        predict([ColorModel()], open_inputs(tmp_path / "in"), out, Predict(batch=1))
    assert "\n" not in str(caught.value)
    assert {"a/00000002.png", "a.mp4", "records/a.jsonl", "b/00000000.png"} <= files(out).keys()
    assert not {"b.mp4", "records/b.jsonl"} & files(out).keys()
    assert not list(out.rglob("*.tmp"))
    done = predict([ColorModel()], open_inputs(tmp_path / "in"), out, Predict(batch=1), policy="skip")
    assert (done.predicted, done.skipped, done.defects) == (("b",), ("a",), {"truncated": 1})
    assert manifest(out)["defects"] == {"truncated": {"count": 1, "files": [str(bad)]}}
    assert {"name": "b", "frames": 2, "defects": 1}.items() <= manifest(out)["videos"][1].items()


def test_ctrl_c_keeps_finished_videos_and_a_restart_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Interrupted(ClipInput):
        def frames(self, on_defect: OnDefect) -> Frames:
            for number, item in enumerate(super().frames(on_defect)):
                if number == 2:
                    raise KeyboardInterrupt
                yield item

    for number in range(2):
        frame_folder(tmp_path / "in" / f"clip{number}", seed=10 * number)
    first, second = open_inputs(tmp_path / "in")
    out, settings = tmp_path / "out", Predict(batch=1)
    with pytest.raises(KeyboardInterrupt):
        predict([ColorModel()], [first, Interrupted(second.clip)], out, settings)
    assert {"records/clip0.jsonl", "clip0.mp4", "clip1/00000001.png"} <= files(out).keys()
    assert not {"records/clip1.jsonl", "clip1.mp4"} & files(out).keys()
    (out / "clip1" / ".00000001.png.abc.tmp").write_bytes(b"left by a kill")
    (out / ".clip1.mp4.abc.tmp").write_bytes(b"left by a kill")
    done = predict([ColorModel()], [first, second], out, settings)
    assert (done.predicted, done.skipped) == (("clip1",), ("clip0",))
    assert not list(out.rglob("*.tmp"))
    predict([ColorModel()], [first, second], tmp_path / "once", settings)
    assert files(out) == files(tmp_path / "once")


def test_a_video_that_is_cut_short_gives_its_sound_frames(tmp_path: Path) -> None:
    path = video_file(tmp_path / "v.mkv.mp4", 30)
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    done = predict([ColorModel()], open_inputs([path, empty]), tmp_path / "out", Predict(), policy="skip")
    assert done.frames == 30
    assert done.defects == {"zero_byte": 1}
    with pytest.raises(DefectError, match=r"empty\.mp4"):
        predict([ColorModel()], open_inputs(empty), tmp_path / "other", QUICK)


def test_a_full_disk_is_one_line_and_the_video_counts_as_unfinished(tmp_path: Path) -> None:
    folder, out = frame_folder(tmp_path / "clip", 3, (200, 300)), tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # larger than the first files, smaller than an entropy map
    try:
        with pytest.raises(SemivssError, match="cannot write") as caught:
            predict([ColorModel()], open_inputs(folder), out, Predict(overlay="none"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert not (out / "records" / "clip.jsonl").exists()
    assert predict([ColorModel()], open_inputs(folder), out, Predict(overlay="none")).frames == 3


def test_outputs_never_replace_inputs(tmp_path: Path) -> None:
    folder = frame_folder(tmp_path / "clip")
    path = video_file(tmp_path / "v.mp4")
    for source in (folder, path):
        before = files(tmp_path)
        with pytest.raises(DataError, match="would replace this input"):
            predict([ColorModel()], open_inputs(source), tmp_path, Predict())
        assert files(tmp_path) == before


def test_predictions_never_lie_among_frames(tmp_path: Path) -> None:
    folder = frame_folder(tmp_path / "clip")
    before = files(folder)
    with pytest.raises(DataError, match="or lie in its folder"):
        predict([ColorModel()], open_inputs(folder), folder, Predict())
    assert files(folder) == before


def test_a_video_whose_frames_change_size_ends_there_or_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "change.h264"
    for height, width in ((48, 64), (32, 48)):
        with av.open(tmp_path / "part.h264", "w", format="h264") as part:
            stream = part.add_stream("libx264", rate=15, options={"tune": "zerolatency"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for value in (50, 100, 150):
                part.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((height, width, 3), value, np.uint8), format="rgb24")))
            part.mux(stream.encode(None))
        with path.open("ab") as whole:
            whole.write((tmp_path / "part.h264").read_bytes())
    with pytest.raises(DefectError, match="its frames change size from 64x48 to 48x32"):
        predict([ColorModel()], open_inputs(path), tmp_path / "strict", QUICK)
    more = frame_folder(tmp_path / "more")
    done = predict([ColorModel()], open_inputs([path, more]), tmp_path / "skip", QUICK, policy="skip")
    assert (done.predicted, done.defects) == (("change", "more"), {"size_change": 1})
    assert len(list((tmp_path / "skip" / "change").glob("*.png"))) == 3


def test_predictions_never_lie_in_the_folder_of_their_input(tmp_path: Path) -> None:
    frame_folder(tmp_path / "set" / "data" / "clip" / "origin")
    with pytest.raises(DataError, match="lie in its folder"):
        predict([ColorModel()], open_inputs(tmp_path / "set"), tmp_path / "set" / "data", QUICK)


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    folder, out = frame_folder(tmp_path / "clip"), tmp_path / "out"
    out.mkdir()
    (out / ".lock.json").write_text(json.dumps({"pid": 4711, "host": "there", "since": "2024-01-01 10:00:00"}))
    with FileLock(out / ".lock"), pytest.raises(SemivssError, match=r"process 4711 on there \(since 2024-01-01 10:00:00\)"):
        predict([ColorModel()], open_inputs(folder), out, QUICK)
    predict([ColorModel()], open_inputs(folder), out, QUICK)
    assert not (out / ".lock.json").exists()


@pytest.mark.parametrize("name", ["entropy", "records", ".hidden"])
def test_names_that_meet_our_own_folders_are_refused(tmp_path: Path, name: str) -> None:
    folder = frame_folder(tmp_path / name)
    with pytest.raises(DataError, match="rename the video"):
        predict([ColorModel()], open_inputs(folder), tmp_path / "out", QUICK)


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    folder, out = frame_folder(tmp_path / "clip"), tmp_path / "out"
    predict([ColorModel()], open_inputs(folder), out, QUICK)
    (out / "records" / "clip.jsonl").write_text("{broken")
    with pytest.raises(DataError, match=r"clip\.jsonl: not readable"):
        predict([ColorModel()], open_inputs(folder), out, QUICK)


@pytest.mark.parametrize("opened", ["as a data set", "from paths"])
def test_videos_that_the_reader_left_out_stand_in_the_manifest(opened, tmp_path):
    root, out = tmp_path / "set", tmp_path / "out"
    frame_folder(root / "data" / "v1" / "origin")
    (root / "val.txt").write_text("v1\nv2\n")
    if opened == "as a data set":
        done = predict([ColorModel()], read_vspw(root, "val", policy="skip"), out, QUICK, policy="skip")
    else:
        left_out = DefectCounter()
        inputs = open_inputs(root, split="val", policy="skip", left_out=left_out)
        done = predict([ColorModel()], inputs, out, QUICK, policy="skip", left_out=left_out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert done.defects["missing_video"] == manifest["defects"]["missing_video"]["count"] == 1
    assert manifest["defects"]["missing_video"]["files"] == [f"{root / 'val.txt'}: v2"]


def test_windows_that_do_not_fit_memory_are_told_in_one_line_with_remedies(tmp_path: Path) -> None:
    class Greedy(ColorModel):
        def forward(self, frames: Tensor) -> PixelLogits:
            raise torch.OutOfMemoryError("CUDA out of memory")

    inputs = open_inputs(frame_folder(tmp_path / "in" / "clip"))
    with pytest.raises(SemivssError, match=r"clip, frame 1: out of memory with 4 windows at a time; lower predict.batch in the recipe"):
        predict([Greedy()], inputs, tmp_path / "out", QUICK)


def test_answers_that_do_not_fit_memory_are_told_in_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("semivss.infer.predict.read_answers", greedy)
    with pytest.raises(SemivssError, match=r"clip, frame 0\w*: out of memory with 4 windows at a time"):
        predict([ColorModel()], open_inputs(frame_folder(tmp_path / "in" / "clip")), tmp_path / "out", QUICK)


class Travelling(ColorModel):
    """Notes where it is sent, and stays."""

    def to(self, *places, **_more):
        self.sent = [*getattr(self, "sent", []), *places]
        return self


def test_models_on_the_cpu_are_sent_to_the_device_that_trains(tmp_path, monkeypatch):
    monkeypatch.setattr("semivss.infer.job.choose_accelerator", lambda: "cuda")
    models = [Travelling(), Travelling()]
    predict(models, open_inputs(frame_folder(tmp_path / "video")), tmp_path / "out", QUICK)
    assert [model.sent for model in models] == [["cuda"], ["cuda"]]


def test_training_and_prediction_choose_the_same_device(monkeypatch):
    assert choose_accelerator() in {"cpu", "cuda", "mps"}
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_accelerator() == ("cuda" if torch.cuda.is_available() else "mps")
    assert processes.choose_accelerator is job.choose_accelerator is choose_accelerator


class Product(ColorModel):
    """Its answer is a matrix product, which autocast runs in bfloat16."""

    def forward(self, frames: Tensor) -> PixelLogits:
        self.kind = (frames.float().movedim(1, 3) @ (torch.eye(3) * self.gain)).dtype
        return PixelLogits((frames.float().movedim(1, 3) @ (torch.eye(3) * self.gain)).movedim(3, 1), frames.float())


def test_bf16_is_the_models_alone():
    model, frame = Product().eval(), picture(16, 24, 0)
    exact, rough = (next(stream_distribution([model], None, [frame], precision=kind)) for kind in ("32", "bf16"))
    assert model.kind == torch.bfloat16
    assert exact.dtype == rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(rough.sum(0), torch.ones(16, 24))
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0)
    assert not torch.is_autocast_enabled("cpu")


def test_a_record_of_before_a_setting_existed_is_finished(tmp_path):
    inputs, out = open_inputs(frame_folder(tmp_path / "video")), tmp_path / "out"
    predict([ColorModel()], inputs, out, QUICK)
    (record,) = (out / "records").glob("*.jsonl")
    head, rest = record.read_text().split("\n", 1)
    older = json.loads(head)
    del older["made_from"]["precision"], older["made_from"]["views"]["short_side"]
    record.write_text(json.dumps(older) + "\n" + rest)
    assert predict([ColorModel()], inputs, out, QUICK).skipped == ("video",)
    assert predict([ColorModel()], inputs, out, QUICK.model_copy(update={"precision": "bf16"})).predicted == ("video",)


def test_a_precision_that_is_left_to_the_machine_makes_nothing_anew(tmp_path: Path) -> None:
    source, out = frame_folder(tmp_path / "clip"), tmp_path / "out"
    predict([ColorModel()], open_inputs(source), out, QUICK.model_copy(update={"precision": "bf16"}))
    assert predict([ColorModel()], open_inputs(source), out, QUICK.model_copy(update={"precision": "auto"})).skipped == ("clip",)
    assert manifest(out)["made_from"]["precision"] == "bf16"
    more = [*open_inputs(source), *open_inputs(frame_folder(tmp_path / "other"))]
    assert predict([ColorModel()], more, out, QUICK.model_copy(update={"precision": "auto"})).predicted == ("other",)
    assert manifest(out)["made_from"]["precision"] == ["32", "bf16"]
    assert predict([ColorModel()], open_inputs(source), out, QUICK.model_copy(update={"precision": "32"})).predicted == ("clip",)
