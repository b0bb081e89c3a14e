"""The mean over neighbouring frames: identity, motion, borders, and how much is held."""

import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

from semivss.temporal.window import Labelled, window_mean

from .test_flow import texture


def moving(count: int, step: int = 4, size: tuple[int, int] = (64, 96)) -> list[Labelled]:
    """A textured world that moves left by `step` pixels a frame, with a map of two classes that moves along, and noise."""
    world = texture(size[0], size[1] + step * count)
    truth = torch.zeros(size[0], world.shape[1])
    truth[16:48, 40:70] = 1
    generator = torch.Generator().manual_seed(0)
    items = []
    for t in range(count):
        part = slice(t * step, t * step + size[1])
        p = (0.25 + 0.5 * truth[:, part] + 0.2 * (torch.rand(size, generator=generator) - 0.5)).clamp(0, 1)
        items.append(Labelled(f"{t:03d}", np.ascontiguousarray(world[:, part]), torch.stack((1 - p, p))))
    return items


def error(p: Tensor, item: Labelled, step: int = 4, size: tuple[int, int] = (64, 96)) -> float:
    clean = torch.zeros(size[0], size[1] + 200)
    clean[16:48, 40:70] = 1
    start = int(item.stem) * step
    return float((p[1] - (0.25 + 0.5 * clean[:, start : start + size[1]]))[8:-8, 8:-8].abs().mean())


def test_without_a_window_nothing_changes() -> None:
    items = moving(3)
    for before, after in zip(items, window_mean(iter(items), 0), strict=True):
        assert after.p is before.p


@pytest.mark.parametrize("reach", [1, 2])
def test_noise_is_averaged_away_along_the_motion(reach: int) -> None:
    items = moving(5)
    results = list(window_mean(iter(items), reach))
    assert [item.stem for item in results] == [item.stem for item in items]
    for before, after in zip(items, results, strict=True):
        torch.testing.assert_close(after.p.sum(0), torch.ones(64, 96))
        assert error(after.p, after) < 0.8 * error(before.p, before)


def test_what_left_the_picture_is_not_asked_for() -> None:
    """Of the object two columns are left at the border; the next frames show none of it."""
    items = moving(21)
    after = list(window_mean(iter(items), 2))[17]
    assert float((after.p[1, 20:44, :2] - 0.75).abs().mean()) < 0.08
    assert float((items[17].p[1, 20:44, :2] - 0.75).abs().mean()) > 0.04  # noise


def test_a_still_video_stays_as_it_is() -> None:
    item = moving(1)[0]
    for result in window_mean([item] * 4, 2):
        torch.testing.assert_close(result.p, item.p, atol=1e-3, rtol=0)


def test_only_neighbours_of_the_same_size_take_part() -> None:
    small, large = moving(1)[0], moving(1, size=(48, 64))[0]
    results = list(window_mean([small, large, small], 1))
    for result, item in zip(results, (small, large, small), strict=True):
        torch.testing.assert_close(result.p, item.p)


def test_a_neighbour_counts_within_reach_and_no_further() -> None:
    items = moving(6)
    changed = [item if index != 5 else item._replace(p=item.p.flip(0)) for index, item in enumerate(items)]
    pairs = zip(window_mean(iter(items), 2), window_mean(iter(changed), 2), strict=True)
    assert [bool(torch.equal(a.p, b.p)) for a, b in pairs] == [True, True, True, False, False, False]


def test_a_long_video_holds_no_more_than_its_window() -> None:
    alive: list[weakref.ref] = []

    def frames():
        for item in moving(9):
            own = item.p.clone()
            alive.append(weakref.ref(own))
            yield item._replace(p=own)

    stream = window_mean(frames(), 1)
    for _ in stream:
        assert sum(reference() is not None for reference in alive) <= 2 * 1 + 2  # and the one that the generator has in hand
