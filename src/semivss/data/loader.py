"""A recipe's data sections in, training batches out: a labelled and an unlabelled stream, the same for any number of workers.

A micro-batch is one forward pass; step s with accumulation a holds the micro-batches s*a .. s*a + a-1. Slot j of micro-batch m is a
function of (seed, stream, m, j): which frames (`data/sampling.py`) and which augmentation (a generator of its own).
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from semivss.data.augment import augment_clip
from semivss.data.clips import Clip, VideoDataset
from semivss.data.labels import IGNORE, LabelSet
from semivss.data.policy import Defect, DefectCounter, Pair, Policy, read_pair
from semivss.data.sampling import Choice, Unit, build_units, choose_frames, source_weights
from semivss.data.source import open_source
from semivss.errors import DataError, DefectError, RecipeError, SemivssError
from semivss.settings import Data, Source, Train
from semivss.tensors import Batch

LABELLED, UNLABELLED = 0, 1  # stream numbers: part of every seed, so that the two streams draw independently
Read = tuple[Pair | None, tuple[Defect, ...]]
ATTEMPTS = 20  # samples tried in place of one that the reading policy leaves out


def open_sources(sources: Sequence[Source], policy: Policy) -> tuple[VideoDataset, ...]:
    """Open data sets that are to be mixed. Raises DataError unless they share one list of classes."""
    datasets = tuple(open_source(source, policy) for source in sources)
    for dataset in datasets[1:]:
        if dataset.label_set.names != datasets[0].label_set.names:
            first, other = datasets[0], dataset
            raise DataError(
                f"{other.name} has the classes of {other.label_set.name}, {first.name} those of {first.label_set.name}; "
                "give the source a remap, or train on them separately"
            )
    return datasets


class Batches:
    """Micro-batches of one stream from a given step to the end of training, in order. Closes its workers when the loop ends.

    `defects` grows with the damaged files met in the batches handed out so far.
    """

    def __init__(self, samples: "Samples", first: int, last: int, workers: int) -> None:
        self.label_set: LabelSet = samples.datasets[0].label_set
        self.defects = DefectCounter()
        for dataset in samples.datasets:
            self.defects.add((kind, path) for kind, paths in dataset.defects.items() for path in paths)
        self._samples, self._range, self._workers = samples, range(first, last), workers

    def __iter__(self) -> Iterator[Batch]:
        loader: DataLoader[Loaded] = DataLoader(
            self._samples,
            batch_size=None,  # an item is a whole micro-batch already
            sampler=self._range,
            num_workers=self._workers,
            worker_init_fn=_prepare_worker if self._workers else None,
            prefetch_factor=2 if self._workers else None,
            # Forked workers are children of this very process and leave when it is killed; those of a fork server would stay for ever.
            multiprocessing_context="fork" if self._workers and sys.platform == "linux" else None,
        )
        for loaded in loader:
            if isinstance(loaded.outcome, SemivssError):
                raise loaded.outcome
            self.defects.add(loaded.defects)
            yield loaded.outcome


def labelled_batches(
    data: Data, train: Train, start_step: int = 0, rank: int = 0, world: int = 1, *, datasets: Sequence[VideoDataset] | None = None
) -> Batches:
    """The labelled stream from `start_step` on: `train.batch / world` clips a micro-batch, the slice of process `rank`.

    Frames of a clip without a mask carry labels of 255. `datasets` saves opening the sources again.

    Raises:
        DataError: a source cannot be read or offers nothing to train on.
        RecipeError: the batch cannot be shared out evenly among the processes.
    """
    sources = open_sources(data.train, data.policy) if datasets is None else datasets
    return _batches(Samples(data, train, sources, LABELLED, rank, world), train, start_step, data.workers)


def unlabelled_batches(
    data: Data, train: Train, start_step: int = 0, rank: int = 0, world: int = 1, *, datasets: Sequence[VideoDataset] | None = None
) -> Batches:
    """The unlabelled stream: as `labelled_batches` over `data.unlabelled`; no mask is opened, all labels are 255."""
    sources = open_sources(data.unlabelled, data.policy) if datasets is None else datasets
    return _batches(Samples(data, train, sources, UNLABELLED, rank, world), train, start_step, data.workers)


def _batches(samples: "Samples", train: Train, start_step: int, workers: int) -> Batches:
    return Batches(samples, start_step * train.accumulate, train.steps * train.accumulate, workers)


@dataclass(frozen=True)
class Loaded:
    """What a worker sends: exceptions travel as values, because torch would rewrap them into a page of traceback."""

    outcome: Batch | SemivssError
    defects: tuple[Defect, ...]


class Samples(Dataset[Loaded]):
    """Micro-batch number in, this process' part of that micro-batch out."""

    def __init__(self, data: Data, train: Train, datasets: Sequence[VideoDataset], stream: int, rank: int, world: int) -> None:
        if train.batch % world:
            raise RecipeError(f"train.batch {train.batch} must be a multiple of the {world} processes that share it")
        if not datasets:
            raise DataError("recipe: no data sources for this stream; add [[data.train]] or [[data.unlabelled]]")
        self.datasets = tuple(datasets)
        self._data, self._train, self._stream = data, train, stream
        self._slots = range(rank * train.batch // world, (rank + 1) * train.batch // world)
        self._units = [
            build_units(dataset, data.sampling, data.policy, (train.seed, stream, number), labelled=stream == LABELLED)
            for number, dataset in enumerate(datasets)
        ]
        self._cache = _Cache(data.cache_mb * 2**20)

    def __getitem__(self, micro: int) -> Loaded:
        defects: list[Defect] = []
        try:
            clips = [self._sample(micro, slot, defects) for slot in self._slots]
        except SemivssError as error:
            return Loaded(error, tuple(defects))
        frames, labels, ids = zip(*clips, strict=True)
        return Loaded(Batch(torch.stack(frames), torch.stack(labels), ids), tuple(defects))

    def _sample(self, micro: int, slot: int, defects: list[Defect]) -> tuple[UInt8[Tensor, "T 3 h w"], UInt8[Tensor, "T h w"], str]:
        for attempt in range(ATTEMPTS):
            generator = np.random.default_rng((self._train.seed, self._stream, micro, slot, attempt))
            choice = self._choose(micro, slot, attempt, generator)
            pairs = self._read(choice, defects)
            if pairs is None:
                continue
            frames, labels = augment_clip([p.frame for p in pairs], [_labels(p) for p in pairs], self._data.augment, generator)
            dataset = self.datasets[choice.source]
            clip = dataset.clips[choice.clip]
            name = f"{dataset.name}/{clip.name}/{clip.stems[choice.frames[-1]]}"
            return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))), torch.from_numpy(labels), name
        raise DataError(
            f"{self.datasets[choice.source].name}: {ATTEMPTS} samples in a row were left out because of damaged files, the last one "
            f"{defects[-1].path} ({defects[-1].kind}); look at the whole set with `semivss data check`"
        )

    def _choose(self, micro: int, slot: int, attempt: int, generator: np.random.Generator) -> Choice:
        """Which frames sample (micro, slot) consists of; attempts after the first leave the epoch's order."""
        sources = self._data.train if self._stream == LABELLED else self._data.unlabelled
        phases = self._data.phases if self._stream == LABELLED else ()
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
            read = read_pair if self._stream == LABELLED else _read_frame
            cached = self._cache.keep(key, read(self.datasets[source].clips[clip], frame, self._data.policy))
        defects.extend(cached[1])
        return cached[0]


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


def _prepare_worker(worker: int) -> None:
    """OpenCV's thread pool does not survive a fork; and signals are for the main process, which ends the workers itself."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
