"""Numbers of the published ViT-Adapter, ONE-PEACE and Mask2Former implementations: backbones, head, whole segmentors, resized positions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.models import published
from torch import Tensor

from semivss.infer.views import View
from semivss.models.positions import resize_positions, resize_table
from semivss.models.segmenter import Segmenter
from semivss.posterior import class_distribution, mask_votes, resize_maps, softmax
from semivss.tensors import MaskLogits

PRECISIONS = ((torch.float32, "out32"), (torch.float64, "out64"))


def files(golden: Path, pattern: str) -> Iterator[Path]:
    found = sorted((golden / "backbones").glob(pattern))
    assert found, f"no {pattern} in {golden / 'backbones'}"
    yield from found


def differs(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    return (ours - theirs).abs().max().item()


@torch.no_grad()
@pytest.mark.parametrize("narrow", [0, 1000], ids=["as_table", "by_map"])  # both forms of deformable attention
@pytest.mark.parametrize("pattern", ["vit_adapter.safetensors", "beit_adapter_*.safetensors", "one_peace_adapter_*.safetensors"])
def test_golden_backbones(golden, pattern, narrow, monkeypatch):
    monkeypatch.setattr("semivss.models.deform_sample.NARROW", narrow)
    for file in files(golden, pattern):
        metadata, tensors = published.read(file)
        backbone = published.backbone(metadata, tensors)
        for dtype, kind in PRECISIONS:
            limit = 3e-5 if dtype == torch.float32 else 1e-10
            for number in images(tensors):
                maps = backbone.to(dtype)(tensors[f"in.{number}"].to(dtype))
                for level, ours in enumerate(maps, 1):
                    assert differs(ours, tensors[f"{kind}.{number}.f{level}"]) <= limit, (file.name, kind, number, level)


@torch.no_grad()
def test_golden_backbones_at_a_size_that_the_weights_are_not_made_for(golden):
    """The published code resizes ONE-PEACE's weights once; ours, given the weights as they were, gets there by itself."""
    checked = 0
    for file in files(golden, "one_peace_adapter_*.safetensors"):
        metadata, tensors = published.read(file)
        if "base" in metadata:
            base = published.backbone(*published.read(file.parent / metadata["base"]))
            for number in images(tensors):
                for level, ours in enumerate(base(tensors[f"in.{number}"]), 1):
                    assert differs(ours, tensors[f"out32.{number}.f{level}"]) <= 3e-5, (file.name, number, level)
                    checked += 1
    assert checked


@torch.no_grad()
def test_golden_backbones_head(golden):
    for file in files(golden, "mask2former_head*.safetensors"):
        metadata, tensors = published.read(file)
        head = published.head(metadata, tensors).train()  # training mode hands out every layer's logits; there is no dropout
        for dtype, kind in PRECISIONS:
            limit = 3e-5 if dtype == torch.float32 else 2e-6
            for number in range(sum(key.endswith(".feat0") for key in tensors)):
                features = [tensors[f"in.{number}.feat{level}"].to(dtype) for level in range(4)]
                output = head.to(dtype)(features)
                pixels = head.pixel_decoder(features, output_hidden_states=False)
                ours = {
                    "mask_feature": output.pixel_features,
                    "cls": torch.stack([*(classes for classes, _ in output.auxiliary), output.class_logits]),
                    "mask": torch.stack([*(masks for _, masks in output.auxiliary), output.mask_logits]),
                    "mask_final": output.mask_logits,
                    "semantic": votes(output),
                    "prob_fullres": distribution(output),
                } | {f"ms{level}": feature for level, feature in enumerate(pixels.multi_scale_features)}
                wanted = {key.split(".")[-1]: tensor for key, tensor in tensors.items() if key.startswith(f"{kind}.{number}.")}
                assert len(wanted) >= 7
                for name, theirs in wanted.items():
                    assert differs(ours[name], theirs) <= limit, (file.name, kind, number, name)


@torch.no_grad()
def test_golden_backbones_segmentor(golden, tmp_path):
    for file in files(golden, "segmentor_*.pth"):
        metadata, tensors = published.read(file.with_name(f"{file.stem}_io.safetensors"))
        segmenter, image = published.segmenter(file, metadata, tmp_path / file.stem), tensors["in.image"]
        crop = metadata["test"]["crop"]
        single = window_scores(segmenter, image[..., : crop[0], : crop[1]])
        assert differs(single, tensors["out.single_crop_scores"]) <= 2e-5, file.name
        slide, straight = probabilities(segmenter, image, metadata["test"])
        assert differs(slide, tensors["out.slide_scores"]) <= 2e-5, file.name
        assert differs(resized(slide, metadata["test"]), tensors["out.slide_scores_orisize"]) <= 2e-5, file.name
        assert differs(straight, tensors["out.prob_orisize"]) <= 2e-6, file.name
        mirrored = probabilities(segmenter, image.flip(-1), metadata["test"])[1].flip(-1)
        assert differs(mirrored, tensors["out.prob_orisize_flipped_input"]) <= 2e-6, file.name
        mean = (straight + mirrored) / 2
        assert differs(mean, tensors["out.flip_tta_prob"]) <= 2e-6, file.name
        first, second = tensors["out.flip_tta_prob"].topk(2, dim=1).values[0]
        clear = first - second > 1e-5
        assert clear.float().mean() > 0.9
        assert torch.equal(mean[0].argmax(0)[clear], tensors["out.flip_tta_pred"][clear]), file.name
        exact = probabilities(segmenter.double(), image.double(), metadata["test"])[0]
        assert differs(exact, tensors["out.slide_scores64"]) <= 2e-6, file.name


def test_golden_backbones_pos_resize(golden):
    for file in files(golden, "pos_resize*.safetensors"):
        tensors = published.read(file)[1]
        cases = {key.rpartition(".")[0] for key in tensors}
        assert cases
        for case in cases:  # such as beit.14to56: sides of the grids
            source, target = ((side, side) for side in map(int, case.rpartition(".")[2].split("to")))
            assert differs(resize_table(tensors[f"{case}.src"], source, target), tensors[f"{case}.dst"]) <= 1e-5, case
            if (positions := tensors.get(f"{case}.pos_src")) is not None:
                ours = torch.cat([positions[:1], resize_positions(positions[1:], source, target)])
                assert differs(ours, tensors[f"{case}.pos_dst"]) <= 1e-5, case


def images(tensors: dict[str, Tensor]) -> range:
    count = sum(key.startswith("in.") for key in tensors)
    assert count
    return range(count)


def votes(output: MaskLogits) -> Tensor:
    """The product's in float32; in float64, which the product never has, by hand."""
    if output.mask_logits.dtype == torch.float32:
        return mask_votes(output)
    classes = output.class_logits.softmax(-1)[..., :-1]
    return torch.einsum("bqc,bqhw->bchw", classes, output.mask_logits.sigmoid())


def distribution(output: MaskLogits) -> Tensor:
    """At four times the maps' size; likewise."""
    if output.mask_logits.dtype == torch.float32:
        high, wide = output.mask_logits.shape[-2:]
        return class_distribution(output, (4 * high, 4 * wide), "softmax")
    return F.interpolate(votes(output), scale_factor=4, mode="bilinear", align_corners=False).softmax(1)


def window_scores(segmenter: Segmenter, image: Tensor) -> Tensor:
    output = segmenter.head(segmenter.backbone(image))  # the image is normalised already
    return resize_maps(votes(output), tuple(image.shape[-2:]))


def probabilities(segmenter: Segmenter, image: Tensor, test: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Scores averaged over windows, and their softmax at the original size.

    The average is the published one, of scores; the product's views average distributions (infer/views.py).
    """
    total = count = torch.zeros((), dtype=image.dtype)
    for window in View(crop=tuple(test["crop"]), stride=tuple(test["stride"])).windows(tuple(image.shape[-2:])):
        rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
        around = (window.left, image.shape[-1] - columns.stop, window.top, image.shape[-2] - rows.stop)
        scores = window_scores(segmenter, image[..., rows, columns])
        total, count = total + F.pad(scores, around), count + F.pad(torch.ones_like(scores), around)
    slide = total / count
    return slide, softmax(resized(slide, test))


def resized(scores: Tensor, test: dict[str, Any]) -> Tensor:
    return resize_maps(scores, tuple(test["ori"]))
