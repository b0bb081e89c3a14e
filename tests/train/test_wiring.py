"""What the parts of a step of retraining are handed: the right crops, views, labels and thresholds."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from semivss.data.toy import toy_labels
from semivss.losses.contrast_sets import nearest
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.posterior import align, class_distribution, class_factors, entropy
from semivss.recipe import Recipe, parse_recipe
from semivss.settings import Model, PixelHead
from semivss.tensors import IGNORE, UnlabelledBatch
from semivss.train import contrast, objective, semi
from semivss.train.alignment import MEMORY, RunningAlignment
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
    seen = SimpleNamespace(asked=[], looked=[], views=[], student=[], targets=[], contrasted=[], cells=[])
    label, look, forward = semi.label, contrast.Contrast.look, semi.SemiObjective.forward
    contrastive_loss, regions = contrast.contrastive_loss, contrast.regions

    def spy_label(batch, *rest):
        seen.asked.append(batch)
        return label(batch, *rest)

    def spy_look(self, average, frames, targets):
        hook = average.segmenter.register_forward_pre_hook(lambda _, given: seen.looked.append(given[0]))
        look(self, average, frames, targets)
        hook.remove()
        with torch.no_grad():
            output = average.segmenter(seen.looked[-1])
            seen.views.append((class_distribution(output), average.representation(output.pixel_features)))

    def spy_forward(self, frames, labels, targets, *rest):
        seen.student.append((frames, targets.strong))
        seen.targets.append(targets)
        return forward(self, frames, labels, targets, *rest)

    def spy_loss(z, teacher, *rest, **more):
        seen.contrasted.append(teacher)
        return contrastive_loss(z, teacher, *rest, **more)

    def spy_regions(*arguments):
        seen.cells.append(regions(*arguments))
        return seen.cells[-1]

    monkeypatch.setattr(semi, "label", spy_label)
    monkeypatch.setattr(contrast.Contrast, "look", spy_look)
    monkeypatch.setattr(semi.SemiObjective, "forward", spy_forward)
    monkeypatch.setattr(contrast, "contrastive_loss", spy_loss)
    monkeypatch.setattr(contrast, "regions", spy_regions)
    return seen


@pytest.mark.parametrize(("share", "labelled", "unlabelled"), [(1.0, 2, 3), (0.5, 1, 2)])
def test_the_teacher_of_the_contrastive_loss_sees_the_crops_of_the_student(world, tmp_path, seen, share, labelled, unlabelled):
    settings = {"channels": 8, "bank": 64, "anchors": 16, "negatives": 8, "confidence": 0, "share": share}
    train(recipe(world, contrast=settings), tmp_path / "out", given=Given(None, None))
    assert len(seen.looked) == 3
    for looked, (frames, strong) in zip(seen.looked, seen.student, strict=True):
        assert looked.equal(torch.cat([frames[:labelled], strong[0, :unlabelled]]))
    for teacher, (_, z) in zip(seen.contrasted, seen.views, strict=True):  # keys and prototypes come from the averaged student
        torch.testing.assert_close(teacher, z)
    for cells in seen.cells:
        assert (len(cells.labels), cells.labelled) == (labelled + unlabelled, labelled)


def test_unreliable_pixels_are_the_negatives_of_the_contrastive_loss(world, tmp_path, seen):
    train(recipe(world), tmp_path / "out", given=Given(None, None))
    for cells, targets in zip(seen.cells, seen.targets, strict=True):
        split = targets.split
        size = (cells.labels.shape[1], cells.labels.shape[2])
        assert 0.3 < float(split.unreliable.float().mean()) < 0.7  # alpha 50 of each batch
        assert cells.unsure[2:].equal(nearest(split.unreliable, size))
        assert cells.sure[2:].equal(nearest(split.labels != IGNORE, size))


def calls_of(monkeypatch, module, name: str) -> list[SimpleNamespace]:
    """Calls of `module.name` from here on, with what they returned."""
    original, calls = getattr(module, name), []

    def spy(*arguments, **named):
        calls.append(SimpleNamespace(arguments=arguments, named=named, result=original(*arguments, **named)))
        return calls[-1].result

    monkeypatch.setattr(module, name, spy)
    return calls


def test_settings_of_the_contrastive_loss_reach_it(world, tmp_path, monkeypatch):
    names = ("PoolSampler", "MemoryBank", "contrast_sets", "contrastive_loss", "regions")
    calls = {name: calls_of(monkeypatch, contrast, name) for name in names}
    heads, terms = calls_of(monkeypatch, contrast, "RepresentationHead"), calls_of(monkeypatch, semi.SemiObjective, "forward")
    windows, percentiles = calls_of(monkeypatch, contrast.RankWindow, "scaled"), calls_of(monkeypatch, semi, "surest")
    settings = {"weight": 0.7, "channels": 12, "stride": 8, "anchors": 9, "negatives": 7, "temperature": 0.3, "confidence": 0.05}
    settings |= {"low_rank": 1, "high_rank": 2, "bank": 33, "keys": 5, "bank_precision": "bf16", "anchor_set": "code", "prototypes": True}
    train(recipe(world, contrast=settings), tmp_path / "out", given=Given(None, None))
    assert heads[0].arguments[1:] == (12,)
    assert heads[0].named == {"stride": 8}
    assert windows[0].arguments == (3, 1, 2)
    assert calls["MemoryBank"][0].arguments == (3, 12, 33)
    assert (calls["MemoryBank"][0].named["most"], calls["MemoryBank"][0].named["dtype"]) == (5, torch.bfloat16)
    assert [call.arguments[1:] for call in calls["PoolSampler"]] == [(9, 7)] * 3
    assert [call.arguments[3] for call in calls["contrast_sets"]] == [0.05] * 3
    assert [call.named["temperature"] for call in calls["contrastive_loss"]] == [0.3] * 3
    assert all(call.named["prototypes"] is not None for call in calls["contrastive_loss"])
    assert [call.arguments[4] for call in calls["regions"]] == [call.result for call in percentiles]  # alpha percent of lowest entropy
    for forward, loss in zip(terms, calls["contrastive_loss"], strict=True):
        torch.testing.assert_close(forward.result["contrast"], 0.7 * loss.result.loss)
        assert loss.result.loss > 0


def test_settings_of_strong_views_and_of_the_unlabelled_loss_reach_them(world, tmp_path, monkeypatch):
    mixed = calls_of(monkeypatch, semi, "mix")
    names = ("deal_out_channels", "unsupervised_loss", "supervised_loss")
    dealt, losses, supervised = (calls_of(monkeypatch, objective, name) for name in names)
    terms, passes = calls_of(monkeypatch, semi.SemiObjective, "forward"), calls_of(monkeypatch, Segmenter, "forward")
    strong = {"views": 2, "complementary": 1.0, "mix": "classmix", "mix_chance": 1.0}
    more = {"unsupervised": 0.5, "max_area_factor": 1.5, "contrast": {"weight": 0}}
    settings = recipe(world, strong=strong, **more)
    settings = settings.model_copy(update={"semi": settings.semi.model_copy(update={"likelihood": 0.25})})  # refused with a pixel head
    train(settings, tmp_path / "out", given=Given(None, None))
    assert [call.arguments[1] for call in mixed] == ["classmix"] * 3
    assert all(call.named["dealt"].all() for call in dealt)
    assert len(dealt) == 3
    assert [call.arguments[4] for call in supervised] == [0.25] * 3
    seen_by_students = [call.arguments[1] for call in passes if call.arguments[0].training]
    for forward, images, (first, second) in zip(terms, seen_by_students, zip(losses[::2], losses[1::2], strict=True), strict=True):
        _, frames, _, targets, *_ = forward.arguments
        assert images.equal(torch.cat([frames, targets.strong[0], targets.strong[1]]))
        assert not targets.strong[0].equal(targets.strong[1])
        for loss in (first, second):
            assert loss.arguments[1] is targets.split
            assert (loss.arguments[3].unsupervised, loss.arguments[3].max_area_factor) == (0.5, 1.5)
        mean = (first.result["cross_entropy"] + second.result["cross_entropy"]) / 2
        torch.testing.assert_close(forward.result["unlabelled_cross_entropy"], mean)


def test_padding_is_neither_labelled_nor_learnt(world, tmp_path, seen):
    train(recipe(world, {"scale": [0.5, 0.5]}), tmp_path / "out", given=Given(None, None))  # 24 x 32 in crops of 32 x 48
    for asked, targets in zip(seen.asked, seen.targets, strict=True):
        assert 0 < float(asked.inside.float().mean()) < 0.6
        assert (targets.labels[~asked.inside] == IGNORE).all()
        assert (targets.labels[asked.inside] != IGNORE).all()


def test_padding_that_is_pasted_into_another_crop_is_not_learnt_there(world, tmp_path, seen, monkeypatch):
    original, inside = semi.mix, []

    def spy(batch, kind, generator):
        before = generator.get_state()
        inside.append(original(replace(batch, labels=batch.inside.byte()), kind, generator).labels.bool())
        generator.set_state(before)
        return original(batch, kind, generator)

    monkeypatch.setattr(semi, "mix", spy)
    strong = {"mix": "cutmix", "mix_chance": 1.0}
    train(recipe(world, {"scale": [0.3, 1.0]}, strong=strong), tmp_path / "out", given=Given(None, None))
    assert any(not mixed.equal(asked.inside) for mixed, asked in zip(inside, seen.asked, strict=True))
    for mixed, targets in zip(inside, seen.targets, strict=True):
        assert (targets.labels != IGNORE).equal(mixed)


def test_teachers_label_the_weak_view_with_their_mean():
    torch.manual_seed(0)
    teachers = [build_segmenter(Model(pixel=PixelHead(channels=8)), toy_labels()).eval() for _ in range(2)]
    weak, strong = torch.randint(256, (2, 2, 3, 32, 48), dtype=torch.uint8)
    empty = torch.zeros(2, 32, 48)
    batch = UnlabelledBatch(weak, strong[None], empty == 0, empty.byte(), empty, ("a", "b"))
    labelled = semi.label(batch, teachers)
    with torch.no_grad():
        p = sum(class_distribution(teacher(weak), (32, 48)) for teacher in teachers) / 2
        other = class_distribution(teachers[0](strong), (32, 48))
    assert labelled.labels.equal(p.argmax(1).byte())
    assert not labelled.labels.equal(other.argmax(1).byte())
    torch.testing.assert_close(labelled.doubt, entropy(p))
    wanted = torch.full((len(toy_labels()),), 1 / len(toy_labels()))
    aligned = semi.label(
        UnlabelledBatch(weak, strong[None], empty == 0, empty.byte(), empty, ("a", "b")), teachers, RunningAlignment(wanted, 1.0)
    )
    factors = class_factors(torch.lerp(p.mean((0, 2, 3)), wanted, MEMORY), wanted, 1.0)
    torch.testing.assert_close(aligned.doubt, entropy(align(p, factors)))
    assert not aligned.doubt.equal(labelled.doubt)
