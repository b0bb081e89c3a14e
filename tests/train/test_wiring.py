"""What the parts of a step of retraining are handed: the right crops, views, labels and thresholds."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from semivss.data.toy import toy_labels
from semivss.losses.contrast_sets import nearest
from semivss.models.zoo import build_segmenter
from semivss.posterior import class_distribution, entropy
from semivss.recipe import Recipe, parse_recipe
from semivss.settings import Model, PixelHead
from semivss.tensors import IGNORE, UnlabelledBatch
from semivss.train import contrast, semi
from semivss.train.loop import train
from semivss.train.method import Given


def recipe(world: Path, augment: dict | None = None, **more) -> Recipe:
    """Three steps in mode online from random weights, nothing mixed."""
    source = {"kind": "vspw", "path": str(world)}
    settings = {
        "mode": "online",
        "start": "scratch",
        "unlabelled_batch": 3,
        "strong": {"mix": "none"},
        "threshold": {"alpha": 50, "schedule": "constant"},
        "contrast": {"channels": 8, "bank": 64, "anchors": 16, "negatives": 8, "confidence": 0},
        "train": {"steps": 3, "batch": 2, "lr": 1e-3, "threads": 1, "ema": 0.5, "checkpoint_every": 10},
    }
    data = {"train": [source], "unlabelled": [source], "augment": {"crop": [32, 48]} | (augment or {})}
    training = settings["train"]
    return parse_recipe({"name": "wiring", "data": data, "model": {"pixel": {"channels": 8}}, "train": training, "semi": settings | more})


@pytest.fixture
def seen(monkeypatch) -> SimpleNamespace:
    """What went by: batches to be labelled and labelled ones, crops of the teacher and of the student, targets and regions of L_c."""
    seen = SimpleNamespace(asked=[], looked=[], student=[], targets=[], contrasted=[], cells=[])
    label, look, forward = semi.label, contrast.Contrast.look, semi.SemiObjective.forward
    loss, regions = contrast.Contrast.loss, contrast.regions

    def spy_label(batch, teachers):
        seen.asked.append(batch)
        return label(batch, teachers)

    def spy_look(self, average, frames):
        seen.looked.append(frames)
        return look(self, average, frames)

    def spy_forward(self, frames, labels, targets, *rest):
        seen.student.append((frames, targets.strong))
        seen.targets.append(targets)
        return forward(self, frames, labels, targets, *rest)

    def spy_loss(self, z, output, labels, targets, generator):
        seen.contrasted.append((labels, targets))
        return loss(self, z, output, labels, targets, generator)

    def spy_regions(*arguments):
        seen.cells.append(regions(*arguments))
        return seen.cells[-1]

    monkeypatch.setattr(semi, "label", spy_label)
    monkeypatch.setattr(contrast.Contrast, "look", spy_look)
    monkeypatch.setattr(semi.SemiObjective, "forward", spy_forward)
    monkeypatch.setattr(contrast.Contrast, "loss", spy_loss)
    monkeypatch.setattr(contrast, "regions", spy_regions)
    return seen


@pytest.mark.parametrize(("share", "labelled", "unlabelled"), [(1.0, 2, 3), (0.5, 1, 2)])
def test_the_teacher_of_the_contrastive_loss_sees_the_crops_of_the_student(world, tmp_path, seen, share, labelled, unlabelled):
    settings = {"channels": 8, "bank": 64, "anchors": 16, "negatives": 8, "confidence": 0, "share": share}
    train(recipe(world, contrast=settings), tmp_path / "out", given=Given(None, None))
    assert len(seen.looked) == 3
    for looked, (frames, strong), (labels, targets) in zip(seen.looked, seen.student, seen.contrasted, strict=True):
        assert looked.equal(torch.cat([frames[:labelled], strong[0, :unlabelled]]))
        assert len(labels) == labelled + unlabelled
        assert len(targets.labels) == unlabelled


def test_unreliable_pixels_are_the_negatives_of_the_contrastive_loss(world, tmp_path, seen):
    train(recipe(world), tmp_path / "out", given=Given(None, None))
    for cells, targets in zip(seen.cells, seen.targets, strict=True):
        split = targets.split
        size = (cells.labels.shape[1], cells.labels.shape[2])
        assert 0.3 < float(split.unreliable.float().mean()) < 0.7  # alpha 50 of each batch
        assert cells.unsure[2:].equal(nearest(split.unreliable, size))
        assert cells.sure[2:].equal(nearest(split.labels != IGNORE, size))


def test_padding_is_neither_labelled_nor_learnt(world, tmp_path, seen):
    train(recipe(world, {"scale": [0.5, 0.5]}), tmp_path / "out", given=Given(None, None))  # 24 x 32 in crops of 32 x 48
    for asked, targets in zip(seen.asked, seen.targets, strict=True):
        assert 0 < float(asked.inside.float().mean()) < 0.6
        assert (targets.labels[~asked.inside] == IGNORE).all()
        assert (targets.labels[asked.inside] != IGNORE).all()


def test_teachers_label_the_weak_view_with_their_mean():
    torch.manual_seed(0)
    teachers = [build_segmenter(Model(pixel=PixelHead(channels=8)), toy_labels()).eval() for _ in range(2)]
    weak, strong = torch.randint(256, (2, 2, 3, 32, 48), dtype=torch.uint8)
    empty = torch.zeros(2, 32, 48)
    labelled = semi.label(UnlabelledBatch(weak, strong[None], empty == 0, empty.byte(), empty, ("a", "b")), teachers)
    with torch.no_grad():
        p = sum(class_distribution(teacher(weak), (32, 48)) for teacher in teachers) / 2
        other = class_distribution(teachers[0](strong), (32, 48))
    assert labelled.labels.equal(p.argmax(1).byte())
    assert not labelled.labels.equal(other.argmax(1).byte())
    torch.testing.assert_close(labelled.doubt, entropy(p))
