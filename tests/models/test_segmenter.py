"""One contract for every backbone and both heads: shapes at any size, gradients, and a folder that gives the same model back."""

import json

import pytest
import torch

from semivss.data.labels import LabelSet, distinct_colors
from semivss.errors import RecipeError, WeightsError
from semivss.losses.supervised import supervised_loss
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.posterior import class_distribution
from semivss.settings import Mask2FormerHead, Model, PixelHead
from semivss.tensors import MaskLogits, PixelLogits

TRUNKS = ["beit_tiny", "vit_adapter_tiny", "vit_adapter_plain_tiny", "one_peace_tiny"]
TIMM = ["timm/tf_efficientnet_lite0", "timm/resnet18", "timm/convnext_atto", "timm/swin_tiny_patch4_window7_224"]
BACKBONES = ["tiny", *TIMM, "swin_tiny", *TRUNKS]
LABELS = LabelSet("colours", ("red", "green", "blue"), distinct_colors(3), (True, False, False))
SMALL = Mask2FormerHead(
    channels=32, queries=5, encoder_layers=1, decoder_layers=3, heads=4, encoder_feedforward=32, feedforward=32, points=200
)


def model(backbone: str = "tiny", head: str = "pixel", **changes: object) -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(Model(backbone=backbone, head=head, pixel=PixelHead(channels=16), mask2former=SMALL, **changes), LABELS)


def frames(*size: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def parts(output: MaskLogits | PixelLogits) -> list[torch.Tensor]:
    return [output.logits] if isinstance(output, PixelLogits) else [output.class_logits, output.mask_logits]


@pytest.fixture(params=BACKBONES)
def backbone(request) -> str:
    return request.param


def test_every_backbone_gives_maps_of_a_quarter_at_any_size_and_learns(backbone):
    segmenter = model(backbone).train()
    for size, cells in (((64, 96), (16, 24)), ((45, 70), (12, 18)), ((32, 33), (8, 9))):
        output = segmenter(frames(*size))
        assert output.logits.shape == (2, 3, *cells)
        assert output.pixel_features.shape == (2, 16, *cells)
    labels = torch.zeros(2, 32, 33, dtype=torch.uint8)
    sum(supervised_loss(output, labels, segmenter.settings).values()).backward()
    assert segmenter.backbone.channels == tuple(level.shape[1] for level in segmenter.backbone(torch.zeros(1, 3, 32, 64)))
    first = next(segmenter.backbone.parameters())
    assert first.grad is not None
    assert first.grad.abs().max() > 0


def test_every_backbone_comes_back_from_its_folder_bit_by_bit(backbone, tmp_path):
    segmenter = model(backbone).train()
    segmenter(frames(64, 64))  # moves running statistics away from their start
    segmenter.eval().save_pretrained(tmp_path)
    again = Segmenter.from_pretrained(tmp_path)
    assert not again.training
    assert again.label_set == LABELS
    assert again.settings == segmenter.settings
    with torch.no_grad():
        assert torch.equal(again(frames(45, 70)).logits, segmenter(frames(45, 70)).logits)


def test_mask2former_gives_every_layers_logits_in_training_and_the_last_in_evaluation(tmp_path):
    segmenter = model(head="mask2former").train()
    output = segmenter(frames(45, 70))
    assert output.class_logits.shape == (2, 5, 4)
    assert output.mask_logits.shape == (2, 5, 12, 18)
    assert output.pixel_features.shape == (2, 32, 12, 18)
    assert [(tuple(classes.shape), tuple(masks.shape)) for classes, masks in output.auxiliary] == [((2, 5, 4), (2, 5, 12, 18))] * 3
    segmenter.eval().save_pretrained(tmp_path)
    with torch.no_grad():
        output, again = segmenter(frames(45, 70)), Segmenter.from_pretrained(tmp_path)(frames(45, 70))
    assert output.auxiliary == ()
    assert all(torch.equal(first, second) for first, second in zip(parts(output), parts(again), strict=True))


def test_mask2former_reaches_every_parameter():
    segmenter = model(head="mask2former").train()
    labels = torch.arange(3, dtype=torch.uint8).repeat_interleave(22)[:64].expand(2, 64, 64).contiguous()
    sum(supervised_loss(segmenter(frames(64, 64)), labels, segmenter.settings).values()).backward()
    assert [name for name, parameter in segmenter.named_parameters() if parameter.grad is None] == []


def test_mask2former_starts_with_masks_that_differ_and_are_finite():
    with torch.no_grad():
        masks = model(head="mask2former").eval()(frames(64, 64)).mask_logits
    assert 0.1 < masks.std() < 10
    assert masks.std(1).mean() > 0.1


@pytest.mark.parametrize("head", ["pixel", "mask2former"])
def test_padding_is_what_comes_after_the_image_in_mean_colour(head):
    segmenter = model(head=head).eval()
    segmenter.mean.copy_(torch.tensor([[[100.0]], [[50.0]], [[20.0]]]))  # a colour that exists in 8 bits
    whole = segmenter.mean.expand(2, 3, 64, 96).to(torch.uint8).clone()
    whole[..., :45, :70] = frames(45, 70)
    with torch.no_grad():
        cut, full = segmenter(frames(45, 70)), segmenter(whole)
    for first, second in zip(parts(cut), parts(full), strict=True):
        assert torch.equal(first, second[..., : first.shape[-2], : first.shape[-1]])


def test_frames_are_normalised_to_the_backbones_own_numbers():
    segmenter = model("timm/tf_efficientnet_lite0")
    low, high = (segmenter.normalise(torch.full((1, 3, 32, 32), value, dtype=torch.uint8)) for value in (0, 255))
    torch.testing.assert_close(low, torch.full_like(low, -1.0))
    torch.testing.assert_close(high, torch.full_like(high, 1.0))
    red = torch.tensor([124, 116, 104], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert model("timm/resnet18").normalise(red).abs().max() < 0.02  # ImageNet's mean colour


@pytest.mark.parametrize("head", ["pixel", "mask2former"])
def test_the_rule_leads_to_a_distribution(head):
    segmenter = model(head=head, rule="l1").eval()
    with torch.no_grad():
        p = class_distribution(segmenter(frames(45, 70)), (45, 70), segmenter.rule)
    assert p.shape == (2, 3, 45, 70)
    torch.testing.assert_close(p.sum(1), torch.ones(2, 45, 70))


def test_the_folder_tells_what_the_model_is(tmp_path):
    model(head="mask2former").save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "red", "1": "green", "2": "blue"}
    assert config["label2id"]["blue"] == 2
    assert config["model"]["mask2former"]["queries"] == 5
    assert config["things"] == [True, False, False]
    assert "red, green, blue" in (tmp_path / "model" / "README.md").read_text()


def test_the_place_of_the_first_weights_stays_private(tmp_path):
    segmenter = model()
    segmenter.settings = segmenter.settings.model_copy(update={"weights": "/home/somebody/backbone.pth", "pretrained": True})
    segmenter.save_pretrained(tmp_path)
    assert "somebody" not in (tmp_path / "config.json").read_text()
    assert Segmenter.from_pretrained(tmp_path).settings.pretrained is False


def test_a_save_that_was_killed_between_its_files_leaves_a_model_that_loads(tmp_path, monkeypatch):
    from semivss import atomic
    from semivss.digest import weights_hash
    from semivss.verbs import model_folder

    first, second = model(), model()
    torch.nn.init.ones_(next(second.parameters()))
    first.save_pretrained(tmp_path / "model")
    before = weights_hash(tmp_path / "model")
    monkeypatch.setattr(atomic, "_move_up", lambda folder: None)  # dies when the new files are complete
    second.save_pretrained(tmp_path / "model")
    monkeypatch.undo()
    assert weights_hash(model_folder(tmp_path)) != before
    for name in ("README.md", "config.json"):  # and later, between the first moves
        torch.testing.assert_close(Segmenter.from_pretrained(tmp_path / "model").state_dict(), second.state_dict(), rtol=0, atol=0)
        (tmp_path / "model" / ".new" / name).replace(tmp_path / "model" / name)
    torch.testing.assert_close(Segmenter.from_pretrained(tmp_path / "model").state_dict(), second.state_dict(), rtol=0, atol=0)


def flip_bit(path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def edit(path, change) -> None:
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


DAMAGE = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: not found"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: cannot be read"),
    "half a config": (lambda folder: truncate(folder / "config.json"), "config.json: damaged"),
    "half the weights": (lambda folder: truncate(folder / "model.safetensors"), "model.safetensors: damaged"),
    "empty weights": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors: damaged"),
    "one bit of the payload": (lambda folder: flip_bit(folder / "model.safetensors", -50), "model.safetensors: damaged"),
    "config of another library": (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "not written by semivss"),
    "config is a list": (lambda folder: (folder / "config.json").write_text("[]"), "not written by semivss"),
    "newer format": (lambda folder: edit(folder / "config.json", lambda config: config.update(format=99)), "format 99"),
    "unknown setting": (lambda folder: edit(folder / "config.json", lambda config: config["model"].update(wings=2)), "makes no sense"),
    "a class too few": (
        lambda folder: edit(folder / "config.json", lambda config: config["id2label"].pop("2")),
        "do not fit|makes no sense",
    ),
    "colours missing": (lambda folder: edit(folder / "config.json", lambda config: config.pop("colors")), "makes no sense"),
    "other backbone": (
        lambda folder: edit(folder / "config.json", lambda config: config["model"].update(backbone="timm/resnet10t")),
        "do not fit",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(damage, tmp_path):
    model().save_pretrained(tmp_path)
    harm, words = DAMAGE[damage]
    harm(tmp_path)
    with pytest.raises(WeightsError, match=words) as caught:
        Segmenter.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(WeightsError, match="not found"):
        Segmenter.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tny", "unknown"),
        ("resnet18", "timm/resnet18"),
        ("timm/resnet18x", "did you mean .*resnet18"),
        ("timm/qqqqqqqq", "no such model"),
        ("timm/vit_tiny_patch16_224", "no feature map of stride 4"),
        ("timm/maxvit_tiny_rw_224", "one image size"),
    ],
)
def test_an_unsuitable_backbone_is_refused_in_one_line(name, words):
    with pytest.raises(WeightsError, match=words) as caught:
        model(name)
    assert "\n" not in str(caught.value)


def test_stochastic_depth_goes_to_the_backbones_that_have_it():
    segmenter = model("timm/resnet18", drop_path=0.5)
    assert any("DropPath" in type(module).__name__ for module in segmenter.backbone.modules())


def test_channels_that_cannot_be_normalised_in_groups_are_refused():
    wrong = SMALL.model_copy(update={"channels": 48})
    with pytest.raises(RecipeError, match="multiple of 32; take 64"):
        build_segmenter(Model(head="mask2former", mask2former=wrong), LABELS)


@pytest.mark.parametrize(
    ("backbone", "head", "steps"),
    [
        ("tiny", "pixel", 25),
        ("tiny", "mask2former", 25),
        *((f"{family}_tiny", "pixel", 50) for family in ("swin", "beit", "vit_adapter", "vit_adapter_plain", "one_peace")),
    ],
)
def test_a_batch_of_coloured_blocks_is_learned(backbone, head, steps):
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (4, 4, 6), dtype=torch.uint8).repeat_interleave(16, 1).repeat_interleave(16, 2)
    palette = torch.tensor([[200, 30, 30], [30, 200, 30], [30, 30, 200]], dtype=torch.uint8)
    images = palette[labels.long()].permute(0, 3, 1, 2) + torch.randint(0, 40, (4, 3, 64, 96), dtype=torch.uint8)
    segmenter = model(backbone=backbone, head=head).train()
    optimiser = torch.optim.AdamW(segmenter.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimiser.zero_grad()
        sum(supervised_loss(segmenter(images), labels, segmenter.settings, generator).values()).backward()
        torch.nn.utils.clip_grad_norm_(segmenter.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        guess = class_distribution(segmenter.eval()(images), (64, 96)).argmax(1)
    assert (guess == labels).float().mean() > 0.9
