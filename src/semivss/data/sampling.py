"""Clips and sampling settings in, for every (seed, micro-batch, slot) the frames of one training sample out.

Nothing here keeps a position: the k-th sample is a function of the seed and k alone, so that an interrupted run, another number of
loader workers and another number of processes see the same samples. Modes: reference of published VSPW code (`recipe.Sampling`).
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from semivss.data.clips import Clip, VideoDataset
from semivss.data.policy import Policy, read_labels
from semivss.errors import DataError
from semivss.settings import Phase, Sampling


@dataclass(frozen=True)
class Unit:
    """What an epoch visits once: a single frame, or a whole clip of which each visit takes a random part."""

    clip: int
    frames: tuple[int, ...]  # candidates for the sample's target frame


@dataclass(frozen=True)
class Choice:
    """The frames of one sample: positions in a clip, in the order in which the model sees them."""

    source: int
    clip: int
    frames: tuple[int, ...]


class Units:
    """The units of one source with the probability of each; `pick` walks through them without repeats while they are equally likely."""

    def __init__(self, units: Sequence[Unit], weights: Float64[np.ndarray, "N"], seed: Sequence[int]) -> None:
        self.units = tuple(units)
        self._edges = np.cumsum(weights) / weights.sum()
        self._seed = tuple(seed)

    def pick(self, k: int) -> Unit:
        """The unit of sample number `k`.

        Each epoch of N samples is a stratified draw: N evenly spaced points on the cumulated probabilities with a common random
        shift, visited in random order. Equal weights visit each unit exactly once; others as often as their share, rounded.
        """
        order, shift = self._epoch(k // len(self.units))
        point = (order[k % len(self.units)] + shift) / len(self.units)
        return self.units[min(int(np.searchsorted(self._edges, point, side="right")), len(self.units) - 1)]

    def any(self, generator: np.random.Generator) -> Unit:
        """A unit drawn independently, for a sample whose first choice turned out damaged."""
        return self.units[min(int(np.searchsorted(self._edges, generator.random(), side="right")), len(self.units) - 1)]

    @functools.lru_cache(maxsize=16)  # noqa: B019 - shared by all sources, which live as long as the loader; two epochs meet in a batch
    def _epoch(self, epoch: int) -> tuple[Int64[np.ndarray, "N"], float]:
        generator = np.random.default_rng((*self._seed, epoch))
        # The shift stays off 0 and 1, so that rounding never moves a point of equal weights over its edge.
        return generator.permutation(len(self.units)), 0.25 + 0.5 * float(generator.random())


def build_units(dataset: VideoDataset, sampling: Sampling, policy: Policy, seed: Sequence[int], *, labelled: bool) -> Units:
    """The units of one source: labelled frames only, unless `labelled` is false (an unlabelled stream takes every frame).

    Raises:
        DataError: the source has no frame to offer; or balancing met a damaged mask under the strict policy.
    """
    units = list(_units(dataset.clips, sampling, labelled))
    if not units:
        wanted = "labelled frame" if labelled else "frame"
        raise DataError(f"{dataset.name}: no {wanted} to train on; check its path and lists with `semivss data check`")
    if sampling.balance == "uniform" or not labelled:
        return Units(units, np.ones(len(units)), seed)
    presence = class_presence(dataset, units, policy)
    if sampling.balance == "repeat_factor":
        return Units(units, repeat_weights(presence, sampling.repeat_threshold), seed)
    return Units(units, class_balanced_weights(presence), seed)


def _units(clips: Sequence[Clip], sampling: Sampling, labelled: bool) -> Iterable[Unit]:
    for number, clip in enumerate(clips):
        frames = [i for i in range(len(clip.stems)) if not labelled or clip.is_labelled(i)]
        match sampling.mode:
            case "frames":
                yield from (Unit(number, (i,)) for i in frames)
            case "stride":
                yield from (Unit(number, (i,)) for i in frames if i % sampling.stride == 0)
            case "anchor" | "target" | "window":
                if frames:
                    yield Unit(number, tuple(frames))


def class_presence(dataset: VideoDataset, units: Sequence[Unit], policy: Policy) -> Bool[np.ndarray, "N C"]:
    """Which classes occur in which unit; reads every labelled mask once. A mask left out by the policy shows no class."""
    presence = np.zeros((len(units), len(dataset.label_set)), bool)
    for number, unit in enumerate(units):
        for index in unit.frames:
            labels, _ = read_labels(dataset.clips[unit.clip], index, policy)
            if labels is not None:
                presence[number] |= np.bincount(labels.ravel(), minlength=256)[: presence.shape[1]] > 0
    return presence


def repeat_weights(presence: Bool[np.ndarray, "N C"], threshold: float) -> Float64[np.ndarray, "N"]:
    """Repeat factor of each unit: the largest max(1, sqrt(threshold / f_c)) among its classes, f_c = share of units that show c (LVIS)."""
    share = presence.mean(axis=0)
    factor = np.sqrt(np.maximum(threshold / np.maximum(share, 1e-12), 1.0))
    return np.maximum(np.where(presence, factor, 1.0).max(axis=1), 1.0)


def class_balanced_weights(presence: Bool[np.ndarray, "N C"]) -> Float64[np.ndarray, "N"]:
    """Probability of each unit when a class is drawn first and then one of the units that show it; a unit without any class gets 0."""
    count = presence.sum(axis=0)
    weights = (presence / np.maximum(count, 1)).sum(axis=1)
    return weights if weights.any() else np.ones(len(presence))


def source_weights(weights: Sequence[float], phases: Sequence[Phase], step: int) -> tuple[float, ...]:
    """Weights of the training sources in optimiser step `step`: the first phase that is not over, then the last one for good."""
    if not phases:
        return tuple(weights)
    ordered = sorted(phases, key=lambda phase: phase.until)
    return next((phase.weights for phase in ordered if step < phase.until), ordered[-1].weights)


def choose_frames(unit: Unit, length: int, sampling: Sampling, generator: np.random.Generator) -> tuple[int, ...]:
    """Positions of a sample's frames in a clip of `length` frames: oldest first, or newest first when turned round in time.

    A neighbour that would lie outside the clip is replaced by the clip's first or last frame.
    """
    target = unit.frames[int(generator.integers(len(unit.frames)))]
    match sampling.mode:
        case "frames" | "stride":
            return (target,)
        case "anchor":
            frames = [target, *(target + offset for offset in sorted(abs(o) for o in sampling.offsets))]
        case "target":
            frames = [*(target - offset for offset in sorted((abs(o) for o in sampling.offsets), reverse=True)), target]
        case "window":
            frames = _window(target, length, sampling, generator)
    inside = tuple(min(max(frame, 0), length - 1) for frame in frames)
    return inside[::-1] if generator.random() < sampling.reverse else inside


def _window(target: int, length: int, sampling: Sampling, generator: np.random.Generator) -> list[int]:
    """The target and others within +-window, without repeats while there are enough of them."""
    near = [i for i in range(max(target - sampling.window, 0), min(target + sampling.window + 1, length)) if i != target]
    wanted = sampling.frames - 1
    others = generator.choice(near, wanted, replace=len(near) < wanted).tolist() if near and wanted else [target] * wanted
    return sorted([target, *others])
