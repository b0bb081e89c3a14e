"""A micro-batch number in, one process' part of that micro-batch out: labelled crops, or unlabelled ones weak and strong.

Slot j of micro-batch m is a function of (seed, stream, m, j): which frames (`sampling.py`) and which augmentation (a generator of
its own, `augment.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8, UInt16
from torch import Tensor
from torch.utils.data import Dataset

from semivss.data.augment import UnlabelledCrops, augment_clip, augment_unlabelled
from semivss.data.clips import Clip, VideoDataset
from semivss.data.labels import IGNORE
from semivss.data.policy import Defect, Pair, Policy, read_pair
from semivss.data.sampling import Choice, Unit, build_units, choose_frames, source_weights
from semivss.errors import DataError, DefectError, RecipeError, SemivssError
from semivss.settings import Data, Semi, Train
from semivss.tensors import Batch, UnlabelledBatch

LABELLED, UNLABELLED = 0, 1  # stream numbers: part of every seed, so that the two streams draw independently
Read = tuple[Pair | None, tuple[Defect, ...]]
ATTEMPTS = 20  # samples tried in place of one that the reading policy leaves out
AnyBatch = TypeVar("AnyBatch", Batch, UnlabelledBatch)


@runtime_checkable
class StoredLabels(Protocol):
    """Pseudo labels of a data set's frames; `data/pseudo.py` reads them from a folder."""

    def labels(self, video: str, stem: str) -> UInt8[np.ndarray, "H W"]:
        """Class ids, 255 = none."""
        ...

    def codes(self, video: str, stem: str) -> UInt16[np.ndarray, "H W"]:
        """Entropies as whole numbers that grow with them."""
        ...


@dataclass(frozen=True)
class Loaded(Generic[AnyBatch]):
    """What a worker sends: exceptions travel as values, because torch would rewrap them into a page of traceback."""

    outcome: AnyBatch | SemivssError
    defects: tuple[Defect, ...]


class Samples(Dataset[Loaded[AnyBatch]]):
    """Micro-batch number in, this process' part of that micro-batch out."""

    stream: int
    batch_key = "train.batch"

    def __init__(self, data: Data, train: Train, datasets: Sequence[VideoDataset], rank: int, world: int) -> None:
        if train.batch % world:
            raise RecipeError(f"{self.batch_key} {train.batch} must be a multiple of the {world} processes that share it")
        if not datasets:
            raise DataError("recipe: no data sources for this stream; add [[data.train]] or [[data.unlabelled]]")
        self.datasets = tuple(datasets)
        self._data, self._train = data, train
        self._slots = range(rank * train.batch // world, (rank + 1) * train.batch // world)
        self._units = [
            build_units(dataset, data.sampling, data.policy, (train.seed, self.stream, number), labelled=self.stream == LABELLED)
            for number, dataset in enumerate(datasets)
        ]
        self._cache = _Cache(data.cache_mb * 2**20)

    def __getitem__(self, micro: int) -> Loaded[AnyBatch]:
        defects: list[Defect] = []
        try:
            return Loaded(self.batch(micro, defects), tuple(defects))
        except SemivssError as error:
            return Loaded(error, tuple(defects))

    def batch(self, micro: int, defects: list[Defect]) -> AnyBatch:
        """This process' part of micro-batch number `micro`; defects met are added to `defects`."""
        raise NotImplementedError

    def samples(self, micro: int, defects: list[Defect]) -> Iterator[tuple[Choice, list[Pair], np.random.Generator]]:
        """The chosen frames of each slot as read, with the generator for what is drawn next."""
        for slot in self._slots:
            yield self._sample(micro, slot, defects)

    def name(self, choice: Choice) -> str:
        """`<data set>/<video>/<stem>` of a sample's last frame."""
        clip = self.datasets[choice.source].clips[choice.clip]
        return f"{self.datasets[choice.source].name}/{clip.name}/{clip.stems[choice.frames[-1]]}"

    def _sample(self, micro: int, slot: int, defects: list[Defect]) -> tuple[Choice, list[Pair], np.random.Generator]:
        for attempt in range(ATTEMPTS):
            generator = np.random.default_rng((self._train.seed, self.stream, micro, slot, attempt))
            choice = self._choose(micro, slot, attempt, generator)
            pairs = self._read(choice, defects)
            if pairs is not None:
                return choice, pairs, generator
        raise DataError(
            f"{self.datasets[choice.source].name}: {ATTEMPTS} samples in a row were left out because of damaged files, the last one "
            f"{defects[-1].path} ({defects[-1].kind}); look at the whole set with `semivss data check`"
        )

    def _choose(self, micro: int, slot: int, attempt: int, generator: np.random.Generator) -> Choice:
        """Which frames sample (micro, slot) consists of; attempts after the first leave the epoch's order."""
        sources = self._data.train if self.stream == LABELLED else self._data.unlabelled
        phases = self._data.phases if self.stream == LABELLED else ()
        weights = np.array(source_weights([source.weight for source in sources], phases, micro // self._train.accumulate))
        source = int(generator.choice(len(weights), p=weights / weights.sum()))
        units = self._units[source]
        unit: Unit = units.pick(micro * self._train.batch + slot) if attempt == 0 else units.any(generator)
        length = len(self.datasets[source].clips[unit.clip].stems)
        return Choice(source, unit.clip, choose_frames(unit, length, self._data.sampling, generator))

    def _read(self, choice: Choice, defects: list[Defect]) -> list[Pair] | None:
        """The frames of a sample with their labels; none when the policy leaves one of them out."""
        pairs = [self._pair((choice.source, choice.clip, frame), defects) for frame in choice.frames]
        whole = [pair for pair in pairs if pair is not None]
        return whole if len(whole) == len(pairs) else None

    def _pair(self, key: tuple[int, int, int], defects: list[Defect]) -> Pair | None:
        source, clip, frame = key
        cached = self._cache.get(key)
        if cached is None:
            read = read_pair if self.stream == LABELLED else _read_frame
            cached = self._cache.keep(key, read(self.datasets[source].clips[clip], frame, self._data.policy))
        defects.extend(cached[1])
        return cached[0]


class LabelledSamples(Samples[Batch]):
    """Frames with their masks, all in one changed light."""

    stream = LABELLED

    def batch(self, micro: int, defects: list[Defect]) -> Batch:
        frames, labels, ids = [], [], []
        for choice, pairs, generator in self.samples(micro, defects):
            crops, masks = augment_clip([p.frame for p in pairs], [_labels(p) for p in pairs], self._data.augment, generator)
            frames.append(_channels_first(crops))
            labels.append(torch.from_numpy(masks))
            ids.append(self.name(choice))
        return Batch(torch.stack(frames), torch.stack(labels), tuple(ids))


class UnlabelledSamples(Samples[UnlabelledBatch]):
    """Frames without their masks, weak and strong, with stored pseudo labels if there are any."""

    stream = UNLABELLED
    batch_key = "semi.unlabelled_batch"

    def __init__(
        self,
        data: Data,
        train: Train,
        datasets: Sequence[VideoDataset],
        rank: int,
        world: int,
        semi: Semi,
        pseudo: Sequence[StoredLabels] | None,
    ) -> None:
        super().__init__(data, train, datasets, rank, world)
        self._strong, self._pseudo = semi.strong, pseudo

    def batch(self, micro: int, defects: list[Defect]) -> UnlabelledBatch:
        crops, ids = [], []
        for choice, pairs, generator in self.samples(micro, defects):
            frames = [pair.frame for pair in pairs]
            crops.append(augment_unlabelled(frames, self._maps(choice, frames), self._data.augment, self._strong, generator))
            ids.append(self.name(choice))
        return _joined(crops, tuple(ids))

    def _maps(
        self, choice: Choice, frames: Sequence[UInt8[np.ndarray, "H W 3"]]
    ) -> list[tuple[UInt8[np.ndarray, "H W"], UInt16[np.ndarray, "H W"]]] | None:
        """Stored labels and codes of the chosen frames; not cached, since they are small files beside the decoded frames."""
        if self._pseudo is None:
            return None
        stored, clip = self._pseudo[choice.source], self.datasets[choice.source].clips[choice.clip]
        maps = [(stored.labels(clip.name, clip.stems[i]), stored.codes(clip.name, clip.stems[i])) for i in choice.frames]
        for i, frame, (labels, codes) in zip(choice.frames, frames, maps, strict=True):
            if not labels.shape == codes.shape == frame.shape[:2]:
                sizes = (f"{height}x{width}" for height, width in (frame.shape[:2], labels.shape, codes.shape))
                raise DataError(
                    f"{self.datasets[choice.source].name}/{clip.name}/{clip.stems[i]}: the frame has {next(sizes)} pixels, "
                    f"its pseudo label {next(sizes)}, its entropies {next(sizes)}; "
                    "the frames have changed since: label them again (--from pseudo-label)"
                )
        return maps


def _joined(crops: Sequence[UnlabelledCrops], ids: tuple[str, ...]) -> UnlabelledBatch:
    return UnlabelledBatch(
        torch.cat([_channels_first(crop.weak) for crop in crops]),
        torch.cat([_channels_first(crop.strong) for crop in crops], dim=1),
        torch.cat([torch.from_numpy(crop.inside) for crop in crops]),
        torch.cat([torch.from_numpy(crop.labels) for crop in crops]),
        torch.cat([torch.from_numpy(crop.codes.astype(np.float32)) for crop in crops]),
        ids,
    )


def _channels_first(frames: UInt8[np.ndarray, "*lead h w 3"]) -> UInt8[Tensor, "*lead 3 h w"]:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, -3)))


class _Cache:
    """Decoded frames up to a number of bytes; what comes after that is read again each time. One a loader process."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._pairs: dict[tuple[int, int, int], Read] = {}

    def get(self, key: tuple[int, int, int]) -> Read | None:
        return self._pairs.get(key)

    def keep(self, key: tuple[int, int, int], read: Read) -> Read:
        pair = read[0]
        size = 0 if pair is None else pair.frame.nbytes + (0 if pair.labels is None else pair.labels.nbytes)
        if size <= self._left:
            self._left -= size
            self._pairs[key] = read
        return read


def _read_frame(clip: Clip, index: int, policy: Policy) -> Read:
    """A frame without its mask, which is not opened even where there is one."""
    try:
        return Pair(clip.frame(index), None), ()
    except DefectError as error:
        if policy == "strict":
            raise
        return None, (Defect(error.kind, error.path),)


def _labels(pair: Pair) -> UInt8[np.ndarray, "H W"]:
    return np.full(pair.frame.shape[:2], IGNORE, np.uint8) if pair.labels is None else pair.labels
