"""Exported files: equal to PyTorch, complete in what they say, and taken wherever a model folder predicts; what is refused, and how."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from semivss.data.labels import LabelSet, distinct_colors
from semivss.errors import SemivssError, WeightsError
from semivss.infer import export
from semivss.infer.export import export_onnx
from semivss.infer.inputs import open_inputs
from semivss.infer.manifest import model_hash
from semivss.infer.onnx_model import OnnxModel, open_model
from semivss.infer.predict import predict, stream_distribution
from semivss.infer.pseudo import pseudo_label
from semivss.infer.views import views_from
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.posterior import pixel_distribution
from semivss.settings import Mask2FormerHead, Model, PixelHead, Predict, PseudoLabels, Views
from semivss.verbs import model_folder, models_and_inputs

LABELS = LabelSet("colours", ("red", "green", "blue", "grey"), distinct_colors(4), (True, False, False, False))
SMALL = Mask2FormerHead(
    channels=32, queries=5, encoder_layers=1, decoder_layers=3, heads=4, encoder_feedforward=32, feedforward=32, points=200
)
SIZE = (60, 92)  # no multiples of 32, so that frames are padded
PLAIN = Predict(entropy=False, overlay="none")


def segmenter(backbone: str = "tiny", head: str = "pixel") -> Segmenter:
    torch.manual_seed(0)
    model = build_segmenter(Model(backbone=backbone, head=head, pixel=PixelHead(channels=16), mask2former=SMALL), LABELS)
    with torch.no_grad():  # what starts at 0, or nearly, would hide what is behind it, and all classes would be as likely
        for name, parameter in model.named_parameters():
            if "gamma" in name or "table" in name:
                parameter.normal_(0.5, 0.2)
            elif name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
                parameter.normal_(0, 0.1)
            elif name == "head.classify.weight":
                parameter.normal_(0, 1)
    return model.eval()


def frames(count: int = 1, size: tuple[int, int] = SIZE, seed: int = 7) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def frame_folder(folder: Path, count: int = 2, size: tuple[int, int] = SIZE) -> Path:
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames(count, size)):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(folder / f"{index:08d}.png")
    return folder


def labels_in(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]


def distributions(model: object, size: tuple[int, int], views: Views) -> torch.Tensor:
    pictures = [frame.permute(1, 2, 0).numpy() for frame in frames(2, size)]
    return torch.stack(list(stream_distribution([model], None, pictures, views_from(views))))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a model, and what it was exported to."""
    folder = tmp_path_factory.mktemp("export")
    model = segmenter()
    model.save_pretrained(folder / "model")
    export_onnx(model, folder / "scores.onnx", SIZE)
    export_onnx(model, folder / "labels.onnx", SIZE, "labels")
    return folder


@torch.no_grad()
@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("tiny", "mask2former"),
        ("timm/tf_efficientnet_lite0", "pixel"),
        ("swin_tiny", "mask2former"),
        ("vit_adapter_tiny", "pixel"),
        ("one_peace_tiny", "mask2former"),
        *(
            pytest.param(backbone, head, marks=pytest.mark.slow)
            for backbone, head in [
                ("timm/tf_efficientnet_lite0", "mask2former"),
                ("timm/resnet18", "pixel"),
                ("timm/convnext_atto", "pixel"),
                ("swin_tiny", "pixel"),
                ("beit_tiny", "pixel"),
                ("vit_adapter_tiny", "mask2former"),
                ("vit_adapter_plain_tiny", "pixel"),
                ("one_peace_tiny", "pixel"),
            ]
        ),
    ],
)
def test_scores_are_pytorchs_for_each_backbone_and_head(backbone, head, tmp_path):
    model = segmenter(backbone, head)
    described = export_onnx(model, tmp_path / "model.onnx", SIZE)
    assert described.parity.keys() == {"random", "natural"}
    assert all(0 < parity.scores <= 1e-4 and parity.labels >= 0.999 for parity in described.parity.values())
    given = OnnxModel(tmp_path / "model.onnx")(frames(2)).p
    wanted = pixel_distribution(model(frames(2)), SIZE, model.rule)
    torch.testing.assert_close(given, wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(given.sum(1), torch.ones(2, *SIZE), atol=1e-5, rtol=0)
    assert wanted.std() > 0.01  # there was something to differ in
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@torch.no_grad()
def test_labels_are_the_arg_max(made):
    model = segmenter()
    given = OnnxModel(made / "labels.onnx")(frames(2)).p
    wanted = pixel_distribution(model(frames(2)), SIZE, model.rule)
    assert given.unique().tolist() == [0, 1]
    assert (given.argmax(1) == wanted.argmax(1)).float().mean() >= 0.999


def test_the_file_says_what_it_is(made):
    proto = onnx.load(made / "scores.onnx")
    onnx.checker.check_model(proto)
    told = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert told["semivss.names"] == list(LABELS.names)
    assert told["semivss.colors"] == [list(color) for color in LABELS.colors]
    assert (told["semivss.kind"], told["semivss.size"], told["semivss.rule"]) == ("scores", list(SIZE), "spread")
    assert told["semivss.model"]["backbone"] == "tiny"
    assert told["semivss.model_hash"] == model_hash(Segmenter.from_pretrained(made / "model"))
    assert told["semivss.versions"].keys() == {"semivss", "torch", "onnx", "onnxscript", "onnxruntime"}
    for kind in ("random", "natural"):
        parity = told["semivss.parity"][kind]
        assert parity["frames"] == 2
        assert parity["scores"] <= 1e-4
        assert parity["labels"] >= 0.999
    described = OnnxModel(made / "labels.onnx").description
    assert (described.kind, described.parity["random"].scores) == ("labels", None)
    (frame,), (scores,) = proto.graph.input, proto.graph.output
    assert [size.dim_value for size in frame.type.tensor_type.shape.dim] == [1, 3, *SIZE]
    assert [size.dim_value for size in scores.type.tensor_type.shape.dim] == [1, len(LABELS), *SIZE]
    assert frame.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_the_file_is_the_same_each_time_and_names_no_folder_of_the_machine(made, tmp_path):
    export_onnx(segmenter(), tmp_path / "again.onnx", SIZE)
    data = (made / "scores.onnx").read_bytes()
    assert data == (tmp_path / "again.onnx").read_bytes()
    assert not any(word in data for word in (b"/semivss", b"site-packages", b"stack_trace"))


def test_predictions_are_those_of_the_model_folder(made, tmp_path):
    folder = frame_folder(tmp_path / "clip")
    for name in ("model", "scores.onnx", "labels.onnx"):
        predict([open_model(made / name)], open_inputs(folder), tmp_path / name, PLAIN)
    wanted = np.stack(labels_in(tmp_path / "model" / "clip"))
    assert len(np.unique(wanted)) > 1
    for name in ("scores.onnx", "labels.onnx"):
        assert (np.stack(labels_in(tmp_path / name / "clip")) == wanted).mean() >= 0.999
    manifest = json.loads((tmp_path / "scores.onnx" / "manifest.json").read_text())
    assert manifest["made_from"]["models"] == [hashlib.sha256((made / "scores.onnx").read_bytes()).hexdigest()]


@torch.no_grad()
def test_windows_of_the_files_size_and_frames_brought_to_it_are_pytorchs(made):
    exported, model = OnnxModel(made / "scores.onnx"), segmenter()
    for views, size in ((Views(crop=SIZE, flip=True, scales=(1.0, 1.25)), (100, 140)), (Views(base=SIZE), SIZE)):
        given, wanted = distributions(exported, size, views), distributions(model, size, views)
        assert given.shape == (2, len(LABELS), *size)
        torch.testing.assert_close(given, wanted, atol=1e-4, rtol=0)
    size, (view,) = (97, 131), views_from(Views(base=SIZE))
    resized = torch.stack([view.apply(frame) for frame in frames(2, size)])
    wanted = F.interpolate(pixel_distribution(model(resized), SIZE, model.rule), size, mode="bilinear")
    torch.testing.assert_close(distributions(exported, size, Views(base=SIZE)), wanted, atol=1e-4, rtol=0)


def test_files_and_folders_predict_together(made):
    exported, model = OnnxModel(made / "scores.onnx"), Segmenter.from_pretrained(made / "model")
    picture = [frames()[0].permute(1, 2, 0).numpy()]
    together = list(stream_distribution([exported, model], [2.0, 1.0], picture))
    torch.testing.assert_close(together, list(stream_distribution([model], None, picture)), atol=1e-4, rtol=0)


def test_a_limit_of_memory_says_that_exported_models_are_not_counted(made, tmp_path, capsys):
    folder = frame_folder(tmp_path / "clip", 1, (60, 92))
    predict([OnnxModel(made / "scores.onnx")], open_inputs(folder), tmp_path / "out", PLAIN.model_copy(update={"memory": 1 << 40}))
    assert "1 window at a time; what exported models take is not counted" in capsys.readouterr().err


def test_frames_of_another_size_are_told_with_both_sizes_and_what_helps(made, tmp_path):
    folder = frame_folder(tmp_path / "clip", 1, (64, 96))
    with pytest.raises(SemivssError) as told:
        predict([OnnxModel(made / "scores.onnx")], open_inputs(folder), tmp_path / "out", PLAIN)
    assert str(told.value) == (
        f"clip, frame 1: {made / 'scores.onnx'}: was exported for frames of 60x92, these are 64x96; export the model with --size 64 96, "
        "or resize frames with --base 60x92, or cut them into windows with --crop 60x92; "
        "named --views bring sizes of their own: leave them out"
    )


def test_labels_alone_have_no_entropies_and_no_probabilities(made, tmp_path, capsys):
    folder, model = frame_folder(tmp_path / "clip"), OnnxModel(made / "labels.onnx")
    predict([model], open_inputs(folder), tmp_path / "out", Predict(overlay="none"))
    assert "labels.onnx gives labels alone: no entropy maps" in capsys.readouterr().err
    assert not (tmp_path / "out" / "entropy").exists()
    with pytest.raises(SemivssError, match=r"no probabilities; .*--kind scores"):
        predict([model], open_inputs(folder), tmp_path / "out", Predict(probabilities="uint8"))
    with pytest.raises(SemivssError, match=r"pseudo labels need entropies; export the model with --kind scores"):
        pseudo_label([model], open_inputs(folder), tmp_path / "pseudo", PseudoLabels())


def test_scores_make_pseudo_labels(made, tmp_path):
    done = pseudo_label([OnnxModel(made / "scores.onnx")], open_inputs(frame_folder(tmp_path / "clip")), tmp_path / "out", PseudoLabels())
    assert done.frames == 2
    assert (tmp_path / "out" / "histogram.npz").is_file()


def test_another_precision_is_refused(made, tmp_path):
    settings = Predict(precision="bf16", overlay="none")
    with pytest.raises(SemivssError, match=r"scores.onnx: runs in float32 alone; leave precision bf16 out"):
        predict([OnnxModel(made / "scores.onnx")], open_inputs(frame_folder(tmp_path / "clip")), tmp_path / "out", settings)


def test_exported_files_are_models_among_the_words_of_predict(made, tmp_path):
    file, folder, film = made / "scores.onnx", made / "model", tmp_path / "a.mp4"
    assert models_and_inputs([file, folder, film]) == ([file, folder], [film])
    assert models_and_inputs([folder, file, film, film]) == ([folder, file], [film, film])
    with pytest.raises(SemivssError, match="can only predict; give the model folder"):
        model_folder(file)


class Unknown(nn.Module):
    """A head with an operation that ONNX does not have."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, pyramid):
        output = self.head(pyramid)
        return type(output)(torch.linalg.qr(output.logits).R.sum() + output.logits, output.pixel_features)


def test_a_part_without_a_counterpart_is_named(tmp_path):
    model = segmenter()
    model.head = Unknown(model.head)
    with pytest.raises(
        SemivssError, match=r"^backbone tiny with head pixel cannot be exported \(.+\); predict with the model folder"
    ) as told:
        export_onnx(model, tmp_path / "model.onnx", SIZE)
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_from_pytorch_is_not_kept(tmp_path):
    with pytest.raises(SemivssError, match=r"model.onnx: not written, on random frames its scores differ .* accept it with --tolerance"):
        export_onnx(segmenter(), tmp_path / "model.onnx", SIZE, tolerance=-1.0)
    broken = segmenter()
    with torch.no_grad():
        broken.get_parameter("head.classify.bias").fill_(float("nan"))
    with pytest.raises(SemivssError, match="by nan, more than"):
        export_onnx(broken, tmp_path / "model.onnx", SIZE)
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_files_are_told_in_one_line(made, tmp_path):
    path, data = tmp_path / "model.onnx", (made / "scores.onnx").read_bytes()
    with pytest.raises(WeightsError, match="cannot be read"):
        OnnxModel(path)
    for content in (b"", b"no model", data[: len(data) // 2]):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"model.onnx: (damaged|was not written by semivss)") as told:
            OnnxModel(path)
        assert "\n" not in str(told.value)
    for key, value, words in (
        ("semivss.format", "2", "format 2, this version reads 1"),
        ("semivss.size", "null", "its metadata make no sense"),
        ("semivss.names", '["red", "red", "blue", "grey"]', "its classes make no sense"),
    ):
        proto = onnx.load_from_string(data)
        next(entry for entry in proto.metadata_props if entry.key == key).value = value
        onnx.save(proto, path)
        with pytest.raises(WeightsError, match=words):
            OnnxModel(path)
    del proto.metadata_props[:]
    onnx.save(proto, path)
    with pytest.raises(WeightsError, match="was not written by semivss"):
        OnnxModel(path)


def test_weights_of_a_large_model_lie_beside_it(made, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LARGEST", 0)
    path, data = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    export_onnx(segmenter(), path, SIZE)
    assert data.stat().st_size > 10 * path.stat().st_size
    given, wanted = (OnnxModel(file)(frames()).p for file in (path, made / "scores.onnx"))
    torch.testing.assert_close(given, wanted, atol=0, rtol=0)
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model.onnx.data: not the weights that model.onnx belongs to"):
        OnnxModel(path)
    data.unlink()
    with pytest.raises(WeightsError, match="its weights beside it are gone"):
        OnnxModel(path)


def semivss(*words: object, missing: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.modules.update(dict.fromkeys({missing.split()!r})); from semivss.cli import main; main()"
    line = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, cwd=cwd)


def fails(*words: object, missing: str = "") -> str:
    done = semivss(*words, missing=missing)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_export_and_predict_as_commands(made, tmp_path):
    done = semivss("export", made / "model", "--size", *SIZE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 random frames: scores differ from PyTorch's by at most" in done.stderr + done.stdout
    assert (tmp_path / "model_60x92.onnx").read_bytes() == (made / "scores.onnx").read_bytes()
    folder = frame_folder(tmp_path / "clip")
    done = semivss("predict", "model_60x92.onnx", folder, "--overlay", "none", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out" / "clip").glob("*.png"))) == 2


def test_wrong_words_of_export(made, tmp_path):
    model, there = made / "model", tmp_path / "there.onnx"
    there.write_bytes(b"")
    assert "is there already" in fails("export", model, "--size", 60, 92, "--out", there)
    assert "end it with .onnx" in fails("export", model, "--size", 60, 92, "--out", tmp_path / "model.pt")
    assert "write height and width in pixels" in fails("export", model, "--size", 0, 92)
    assert "--size" in fails("export", model, "--size", "60x92")
    assert "scores" in fails("export", model, "--size", 60, 92, "--kind", "logits")
    assert "no such file or folder" in fails("export", tmp_path / "gone", "--size", 60, 92)
    assert "no model there" in fails("export", tmp_path, "--size", 60, 92)
    assert "give the model folder that it was made from" in fails("export", made / "scores.onnx", "--size", 60, 92)


def test_a_missing_extra_is_told_with_the_command_that_installs_it(made, tmp_path):
    install = 'pip install "semivss[export]"'
    out = ("--out", tmp_path / "new.onnx")
    told = fails("export", made / "model", "--size", 60, 92, *out, missing="onnxscript onnxruntime")
    assert told == f"semivss: export needs onnxscript and onnxruntime, not installed here: {install}\n"
    told = fails("predict", made / "scores.onnx", frame_folder(tmp_path / "clip"), "--out", tmp_path / "out", missing="onnxruntime")
    assert told.endswith(f"running it needs onnxruntime, not installed here: {install}\n")
    assert importlib.util.find_spec("onnxruntime") is not None
