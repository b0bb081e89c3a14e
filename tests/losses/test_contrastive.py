"""The contrastive loss: windows of ranks, sets of pixels, the loss against its formula, and what is left when parts are missing."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semivss.losses.bank import MemoryBank
from semivss.losses.contrast_sets import ContrastSets, RankWindow, Regions, contrast_sets, nearest, regions
from semivss.losses.contrast_watch import ContrastWatch
from semivss.losses.contrastive import ContrastResult, MomentumPrototypes, PoolSampler, RowSampler, class_means, contrastive_loss
from semivss.losses.matcher import NonFiniteCost

CHANNELS = 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(classes: int, labelled: int = 2, unlabelled: int = 2, side: int = 8, seed: int = 0) -> tuple[Tensor, Regions]:
    """A teacher's distribution and what is known of the pixels: all kinds mixed."""
    generator, images = seeded(seed), labelled + unlabelled
    labels = torch.randint(0, classes, (images, side, side), generator=generator, dtype=torch.uint8)
    p = (
        2 * torch.randn(images, classes, side, side, generator=generator) + 3 * F.one_hot(labels.long(), classes).permute(0, 3, 1, 2)
    ).softmax(1)
    labels = labels.masked_fill(torch.rand(images, side, side, generator=generator) < 0.1, 255)
    unsure = torch.rand(images, side, side, generator=generator) < 0.4
    valid, people = labels != 255, (torch.arange(images) < labelled)[:, None, None]
    return p, Regions(labels, valid & (people | ~unsure), valid & (people | unsure), labelled)


def vectors(images: int = 4, side: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    z, teacher = torch.randn(2, images, CHANNELS, side, side, generator=seeded(seed))
    return z.requires_grad_(), teacher


def run(sets: ContrastSets, bank: MemoryBank | None = None, seed: int = 0, **more) -> tuple[ContrastResult, Tensor]:
    """Loss of random vectors, and its gradient."""
    z, teacher = vectors()
    bank = bank or MemoryBank(len(sets.positives.counts), CHANNELS, 64)
    result = contrastive_loss(z, teacher, sets, bank, more.pop("sampler", RowSampler(seeded(seed), 16, 8)), generator=seeded(seed), **more)
    (gradient,) = torch.autograd.grad(result.loss, z)
    return result, gradient


@pytest.mark.parametrize(
    ("classes", "low", "high"),
    [(2, 1, 2), (3, 1, 3), (5, 2, 5), (8, 2, 8), (11, 3, 11), (12, 3, 12), (19, 3, 19), (21, 3, 20), (124, 3, 20)],
)
def test_window_of_ranks(classes, low, high):
    assert RankWindow.scaled(classes) == RankWindow(low, high)


def test_windows_that_make_no_sense_are_refused():
    assert RankWindow.scaled(30, 5, 9) == RankWindow(5, 9)
    assert RankWindow.scaled(12, 6, 20) == RankWindow(6, 12)  # what is asked for is not scaled
    with pytest.raises(ValueError, match="0 < low < high"):
        RankWindow.scaled(5, 5, 20)
    for low, high in ((0, 3), (3, 3)):
        with pytest.raises(ValueError, match="0 < low < high"):
            RankWindow(low, high)
    with pytest.raises(ValueError, match="at least 2 classes"):
        RankWindow.scaled(1)


@pytest.mark.parametrize("classes", [2, 3, 5, 11, 12, 30])
def test_sets_follow_their_definition(classes):
    p, cells = batch(classes)
    window = RankWindow.scaled(classes)
    sets = contrast_sets(p, cells, window, 0.3)
    rank = p.argsort(1, descending=True).argsort(1)  # of each class in each pixel
    is_class = F.one_hot(cells.labels.long(), 256)[..., :classes].permute(0, 3, 1, 2).bool()
    positive = is_class & cells.sure[:, None]
    labelled, unsure = (torch.arange(4) < 2)[:, None, None, None], cells.unsure[:, None]
    negative = torch.where(labelled, unsure & ~is_class & (rank < window.low), unsure & (rank >= window.low) & (rank < window.high))
    for pixels, expected in ((sets.positives, positive), (sets.anchors, positive & (p > 0.3)), (sets.negatives, negative)):
        assert torch.equal(pixels.mask(4, (8, 8)), expected)
        assert torch.equal(pixels.pixels, expected.transpose(0, 1).flatten(1).nonzero()[:, 1])  # in row-major order
        assert pixels.counts.tolist() == expected.sum((0, 2, 3)).tolist()


@pytest.mark.parametrize("classes", [2, 3, 5, 11, 12])
def test_every_class_is_contrasted_with_few_classes_too(classes):
    result, gradient = run(contrast_sets(*batch(classes), RankWindow.scaled(classes)))
    assert result.processed.all()
    assert result.reasons() == [""] * classes
    assert gradient.abs().sum() > 0
    assert 0 < result.loss < 2 * math.log(9)


def test_loss_follows_its_formula():
    class Written(RowSampler):
        def anchors(self, candidates):
            return torch.arange(3)[None] % candidates[:, None]

        def rows(self, queued):
            return (torch.arange(6).view(1, 3, 2) * 5) % queued[:, None, None]

    sets = contrast_sets(*batch(5), RankWindow(2, 5))
    bank = MemoryBank(5, CHANNELS, 9, most=None, unit=False)
    (z, teacher), (result, gradient) = vectors(), run(sets, bank, sampler=Written(), temperature=0.7)
    student, keys = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (z, teacher))
    losses = []
    for number, candidates in enumerate(sets.anchors.pixels.split(sets.anchors.counts.tolist())):
        mean = keys[sets.positives.pixels.split(sets.positives.counts.tolist())[number]].mean(0)
        queue = keys[sets.negatives.pixels.split(sets.negatives.counts.tolist())[number]][-9:]
        for anchor in range(3):
            others = torch.stack([mean, *(queue[(5 * (2 * anchor + n)) % len(queue)] for n in range(2))])
            scores = F.cosine_similarity(student[candidates[anchor % len(candidates)]], others, dim=1) / 0.7
            losses.append(-scores.softmax(0)[0].log())
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, z)[0])
    torch.testing.assert_close(result.class_losses.mean(), expected.detach())


@pytest.mark.parametrize("unit", [True, False])
def test_pool_has_the_law_of_separate_rows(unit):
    sets = contrast_sets(*batch(5), RankWindow(2, 5))
    bank = MemoryBank(5, CHANNELS, 64, unit=unit)
    run(sets, bank)
    z, teacher = vectors()
    kinds = [kind(seeded(3), 400, 300) for kind in (RowSampler, PoolSampler)]
    rows, pool = (contrastive_loss(z, teacher, sets, bank, sampler, generator=seeded()) for sampler in kinds)
    torch.testing.assert_close(pool.class_losses, rows.class_losses, rtol=0.03, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(one.loss, z)[0].norm() for one in (pool, rows)), rtol=0.1, atol=0)


@pytest.mark.parametrize("sampler", [RowSampler, PoolSampler])
def test_the_same_generators_give_the_same_bytes(sampler):
    sets = contrast_sets(*batch(5), RankWindow(2, 5))
    (first, gradient), (second, again) = (
        run(sets, MemoryBank(5, CHANNELS, 64, most=4), sampler=sampler(seeded(5), 16, 8)) for _ in range(2)
    )
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(gradient, again)


def test_ignored_pixels_count_nowhere():
    p, cells = batch(5)
    ignored = (cells.labels == 255).flatten()
    sets = contrast_sets(p, cells, RankWindow(2, 5))
    for pixels in (sets.positives, sets.anchors, sets.negatives):
        assert not ignored[pixels.pixels].any()


def silent(result: ContrastResult, gradient: Tensor, reason: str) -> None:
    assert result.loss == 0
    assert gradient.abs().sum() == 0
    assert set(result.reasons()) == {reason}


def test_one_class_alone_costs_nothing_but_fills_the_bank():
    p, cells = batch(3)
    cells = Regions(torch.full_like(cells.labels, 1), cells.sure, cells.unsure, 2)
    bank = MemoryBank(3, CHANNELS, 64)
    result, gradient = run(contrast_sets(p, cells, RankWindow(1, 3)), bank)
    assert result.loss == 0
    assert gradient.abs().sum() == 0
    assert result.reasons() == ["no positive", "only class", "no positive"]
    assert bank.lengths.sum() > 0
    assert torch.equal(result.new_keys.clamp_max(64), bank.lengths)


def test_nothing_labelled_costs_nothing():
    p, cells = batch(3)
    none = torch.zeros_like(cells.sure)
    silent(*run(contrast_sets(p, Regions(torch.full_like(cells.labels, 255), none, none, 2), RankWindow(1, 3))), "no positive")


def test_an_unsure_teacher_gives_no_anchor():
    _, cells = batch(5)
    p = torch.full((4, 5, 8, 8), 0.2) + 1e-3 * torch.rand(4, 5, 8, 8, generator=seeded())
    silent(*run(contrast_sets(p, cells, RankWindow(2, 5))), "no anchor")


def test_without_negatives_the_queues_are_empty():
    p, cells = batch(5)
    silent(*run(contrast_sets(p, Regions(cells.labels, cells.sure, torch.zeros_like(cells.sure), 2), RankWindow(2, 5))), "empty queue")


def test_skipped_classes_count_in_the_mean():
    p, cells = batch(4)
    p[:, 3] = 1e-3  # never above delta_p
    result, _ = run(contrast_sets(p, cells, RankWindow(1, 4)))
    assert result.reasons() == ["", "", "", "no anchor"]
    torch.testing.assert_close(result.loss.detach(), result.class_losses.sum() / 4)


@pytest.mark.parametrize(("labelled", "unlabelled"), [(4, 0), (0, 4)])
def test_only_labelled_and_only_unlabelled_images(labelled, unlabelled):
    result, gradient = run(contrast_sets(*batch(5, labelled, unlabelled), RankWindow(2, 5)))
    assert result.processed.all()
    assert gradient.isfinite().all()


def test_zero_vectors_give_no_nan():
    sets = contrast_sets(*batch(5), RankWindow(2, 5))
    z = torch.zeros(4, CHANNELS, 8, 8, requires_grad=True)
    result = contrastive_loss(z, torch.zeros_like(z), sets, MemoryBank(5, CHANNELS, 64), RowSampler(seeded(), 16, 8))
    result.loss.backward()
    assert result.loss.item() == pytest.approx(math.log(9))
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_a_teacher_of_nan_is_reported():
    sets = contrast_sets(*batch(5), RankWindow(2, 5))
    z, teacher = vectors()
    with pytest.raises(NonFiniteCost, match="teacher"):
        contrastive_loss(z, teacher * torch.nan, sets, MemoryBank(5, CHANNELS, 64), RowSampler(seeded()))


def test_half_precision_is_computed_in_float32():
    sets = contrast_sets(*batch(5), RankWindow(2, 5))
    z, teacher = (maps.detach().bfloat16() for maps in vectors())
    wanted, result = (
        contrastive_loss(one.requires_grad_(), two, sets, MemoryBank(5, CHANNELS, 64), PoolSampler(seeded(), 64, 8), generator=seeded())
        for one, two in ((z.float(), teacher.float()), (z, teacher))
    )
    with torch.autocast("cpu", torch.bfloat16):
        cast = contrastive_loss(z, teacher, sets, MemoryBank(5, CHANNELS, 64), PoolSampler(seeded(), 64, 8), generator=seeded())
    assert result.loss.dtype == cast.loss.dtype == torch.float32
    assert torch.equal(wanted.loss, result.loss)
    assert torch.equal(wanted.loss, cast.loss)


def test_the_layout_of_the_maps_changes_nothing():
    sets = contrast_sets(*batch(5), RankWindow(2, 5))
    losses = []
    for layout in (torch.contiguous_format, torch.channels_last):
        z, teacher = (maps.detach().contiguous(memory_format=layout) for maps in vectors())
        losses.append(contrastive_loss(z, teacher, sets, MemoryBank(5, CHANNELS, 64), RowSampler(seeded()), generator=seeded()).loss)
    assert torch.equal(*losses)


def test_no_gradient_reaches_the_teacher():
    sets = contrast_sets(*batch(5), RankWindow(2, 5))
    z, teacher = vectors()
    teacher.requires_grad_()
    contrastive_loss(z, teacher, sets, MemoryBank(5, CHANNELS, 64), RowSampler(seeded())).loss.backward()
    assert teacher.grad is None


def test_means_of_the_classes():
    sets = contrast_sets(*batch(5), RankWindow(2, 5))
    _, teacher = vectors()
    rows = teacher.permute(0, 2, 3, 1).flatten(0, 2)
    expected = torch.stack([rows[own].mean(0) for own in sets.positives.pixels.split(sets.positives.counts.tolist())])
    torch.testing.assert_close(class_means(teacher, sets.positives), expected)


def test_prototypes_average_and_keep_absent_classes(tmp_path):
    prototypes, means = MomentumPrototypes(3, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.nan, 0.0]])
    prototypes.step = 4
    assert torch.equal(prototypes.mix(means, torch.tensor([True, True, True]))[:2], means[:2])
    assert prototypes.rows[2].tolist() == [0.0, 0.0]  # not a number: not kept
    torch.save(prototypes.state_dict(), tmp_path / "prototypes.pt")
    resumed = MomentumPrototypes(3, 2)
    resumed.load_state_dict(torch.load(tmp_path / "prototypes.pt", weights_only=True))
    mixed = resumed.mix(means.flip(1), torch.tensor([True, False, False]))
    assert mixed[0].tolist() == [0.75, 0.25]
    assert resumed.rows.tolist() == [[0.75, 0.25], [0.0, 1.0], [0.0, 0.0]]


def test_bad_labels_are_named():
    p, cells = batch(5)
    with pytest.raises(ValueError, match=r"label 9 is not in 0\.\.4"):
        contrast_sets(p, Regions(torch.full_like(cells.labels, 9), cells.sure, cells.unsure, 2), RankWindow(2, 5))


@pytest.mark.parametrize(("size", "small", "stride"), [((33, 50), (9, 13), 4), ((33, 50), (5, 7), 8), ((32, 48), (8, 12), 4)])
def test_labels_are_read_at_the_first_pixel_of_a_cell(size, small, stride):
    labels = torch.randint(0, 9, (1, *size), dtype=torch.uint8)
    assert torch.equal(nearest(labels, small), labels[:, ::stride, ::stride])


def test_nearest_spans_the_image_where_asked():
    ramp = torch.arange(33.0).view(1, 1, 33).expand(1, 33, 33)
    assert nearest(ramp, (9, 9), whole=True)[0, 0].tolist() == [33 * i // 9 for i in range(9)]
    assert nearest(ramp, (10, 10))[0, 0].tolist() == [33 * i // 10 for i in range(10)]


def test_regions_of_paper_and_code():
    labels = torch.zeros(2, 4, 4, dtype=torch.uint8)
    labels[:, 0] = 255
    doubt = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(1, 4, 4)
    paper, code = regions(labels, doubt, (4, 4), 0.3), regions(labels, doubt, (4, 4), 0.3, low=0.1)
    for cells in (paper, code):
        assert cells.labelled == 1
        assert torch.equal(cells.sure[0], labels[0] != 255)
        assert torch.equal(cells.unsure[0], labels[0] != 255)
        assert cells.unsure[1].tolist() == [[False] * 4] + [[False, False, True, True]] * 3
    assert paper.sure[1].tolist() == [[False] * 4] + [[True, True, False, False]] * 3
    assert code.sure[1].tolist() == [[False] * 4] + [[True, False, False, False]] * 3


def test_entropies_at_the_size_of_the_features_serve_too():
    labels, doubt = torch.zeros(1, 16, 16, dtype=torch.uint8), torch.rand(1, 4, 4)
    full = doubt.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(regions(labels, doubt, (4, 4), 0.5).unsure, regions(labels, full, (4, 4), 0.5).unsure)


def test_watch_names_class_and_reason_once():
    watch = ContrastWatch(["road", "sky", "dog"], patience=3)
    steps = [["", "no anchor", "no positive"]] * 2 + [["", "empty queue", ""]] + [["", "no anchor", "no positive"]] * 3
    lines = [watch.update(step) for step in steps]
    assert [len(line) for line in lines] == [0, 0, 1, 0, 0, 1]
    assert lines[2][0].startswith("contrastive loss: nothing for 3 batches from sky (1): no anchor, mostly")
    assert lines[5][0].startswith("contrastive loss: nothing for 3 batches from dog (2): no positive, mostly")


def test_watch_goes_on_from_its_state():
    first, second = ContrastWatch(["a", "b"], 2), ContrastWatch(["a", "b"], 2)
    assert first.update(["only class", ""]) == []
    second.load_state_dict(first.state_dict())
    assert len(second.update(["only class", ""])) == 1


def test_watch_names_every_class():
    (line,) = ContrastWatch([f"class{number}" for number in range(60)], 1).update(["no positive"] * 60)
    assert all(f"class{number} ({number})" in line for number in range(60))
