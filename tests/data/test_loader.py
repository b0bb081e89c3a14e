"""The sample stream: a function of seed and step, whatever the workers, the processes and the place where it was interrupted."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pytest
import torch

from semivss.data.clips import Clip, VideoDataset
from semivss.data.labels import IGNORE, LabelSet, distinct_colors
from semivss.data.loader import labelled_batches, open_sources, unlabelled_batches
from semivss.data.sampling import (
    Unit,
    Units,
    build_units,
    choose_frames,
    class_balanced_weights,
    repeat_weights,
    source_weights,
)
from semivss.errors import DataError, DefectError, RecipeError
from semivss.settings import Augment, Data, Phase, Sampling, Semi, Source, Strong, Train

CLASSES = LabelSet("four", ("a", "b", "c", "d"), distinct_colors(4), (False,) * 4)
SOURCE = Source(kind="toy")
AUGMENT = Augment(crop=(8, 8), scale=(1.0, 1.0), max_class_share=1.0)


@dataclass
class MemoryClip:
    """Frame i of clip `number` is grey level 20 * number + i; its mask shows classes[i]. Counts what is opened."""

    number: int
    length: int = 5
    classes: tuple[int, ...] = (0, 1, 2, 3, 0)
    unlabelled: frozenset[int] = frozenset()
    damaged: frozenset[int] = frozenset()
    opened: Counter = field(default_factory=Counter)

    @property
    def name(self) -> str:
        return f"clip{self.number}"

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(f"{i:08d}" for i in range(self.length))

    def frame(self, index):
        self.opened["frame"] += 1
        if index in self.damaged:
            raise DefectError(f"{self.name}/{index}.jpg", "truncated", "the file ends early", "copy it again")
        return np.full((8, 8, 3), 20 * self.number + index, np.uint8)

    def is_labelled(self, index):
        return index not in self.unlabelled

    def labels(self, index):
        self.opened["mask"] += 1
        return np.full((8, 8), self.classes[index], np.uint8)

    def stream(self):
        for index, stem in enumerate(self.stems):
            yield stem, self.frame(index)


def dataset(*clips, name="memory"):
    assert all(isinstance(clip, Clip) for clip in clips)
    return VideoDataset(name, CLASSES, clips)


def data(**settings):
    return Data(**({"train": (SOURCE,), "augment": AUGMENT} | settings))


def ids(batches, count):
    return [batch.ids for batch in islice(batches, count)]


def same(a, b):
    return torch.equal(a.frames, b.frames) and torch.equal(a.labels, b.labels) and a.ids == b.ids


TRAIN = Train(steps=12, batch=4, seed=3)


def test_workers_do_not_change_a_byte():
    recipe = {"augment": Augment(crop=(6, 10)), "sampling": Sampling(mode="target", offsets=(2, 1), reverse=0.5)}
    alone = list(labelled_batches(data(**recipe), TRAIN, datasets=[dataset(MemoryClip(0), MemoryClip(1))]))
    shared = list(labelled_batches(data(workers=2, **recipe), TRAIN, datasets=[dataset(MemoryClip(0), MemoryClip(1))]))
    assert len(alone) == len(shared) == 12
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))
    assert alone[0].frames.shape == (4, 3, 3, 6, 10)


@pytest.mark.parametrize("start", [1, 7])
def test_a_later_start_continues_the_same_stream(start):
    train = TRAIN.model_copy(update={"accumulate": 2})
    whole = list(labelled_batches(data(), train, datasets=[dataset(MemoryClip(0), MemoryClip(1))]))
    rest = list(labelled_batches(data(), train, start, datasets=[dataset(MemoryClip(0), MemoryClip(1))]))
    assert len(whole) == 24  # k counts micro-batches
    assert all(same(a, b) for a, b in zip(whole[2 * start :], rest, strict=True))


def test_processes_share_a_batch_without_changing_it():
    sets = [dataset(MemoryClip(0), MemoryClip(1))]
    whole = list(labelled_batches(data(), TRAIN, datasets=sets))
    halves = [list(labelled_batches(data(), TRAIN, 0, rank, 2, datasets=sets)) for rank in range(2)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert batch.ids == first.ids + second.ids
        assert torch.equal(batch.frames, torch.cat([first.frames, second.frames]))
    with pytest.raises(RecipeError, match=r"train.batch 4 must be a multiple of the 3 processes"):
        labelled_batches(data(), TRAIN, 0, 0, 3, datasets=sets)


def test_an_epoch_visits_every_frame_once_and_epochs_differ():
    train = TRAIN.model_copy(update={"batch": 5, "steps": 4})
    seen = [name for batch in ids(labelled_batches(data(), train, datasets=[dataset(MemoryClip(0), MemoryClip(1))]), 4) for name in batch]
    assert len(set(seen[:10])) == len(set(seen[10:])) == 10
    assert seen[:10] != seen[10:]
    other = TRAIN.model_copy(update={"seed": 4})
    assert ids(labelled_batches(data(), other, datasets=[dataset(MemoryClip(0))]), 3) != ids(
        labelled_batches(data(), TRAIN, datasets=[dataset(MemoryClip(0))]), 3
    )


def test_only_labelled_frames_are_drawn_and_pairs_belong_together():
    clip = MemoryClip(2, unlabelled=frozenset({0, 3}))
    flat = data(augment=AUGMENT.model_copy(update={"photometric": False}))
    for batch in labelled_batches(flat, TRAIN, datasets=[dataset(clip)]):
        for frame, labels, name in zip(batch.frames, batch.labels, batch.ids, strict=True):
            index = int(name.rsplit("/", 1)[1])
            assert index not in (0, 3)
            assert (frame == 40 + index).all()
            assert (labels == clip.classes[index]).all()
            assert name == f"memory/clip2/{index:08d}"


SEMI = Semi(unlabelled_batch=TRAIN.batch, strong=Strong(views=2))


class MemoryLabels:
    """Stored labels: frame i of a clip is class i % 4 on its left half and 255 on its right one, entropy code 100 * i."""

    def labels(self, video, stem):
        labels = np.full((8, 8), IGNORE, np.uint8)
        labels[:, :4] = int(stem) % 4
        return labels

    def codes(self, video, stem):
        return np.full((8, 8), 100 * int(stem), np.uint16)


def test_the_unlabelled_stream_opens_no_mask():
    clip = MemoryClip(0, unlabelled=frozenset({1}))
    recipe = data(unlabelled=(SOURCE,), sampling=Sampling(balance="repeat_factor"))
    batches = list(unlabelled_batches(recipe, TRAIN, SEMI, datasets=[dataset(clip)]))
    assert all((batch.labels == IGNORE).all() and batch.inside.all() for batch in batches)
    assert {name for batch in batches for name in batch.ids} == {f"memory/clip0/{i:08d}" for i in range(5)}
    assert clip.opened["mask"] == 0
    assert batches[0].ids != ids(labelled_batches(recipe, TRAIN, datasets=[dataset(MemoryClip(0))]), 1)[0]


def test_pseudo_labels_follow_their_frames_through_the_crop():
    recipe = data(unlabelled=(SOURCE,), augment=AUGMENT.model_copy(update={"crop": (8, 16), "flip": 0.5}))
    flipped = 0
    for batch in unlabelled_batches(recipe, TRAIN, SEMI, datasets=[dataset(MemoryClip(0))], pseudo=[MemoryLabels()]):
        assert batch.strong.shape == (2, TRAIN.batch, 3, 8, 16)
        for frame, labels, doubt, inside, name in zip(batch.weak, batch.labels, batch.doubt, batch.inside, batch.ids, strict=True):
            index = int(name.rsplit("/", 1)[1])
            assert inside.sum() == 64
            assert (frame[:, inside] == index).all()
            assert (labels[~inside] == IGNORE).all()
            assert (labels == index % 4).sum() == 32
            assert (doubt[inside] == 100 * index).all()
            mirrored = bool(inside[0, 15])
            flipped += mirrored
            assert bool(labels[0, 15 if mirrored else 0] != IGNORE)
    assert 0 < flipped < TRAIN.steps * TRAIN.batch


def test_strong_views_differ_and_workers_change_nothing():
    recipe = data(unlabelled=(SOURCE,))
    clips = [MemoryClip(9)]
    one, two = (list(unlabelled_batches(recipe.model_copy(update={"workers": n}), TRAIN, SEMI, datasets=[dataset(*clips)])) for n in (0, 2))
    assert all(torch.equal(a.strong, b.strong) and torch.equal(a.weak, b.weak) for a, b in zip(one, two, strict=True))
    assert any(not torch.equal(batch.strong[0], batch.strong[1]) for batch in one)
    assert any(not torch.equal(batch.strong[0], batch.weak) for batch in one)


def test_the_cache_keeps_frames_up_to_its_limit():
    for megabytes, most in ((0, 48), (1, 5)):
        clip = MemoryClip(0)
        list(labelled_batches(data(cache_mb=megabytes), TRAIN, datasets=[dataset(clip)]))
        assert clip.opened["frame"] == most


def test_strict_stops_with_one_line_also_from_a_worker():
    for workers in (0, 2):
        with pytest.raises(DefectError) as caught:
            list(labelled_batches(data(workers=workers), TRAIN, datasets=[dataset(MemoryClip(0, damaged=frozenset({2})))]))
        assert str(caught.value) == "clip0/2.jpg: the file ends early; copy it again"


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_draws_another_frame_and_counts_the_file_once(workers):
    batches = labelled_batches(data(policy="skip", workers=workers), TRAIN, datasets=[dataset(MemoryClip(0, damaged=frozenset({2})))])
    seen = [name for batch in batches for name in batch.ids]
    assert len(seen) == 48
    assert not any(name.endswith("2") for name in seen)
    assert batches.defects.to_dict() == {"truncated": {"count": 1, "files": ["clip0/2.jpg"]}}
    again = labelled_batches(data(policy="skip"), TRAIN, datasets=[dataset(MemoryClip(0, damaged=frozenset({2})))])
    assert [name for batch in again for name in batch.ids] == seen


def test_nothing_but_damage_is_an_error_and_not_an_endless_loop():
    clip = MemoryClip(0, damaged=frozenset(range(5)))
    with pytest.raises(DataError, match=r"^memory: 20 samples in a row were left out .*clip0/\d.jpg \(truncated\)"):
        list(labelled_batches(data(policy="skip"), TRAIN, datasets=[dataset(clip)]))


def test_a_source_without_labels_is_refused():
    with pytest.raises(DataError, match=r"^memory: no labelled frame to train on"):
        labelled_batches(data(), TRAIN, datasets=[dataset(MemoryClip(0, unlabelled=frozenset(range(5))))])


def test_sources_mix_by_weight_and_phase():
    recipe = data(train=(SOURCE, SOURCE), phases=(Phase(until=50, weights=(3, 1)), Phase(until=60, weights=(0, 1))))
    sets = [dataset(MemoryClip(0), name="x"), dataset(MemoryClip(1), name="y")]
    steps = [Counter(name[0] for name in batch) for batch in ids(labelled_batches(recipe, Train(steps=100, batch=8), datasets=sets), 100)]
    early = sum(steps[:50], Counter())
    assert early["x"] / 400 == pytest.approx(0.75, abs=0.08)
    assert sum(steps[50:], Counter()) == {"y": 400}
    assert source_weights((2.0, 5.0), (), 7) == (2.0, 5.0)


def test_mixed_sources_need_the_same_classes(monkeypatch):
    other = VideoDataset("other", LabelSet("two", ("a", "z"), distinct_colors(2), (False, False)), (MemoryClip(0),))
    opened = iter([dataset(MemoryClip(0)), other])
    monkeypatch.setattr("semivss.data.source.open_source", lambda source, policy: next(opened))
    with pytest.raises(DataError, match=r"other has the classes of two, memory those of four; give one of them a remap"):
        open_sources((SOURCE, SOURCE), "strict")


def frames_of(sampling, length=20, target=10, seed=0):
    return choose_frames(Unit(0, (target,)), length, sampling, np.random.default_rng(seed))


def test_modes_choose_the_frames_of_published_code():
    assert frames_of(Sampling(mode="anchor", offsets=(3, 6, 9))) == (10, 13, 16, 19)
    assert frames_of(Sampling(mode="target", offsets=(9, 6, 3))) == (1, 4, 7, 10)
    assert frames_of(Sampling(mode="target", offsets=(-9, -6, -3))) == (1, 4, 7, 10)
    assert frames_of(Sampling(mode="target", offsets=(9, 6, 3)), target=5) == (0, 0, 2, 5)  # before the clip's first frame
    assert frames_of(Sampling(mode="anchor", offsets=(3,), reverse=1.0)) == (13, 10)
    for seed in range(20):
        chosen = frames_of(Sampling(mode="window", window=5, frames=3), seed=seed)
        assert chosen == tuple(sorted(set(chosen)))
        assert len(chosen) == 3
        assert 10 in chosen
        assert all(5 <= i <= 15 for i in chosen)
    assert frames_of(Sampling(mode="window", window=5, frames=4), length=1, target=0) == (0, 0, 0, 0)


def test_reversal_has_its_probability():
    sampling = Sampling(mode="anchor", offsets=(3,), reverse=0.5)
    turned = [frames_of(sampling, seed=seed)[0] == 13 for seed in range(200)]
    assert np.mean(turned) == pytest.approx(0.5, abs=0.1)


def test_units_are_frames_every_nth_frame_or_whole_clips():
    clips = dataset(MemoryClip(0, length=15, classes=(0,) * 15), MemoryClip(1))

    def units(**sampling):
        return build_units(clips, Sampling(**sampling), "strict", (0,), labelled=True).units

    assert len(units(mode="frames")) == 20
    assert [(unit.clip, unit.frames) for unit in units(mode="stride", stride=7)] == [(0, (0,)), (0, (7,)), (0, (14,)), (1, (0,))]
    assert [unit.clip for unit in units(mode="target")] == [0, 1]  # an epoch sees each video once


def test_weighted_units_appear_by_their_share_within_every_epoch():
    units = Units([Unit(0, (i,)) for i in range(8)], np.array([4.0, 1, 1, 1, 1, 0, 0, 0]), (1,))
    for epoch in range(3):
        count = Counter(units.pick(epoch * 8 + k).frames[0] for k in range(8))
        assert count[0] == 4
        assert count[5] + count[6] + count[7] == 0


def test_repeat_factors_by_hand():
    presence = np.array([[1, 0], [1, 0], [1, 0], [1, 1]], bool)  # f = 1 and 0.25
    np.testing.assert_allclose(repeat_weights(presence, 1.0), [1, 1, 1, 2])
    np.testing.assert_allclose(repeat_weights(presence, 0.1), 1)


def test_class_balance_gives_every_class_the_same_share():
    presence = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 0]], bool)
    weights = class_balanced_weights(presence)
    np.testing.assert_allclose(weights / weights.sum(), [1 / 6, 1 / 6, 1 / 6, 1 / 2, 0])
    clip = MemoryClip(0, length=6, classes=(0, 0, 0, 0, 0, 1))
    batches = labelled_batches(data(sampling=Sampling(balance="class_balanced")), Train(steps=50, batch=6), datasets=[dataset(clip)])
    rare = np.mean([name.endswith("5") for batch in batches for name in batch.ids])
    assert rare == pytest.approx(0.5, abs=0.02)
