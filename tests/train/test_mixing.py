"""Mixing moves pixels of crops, labels and doubts together."""

import pytest
import torch

from semivss.tensors import IGNORE, UnlabelledBatch
from semivss.train.mixing import boxes, class_masks, mix


def batch(count: int = 3, size: tuple[int, int] = (12, 16)) -> UnlabelledBatch:
    """Crop i is grey level 10 * i, label i, doubt i everywhere; the last column is padding."""
    number = torch.arange(count).view(-1, 1, 1).expand(count, *size)
    inside = torch.ones(count, *size, dtype=torch.bool)
    inside[..., -1] = False
    frames = (10 * number)[:, None].expand(count, 3, *size).to(torch.uint8)
    labels = number.to(torch.uint8).masked_fill(~inside, IGNORE)
    return UnlabelledBatch(frames, torch.stack([frames, frames]), inside, labels, number.float(), tuple("abc"[:count]))


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["cutmix", "classmix"])
def test_what_is_pasted_takes_its_label_and_doubt_along(kind):
    before = batch()
    after = mix(before, kind, drawn())
    source = after.strong[0, :, 0] // 10  # which crop a pixel comes from
    assert torch.equal(after.doubt, source.float())
    assert torch.equal(after.labels.masked_fill(~after.inside, 0), source.masked_fill(~after.inside, 0))
    assert torch.equal(after.strong[0], after.strong[1])
    assert torch.equal(after.weak, before.weak)
    for number, own in enumerate(source):
        assert set(own.unique().tolist()) <= {number, (number + 1) % 3}
    assert (source != torch.arange(3).view(-1, 1, 1)).any()


def test_cutmix_pastes_about_half():
    shares = [mix(batch(), "cutmix", drawn(seed)).doubt.ne(batch().doubt).float().mean().item() for seed in range(20)]
    assert all(0.4 < share < 0.6 for share in shares)
    assert len(set(shares)) > 1


def test_boxes_are_boxes_and_differ():
    masks = boxes((50, 33, 47), drawn())
    for mask in masks:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        assert mask.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert columns[-1] - columns[0] + 1 > 47 // 2
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 40


def test_classmix_pastes_half_of_the_classes_whole():
    labels = torch.tensor([[[0, 1, 2, 3, IGNORE], [0, 0, 3, 3, IGNORE]]], dtype=torch.uint8)
    mask = class_masks(labels, drawn())[0]
    chosen = labels[0][mask].unique()
    assert len(chosen) == 2
    assert torch.equal(mask, torch.isin(labels[0], chosen))
    assert not mask[:, 4].any()


def test_cutout_erases_frames_and_labels():
    after = mix(batch(), "cutout", drawn())
    erased = (after.labels == IGNORE) & after.inside
    assert erased[1:].any()
    assert (after.strong[:, 1:][:, erased[1:][:, None].expand(2, 3, 12, 16)] == 0).all()
    kept = ~erased & after.inside
    assert torch.equal(after.labels[kept], batch().labels[kept])


def test_a_single_crop_and_none_stay_as_they_are():
    single = batch(1)
    assert torch.equal(mix(single, "cutmix", drawn()).strong, single.strong)
    assert mix(batch(), "none", drawn()).labels.equal(batch().labels)


def test_the_same_seed_mixes_alike():
    first, second, other = (mix(batch(), "cutmix", drawn(seed)).strong for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
