"""Mask2Former's loss: equal to transformers' where nothing is ignored, blind to what is ignored, near the dense values of the rest."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from tests.losses.host import HostReads
from torch import Tensor
from transformers.models.mask2former import modeling_mask2former as peer

from semivss.losses.mask import class_loss, mask_loss, mask_terms, target_classes, valid_mass
from semivss.losses.matcher import Matches, NonFiniteCost, assign
from semivss.losses.points import Points, ValidPixels
from semivss.models.mask2former import transformers_config
from semivss.settings import Mask2FormerHead
from semivss.tensors import MaskLogits

SETTINGS = Mask2FormerHead(channels=32, heads=4, queries=6, points=400)
CLASSES = 5


def logits(labels: Tensor, *, layers: int = 1, queries: int = 6, seed: int = 0) -> MaskLogits:
    """Random class and mask logits of stride 4 for these labels; `layers` includes the last one."""
    generator = torch.Generator().manual_seed(seed)
    batch, cells = len(labels), (-(-labels.shape[1] // 4), -(-labels.shape[2] // 4))
    draw = [
        (
            torch.randn(batch, queries, CLASSES + 1, generator=generator),
            2 * torch.randn(batch, queries, *cells, generator=generator),
        )
        for _ in range(layers)
    ]
    (classes, masks), *auxiliary = draw
    return MaskLogits(classes, masks, torch.zeros(batch, 1, *cells), tuple(auxiliary))


def blocks(batch: int = 2, size: tuple[int, int] = (32, 48), seed: int = 0, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, CLASSES, (batch, -(-size[0] // side), -(-size[1] // side)), dtype=torch.uint8, generator=generator)
    return coarse.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, : size[0], : size[1]].contiguous()


def loss(output: MaskLogits, labels: Tensor, settings: Mask2FormerHead = SETTINGS, seed: int = 0) -> dict[str, Tensor]:
    return mask_loss(output, labels, settings, torch.Generator().manual_seed(seed))


class GivenPoints(ValidPixels):
    """Points from a list instead of chance, and masks read as transformers reads them: bilinear, at the point itself, 0 outside."""

    padding = "zeros"

    def read_all(self, maps: Tensor, grid: Tensor) -> Tensor:
        return self.read(maps[None], grid[None])[0].T

    def __init__(self, labels: Tensor, grids: list[Tensor]) -> None:
        super().__init__(labels, (-(-labels.shape[1] // 4), -(-labels.shape[2] // 4)))
        self._grids = iter(grids)

    def draw(self, points: int) -> Points:
        grid = next(self._grids)
        assert grid.shape[1] == points
        return Points(grid, torch.zeros(grid.shape[:2], dtype=torch.uint8))

    def targets(self, points: Points, image: Tensor, classes: Tensor) -> Tensor:
        masks = (self.labels[image][:, None] == classes[..., None, None]).float()
        return self.read(masks, points.grid)


@dataclass
class GivenRandom:
    """Stands in for torch.rand inside transformers' loss: the points of GivenPoints, in the order in which that code asks."""

    matching: list[Tensor]  # one an image
    image_of_mask: list[int]
    candidates: Tensor
    random: Tensor
    asked: int = 0

    def __call__(self, *shape: int, **_: object) -> Tensor:
        images = len(self.matching)
        turn, self.asked = self.asked % (images + 2), self.asked + 1  # a layer: matcher of each image, candidates, random points
        shared = self.candidates if turn == images else self.random
        given = self.matching[turn][None] if turn < images else shared[self.image_of_mask]
        assert given.shape == shape
        return (given + 1) / 2


@pytest.mark.parametrize("layers", [1, 3])
def test_equals_transformers_when_all_pixels_are_valid(layers, monkeypatch):
    labels = blocks()
    output = logits(labels, layers=layers)
    certain, many = int(0.75 * SETTINGS.points), 3 * SETTINGS.points
    matching = torch.rand(2, SETTINGS.points, 2) * 2 - 1
    drawn = torch.rand(2, many + SETTINGS.points - certain, 2) * 2 - 1
    ours = mask_terms(output, GivenPoints(labels, [matching, drawn]), SETTINGS)

    ids = [torch.tensor(row) for row in target_classes(labels, CLASSES)]
    masks = [(labels[image] == row[:, None, None]).float() for image, row in enumerate(ids)]
    per_image = [min(len(row), 6) for row in ids]
    images = [image for image, count in enumerate(per_image) for _ in range(count)]
    given = GivenRandom(list(matching), images, drawn[:, :many], drawn[:, many:])
    theirs = _transformers_loss(output, masks, ids, given, monkeypatch)
    for name, key in (("class", "loss_cross_entropy"), ("mask", "loss_mask"), ("dice", "loss_dice")):
        weight = getattr(SETTINGS, f"{name}_weight")
        torch.testing.assert_close(ours[name], weight * theirs[key], rtol=1e-5, atol=1e-5)
        if layers > 1:
            sums = sum(theirs[f"{key}_{index}"] for index in range(layers - 1))
            torch.testing.assert_close(ours[f"{name}_aux"], weight * sums, rtol=1e-5, atol=1e-5)


def _transformers_loss(output, masks, ids, given, monkeypatch) -> dict[str, Tensor]:
    class Torch:  # torch with another rand, seen by that one module only
        rand = given

        def __getattr__(self, name: str) -> object:
            return getattr(torch, name)

    monkeypatch.setattr(peer, "torch", Torch())
    criterion = peer.Mask2FormerLoss(transformers_config(SETTINGS, CLASSES), {})
    auxiliary = [{"class_queries_logits": classes, "masks_queries_logits": mask} for classes, mask in output.auxiliary]
    result: dict[str, Tensor] = criterion(output.mask_logits, output.class_logits, masks, ids, auxiliary or None)
    return result


def half_ignored() -> tuple[Tensor, Tensor]:
    """Labels whose right half is ignored, and where a logit has no valid pixel within one cell."""
    labels = blocks()
    labels[:, :, 24:] = 255
    far = torch.zeros(8, 12, dtype=torch.bool)
    far[:, 7:] = True  # cells 0..5 are valid; bilinear reading reaches cell 6
    return labels, far


def test_logits_under_ignored_pixels_change_nothing_and_get_no_gradient():
    labels, far = half_ignored()
    output = logits(labels, layers=2)
    masks = output.mask_logits.clone().requires_grad_()
    changed = MaskLogits(output.class_logits, torch.where(far, 40.0, masks), output.pixel_features, output.auxiliary)
    settings = SETTINGS.model_copy(update={"no_object_weight": 0.0})  # what it weighs is tested below
    first, second = (loss(each, labels, settings) for each in (output, changed))
    assert first == second
    near = loss(MaskLogits(output.class_logits, masks, output.pixel_features, output.auxiliary), labels)
    torch.stack(list(near.values())).sum().backward()
    assert masks.grad is not None
    assert masks.grad[..., far].abs().max() == 0
    assert masks.grad[..., :6].abs().max() > 0


def test_labels_that_are_ignored_are_no_background():
    labels = blocks()
    labels[:, :, 24:] = 255
    output = logits(labels)
    masks = output.mask_logits.clone()
    masks[..., 7:] = 40.0
    sure = MaskLogits(output.class_logits, masks, output.pixel_features)
    assert torch.equal(loss(output, labels)["mask"], loss(sure, labels)["mask"])
    background = labels.clone()
    background[:, :, 24:] = 0
    assert loss(sure, background)["mask"] > 2 * loss(output, background)["mask"]


def perfect(labels: Tensor, sure: float) -> MaskLogits:
    """Query c says class c and draws its mask, and goes on into the ignored area as if it were its own."""
    cells = F.max_pool2d(labels.float()[:, None], 4)[:, 0]
    valid = cells != 255
    masks = torch.stack([torch.where((cells == c) & valid, sure, -sure) for c in range(CLASSES)], 1)
    masks[:, 0] = torch.where(valid, masks[:, 0], torch.full_like(cells, sure))
    classes = (torch.eye(CLASSES, CLASSES + 1) * 10).expand(len(labels), -1, -1)
    return MaskLogits(classes, masks, torch.zeros(len(labels), 1, *cells.shape[1:]))


def test_values_lie_near_the_dense_ones_of_valid_pixels_where_the_usual_handling_is_ten_times_off():
    labels = blocks(1, (96, 120), side=24)
    labels[:, :, 96:] = 255  # a fifth
    output = perfect(labels, 3.5)
    settings = SETTINGS.model_copy(update={"points": 4096, "importance": 0.0, "mask_weight": 1.0, "dice_weight": 1.0})
    terms = loss(output, labels, settings)
    present = target_classes(labels, CLASSES)[0]
    full = F.interpolate(output.mask_logits, labels.shape[1:], mode="bilinear", align_corners=False)[0, present]
    wanted = (labels[0] == torch.tensor(present)[:, None, None]).float()
    valid = labels[0] != 255
    bce, dice = _dense(full[:, valid], wanted[:, valid])
    assert terms["mask"].item() == pytest.approx(bce, rel=0.1)
    assert terms["dice"].item() == pytest.approx(dice, rel=0.1)
    usual_bce, usual_dice = _dense(full.flatten(1)[:1], wanted.flatten(1)[:1])  # the mask that goes on into the ignored area
    valid_bce, valid_dice = _dense(full[:1, valid], wanted[:1, valid])
    assert usual_bce > 9 * valid_bce
    assert usual_dice > 3 * valid_dice


def _dense(values: Tensor, wanted: Tensor) -> tuple[float, float]:
    share = values.sigmoid()
    dice = 1 - 2 * (share * wanted).sum(1) / (share.sum(1) + wanted.sum(1))
    return F.binary_cross_entropy_with_logits(values, wanted).item(), dice.mean().item()


def test_image_without_valid_pixels_contributes_nothing():
    labels = blocks()
    output = logits(labels, layers=2)
    labels[1] = 255
    alone = MaskLogits(
        output.class_logits[:1], output.mask_logits[:1], output.pixel_features[:1], tuple((c[:1], m[:1]) for c, m in output.auxiliary)
    )
    settings = SETTINGS.model_copy(update={"points": 60_000})  # the two cases draw other points
    both, one = loss(output, labels, settings), loss(alone, labels[:1], settings)
    assert both["class"].item() == pytest.approx(one["class"].item(), rel=1e-5)
    for name in ("mask", "dice", "class_aux", "mask_aux", "dice_aux"):
        assert both[name].item() == pytest.approx(one[name].item(), rel=2e-2)


def test_batch_without_valid_pixels_is_zero_with_a_zero_gradient():
    labels = torch.full((2, 32, 48), 255, dtype=torch.uint8)
    output = logits(labels, layers=2)
    masks, classes = output.mask_logits.requires_grad_(), output.class_logits.requires_grad_()
    terms = loss(output, labels)
    total = torch.stack(list(terms.values())).sum()
    assert total == 0
    total.backward()
    assert masks.grad is not None
    assert classes.grad is not None
    assert masks.grad.abs().max() == 0
    assert classes.grad.abs().max() == 0


def test_query_of_ignored_pixels_is_not_pushed_to_no_object():
    labels = blocks(1)
    labels[:, :, 24:] = 255
    masks = torch.full((1, 1, 3, 8, 12), -80.0)
    masks[..., 0, :, 6:] = 80.0  # all of it ignored
    masks[..., 1, :, :6] = 80.0  # all of it valid
    masks[..., 2, :, 3:9] = 80.0  # half and half
    torch.testing.assert_close(valid_mass(masks, labels)[0, 0], torch.tensor([0.0, 1.0, 0.5]))
    classes = torch.zeros(1, 1, 3, CLASSES + 1, requires_grad=True)
    nobody = Matches(*torch.zeros(4, 0, dtype=torch.int64), (0,))
    class_loss(classes, nobody, 0.1 * valid_mass(masks, labels)).sum().backward()
    assert classes.grad is not None
    assert classes.grad[0, 0, 0].abs().max() < 1e-30
    assert classes.grad[0, 0, 1].abs().sum() == pytest.approx(2 * classes.grad[0, 0, 2].abs().sum().item())


def test_valid_mass_counts_what_hangs_over_the_edge_as_neither():
    labels = torch.zeros(1, 30, 45, dtype=torch.uint8)
    masks = torch.randn(1, 1, 2, 8, 12)
    torch.testing.assert_close(valid_mass(masks, labels), torch.ones(1, 1, 2))


def test_class_below_the_smallest_area_is_no_target():
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[0, 0, :3] = 4
    assert target_classes(labels, CLASSES) == [[0, 4]]
    assert target_classes(labels, CLASSES, 3) == [[0, 4]]
    assert target_classes(labels, CLASSES, 4) == [[0]]


def test_label_outside_the_classes_is_refused():
    labels = blocks()
    labels[1, 3, 3] = CLASSES
    with pytest.raises(ValueError, match=f"label {CLASSES} "):
        loss(logits(labels), labels)


def test_more_classes_than_queries_match_all_queries():
    labels = blocks()
    terms = loss(logits(labels, queries=2), labels)
    assert all(term.isfinite() for term in terms.values())


def test_assignment_takes_the_cheapest_pairs_of_each_layer():
    costs = torch.tensor([[[[1.0, 0.0, 9.0], [0.0, 5.0, 9.0]], [[0.0, 5.0, 9.0], [5.0, 0.0, 9.0]]]])
    matches = assign(costs, [[7, 3]])
    pairs = sorted(zip(matches.layer.tolist(), matches.query.tolist(), matches.target.tolist(), strict=True))
    assert pairs == [(0, 0, 3), (0, 1, 7), (1, 0, 7), (1, 1, 3)]


@pytest.mark.parametrize("layers", [1, 4])
def test_the_costs_of_all_layers_and_images_come_to_the_host_in_one_copy(layers):
    labels = blocks()
    output = logits(labels, layers=layers)
    with HostReads() as read:
        loss(output, labels)
    most = max(map(len, target_classes(labels, CLASSES)))
    assert read.copies == [(2, 256), (2 * layers * 6 * most + 1,)]  # areas of the classes; costs, and whether all are finite
    assert read.others == ["nonzero"]  # which pixels are valid: labels again, which no layer is waited for


@pytest.mark.parametrize("where", ["class_logits", "mask_logits"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_logits_are_said(where, value):
    labels = blocks()
    output = logits(labels)
    getattr(output, where)[1, 2] = value
    with pytest.raises(NonFiniteCost, match="NaN or infinite"):
        loss(output, labels)


def test_same_generator_same_loss():
    labels = blocks()
    output = logits(labels, layers=2)
    assert loss(output, labels, seed=3) == loss(output, labels, seed=3)
    assert loss(output, labels, seed=3) != loss(output, labels, seed=4)


def test_bfloat16_logits_are_treated_in_float32():
    labels = blocks()
    output = logits(labels)
    half = MaskLogits(output.class_logits.bfloat16(), output.mask_logits.bfloat16(), output.pixel_features)
    exact = MaskLogits(half.class_logits.float(), half.mask_logits.float(), output.pixel_features)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(half, labels) == loss(exact, labels)


def test_fresh_matching_in_each_layer():
    labels = torch.zeros(1, 16, 16, dtype=torch.uint8)
    good, bad = torch.full((1, 1, 4, 4), 9.0), torch.full((1, 1, 4, 4), -9.0)
    classes = torch.zeros(1, 2, CLASSES + 1)
    output = MaskLogits(classes, torch.cat([good, bad], 1), torch.zeros(1, 1, 4, 4), ((classes, torch.cat([bad, good], 1)),))
    terms = loss(output, labels)
    assert terms["mask"] < 1e-2
    assert terms["mask_aux"] < 1e-2
