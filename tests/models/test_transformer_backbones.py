"""Swin, BEiT, both flavours of ViT-Adapter and ONE-PEACE: any image size, what a size leaves behind, gradients, recomputing, precision."""

import copy

import pytest
import torch

from semivss.data.labels import LabelSet, distinct_colors
from semivss.errors import RecipeError, WeightsError
from semivss.losses.supervised import supervised_loss
from semivss.models.deform_attn import DeformableAttention
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import SWINS, TRUNKS, build_backbone, build_segmenter
from semivss.settings import Mask2FormerHead, Model, PixelHead, Swin, Trunk

LABELS = LabelSet("colours", ("red", "green", "blue"), distinct_colors(3), (True, False, False))
FAMILIES = ["swin", "beit", "vit_adapter", "vit_adapter_plain", "one_peace"]
SMALL = Mask2FormerHead(
    channels=32, queries=5, encoder_layers=1, decoder_layers=3, heads=4, encoder_feedforward=32, feedforward=32, points=200
)


def model(family: str, head: str = "pixel", **more: object) -> Segmenter:
    torch.manual_seed(0)
    segmenter = build_segmenter(
        Model(backbone=f"{family}_tiny", head=head, pixel=PixelHead(channels=16), mask2former=SMALL, **more), LABELS
    )
    with torch.no_grad():  # what starts at 0, or nearly, would hide what is behind it
        for name, parameter in segmenter.named_parameters():
            if "gamma" in name or "table" in name:
                parameter.normal_(0.5, 0.2)
            elif name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
                parameter.normal_(0, 0.1)
    return segmenter


def frames(*size: int, batch: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@torch.no_grad()
@pytest.mark.parametrize("head", ["pixel", "mask2former"])
def test_any_size_and_aspect(family, head):
    segmenter = model(family, head).eval()
    for size, cells in (((480, 853), (120, 214)), ((32, 200), (8, 50)), ((97, 33), (25, 9))):
        output = segmenter(frames(*size))
        maps = output.logits if head == "pixel" else output.mask_logits
        assert maps.shape[-2:] == cells
        assert maps.isfinite().all()
        padded = segmenter.normalise(frames(*size))
        for level, stride in zip(segmenter.backbone(padded), (4, 8, 16, 32), strict=True):
            assert level.shape[-2:] == (padded.shape[-2] // stride, padded.shape[-1] // stride)


@torch.no_grad()
def test_a_larger_image_changes_no_parameter_and_no_later_result(family):
    segmenter = model(family).eval()
    state = copy.deepcopy(segmenter.state_dict())
    names = [name for name, _ in segmenter.named_buffers()]
    first = segmenter(frames(64, 96)).logits
    segmenter(frames(128, 192))
    assert torch.equal(segmenter(frames(64, 96)).logits, first)
    assert [name for name, _ in segmenter.named_buffers()] == names
    for name, value in segmenter.state_dict().items():
        assert torch.equal(value, state[name]), name
    for name, parameter in segmenter.named_parameters():  # what is remembered of a size must not hold what is learned
        if "table" in name or "pos_embed" in name:
            parameter.mul_(-1.0)
    state = {name: -value if "table" in name or "pos_embed" in name else value for name, value in state.items()}
    fresh = model(family).eval()
    fresh.load_state_dict(state)
    assert torch.equal(segmenter(frames(128, 192)).logits, fresh(frames(128, 192)).logits)


@pytest.mark.parametrize("head", ["pixel", "mask2former"])
@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_every_parameter_has_a_gradient(family, head, size):
    segmenter = model(family, head).train()
    labels = torch.arange(3, dtype=torch.uint8).repeat_interleave(size[1] // 3 + 1)[: size[1]].expand(2, *size).contiguous()
    sum(supervised_loss(segmenter(frames(*size, batch=2)), labels, segmenter.settings).values()).backward()
    assert [name for name, parameter in segmenter.named_parameters() if parameter.grad is None] == []
    assert [name for name, parameter in segmenter.backbone.named_parameters() if not parameter.grad.any()] == []


def gradients(segmenter: Segmenter) -> dict[str, torch.Tensor]:
    segmenter.zero_grad()
    labels = torch.arange(3, dtype=torch.uint8).repeat_interleave(22)[:64].expand(2, 64, 64).contiguous()
    torch.manual_seed(3)  # of stochastic depth and of the loss's points
    generator = torch.Generator().manual_seed(3)
    sum(supervised_loss(segmenter(frames(64, 64, batch=2)), labels, segmenter.settings, generator).values()).backward()
    return {name: parameter.grad for name, parameter in segmenter.named_parameters()}


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_recomputing_changes_no_gradient_and_keeps_less(family, precision):
    results, kept = [], []
    for recomputing in (False, True):
        segmenter = model(family, "mask2former", recompute=recomputing, drop_path=0.3).train()
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autocast("cpu", precision, enabled=precision is not None), torch.autograd.graph.saved_tensors_hooks(note, note):
            results.append(gradients(segmenter) | dict(segmenter.named_buffers()))
        kept.append(sum(sizes))
    plain, again = results
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        assert torch.equal(value, again[name]), name
    assert kept[1] < 0.7 * kept[0]


def test_recomputing_survives_copies_and_folders(family, tmp_path):
    segmenter = model(family, "mask2former", recompute=True)
    average = copy.deepcopy(segmenter)
    with torch.no_grad():
        for parameter in segmenter.parameters():
            parameter.add_(1.0)
    for name, gradient in gradients(average.train()).items():  # computes with its own weights, not with those it was copied from
        assert gradient is not None, name
    assert all(parameter.grad is None for parameter in segmenter.parameters())
    segmenter.eval().save_pretrained(tmp_path)
    again = Segmenter.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(frames(45, 70)).mask_logits, segmenter(frames(45, 70)).mask_logits)


RESIDUAL = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8], "drop_path_rate": 0.0}


@pytest.mark.parametrize(
    ("name", "config", "units"),
    [
        ("transformers/convnext", RESIDUAL, 4),
        ("transformers/swin", {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 4}, 4),
        ("timm/test_convnext", None, 1),
        ("transformers/resnet", {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8], "embedding_size": 8}, 0),
        ("timm/test_resnet", None, 0),
    ],
)
def test_backbones_of_others_are_recomputed_where_they_have_no_batch_norms(name, config, units):
    results, kept = [], []
    for recomputing in (False, True):
        torch.manual_seed(0)
        segmenter = build_segmenter(
            Model(backbone=name, config=config, recompute=recomputing, pixel=PixelHead(channels=16)), LABELS
        ).train()
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, note):
            results.append(gradients(segmenter) | dict(segmenter.named_buffers()))
        kept.append(sum(sizes))
    assert (len(segmenter.backbone.units()) >= units) if units else (segmenter.backbone.units() == [])
    assert kept[1] < kept[0] if units else kept[1] == kept[0]
    for key, value in results[0].items():
        assert torch.equal(value, results[1][key]), key


@torch.no_grad()
def test_a_model_of_bfloat16_comes_close(family):
    exact = model(family).eval()
    rough = copy.deepcopy(exact).bfloat16()
    for size in ((64, 64), (96, 128)):
        image = exact.normalise(frames(*size))
        for ours, theirs in zip(rough.backbone(image.bfloat16()), exact.backbone(image), strict=True):
            assert ours.dtype == torch.bfloat16
            assert (ours.float() - theirs).norm() < 0.05 * theirs.norm()


def test_each_backbone_normalises_for_itself():
    means = {family: model(family).mean.flatten() for family in FAMILIES}
    torch.testing.assert_close(means["one_peace"], torch.tensor([122.771, 116.746, 104.094]))
    torch.testing.assert_close(model("one_peace").std.flatten(), torch.tensor([68.5, 66.632, 70.323]))
    torch.testing.assert_close(means["vit_adapter"], torch.tensor([123.675, 116.28, 103.53]))
    torch.testing.assert_close(means["vit_adapter_plain"], torch.full((3,), 127.5))


def test_deformable_attention_of_a_fresh_adapter_looks_around():
    """The rule for linear layers, applied to all modules, would have them all look at one place."""
    for module in build_backbone(Model(backbone="one_peace_tiny")).modules():
        if isinstance(module, DeformableAttention):
            assert module.sampling_offsets.bias.abs().max() == module.points
            assert not module.sampling_offsets.weight.any()


def test_sizes_may_depart_from_the_preset():
    windows = (2, 0, 2, 0)
    trunk = Trunk(width=24, heads=2, deform_heads=3, feedforward=32, windows=windows, grid=(2, 3), prior=4)
    backbone = build_backbone(Model(backbone="vit_adapter_plain_tiny", trunk=trunk))
    assert backbone.channels == (24,) * 4
    assert backbone.trunk.pos_embed.shape == (1, 7, 24)
    assert [getattr(block.attn, "window", 0) for block in backbone.trunk.blocks] == list(windows)
    assert build_backbone(Model(backbone="swin_tiny", swin=Swin(width=16))).channels == (16, 32, 64, 128)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "beit_tiny", "trunk": Trunk(heads=5)}, "width 48 must be a multiple of heads 5"),
        ({"backbone": "vit_adapter_tiny", "trunk": Trunk(deform_heads=7)}, "multiple of deform_heads 7"),
        ({"backbone": "vit_adapter_tiny", "trunk": Trunk(depth=5)}, "stages .* must be four"),
        ({"backbone": "vit_adapter_tiny", "trunk": Trunk(windows=(2,))}, "windows has 1 numbers for 4 blocks"),
        ({"backbone": "swin_tiny", "swin": Swin(heads=(5, 2, 4, 4))}, "heads 5 must divide"),
        ({"backbone": "swin_tiny", "trunk": Trunk(width=8)}, "model.trunk is for beit_tiny"),
        ({"backbone": "tiny", "swin": Swin(width=8)}, "model.swin is for swin_tiny"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_line(settings, words):
    with pytest.raises(RecipeError, match=words) as caught:
        build_backbone(Model(**settings))
    assert "\n" not in str(caught.value)


def test_a_name_that_is_nearly_right_is_suggested():
    with pytest.raises(WeightsError, match="did you mean vit_adapter_l"):
        build_backbone(Model(backbone="vit_adaptor_l"))


@pytest.mark.parametrize("name", [*SWINS, *TRUNKS])
def test_every_preset_can_be_built(name):
    with torch.device("meta"):
        backbone = build_backbone(Model(backbone=name))
    assert len(backbone.channels) == 4
    assert len(backbone.units()) >= 4
